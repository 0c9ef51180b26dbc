"""The line of waiting jobs: an owner changes its own places in it, and nobody else's."""

from collections.abc import Iterator

import pytest

from sfumato.app.engine import Engine
from sfumato.app.settings import Settings
from sfumato.errors import ConflictError, JobNotFoundError
from sfumato.types import Canvas, Request, Sampling

SMALL = Request(canvas=Canvas(width=64, height=64), sampling=Sampling(steps=1))


@pytest.fixture(params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings with a database of each kind."""
    url = None if request.param == "sqlite" else request.getfixturevalue("database_url")
    return settings.model_copy(update={"database_url": url})


@pytest.fixture
def engine(house: Settings) -> Iterator[Engine]:
    """One that makes nothing yet."""
    engine = Engine(house)
    engine.start(listen=False)
    yield engine
    engine.close()


def order(engine: Engine) -> list[str]:
    """All that wait, by their places."""
    waiting = engine.jobs(states=["queued"])
    return [each.id for each in sorted(waiting, key=lambda job: job.position or 0)]


def test_a_job_that_is_moved_passes_its_owners_jobs_alone(engine: Engine) -> None:
    a1, b1, a2, b2, a3 = (engine.submit(SMALL, owner=owner).id for owner in "ababa")
    low = engine.submit(SMALL, owner="a", priority=-3).id
    assert order(engine) == [a1, b1, a2, b2, a3, low]
    assert engine.line.next("a", 3) == [a1, a2, a3]
    engine.line.first(a3, "a")
    assert order(engine) == [b1, a3, a1, b2, a2, low]  # of two that are at the same turn, the older is first
    engine.line.first(low, "a")
    assert order(engine) == [b1, low, b2, a3, a1, a2]
    engine.line.first(low, "a")
    assert order(engine) == [b1, low, b2, a3, a1, a2]


def test_jobs_are_made_in_the_order_that_is_shown(house: Settings, engine: Engine) -> None:
    ids = [engine.submit(SMALL, owner="a").id for _ in range(3)]
    engine.line.first(ids[2], "a")
    engine.close()  # what it gives up is closed once more at the end
    with Engine(house) as again:  # the line outlives the process
        done = [again.wait(job_id, 100) for job_id in ids]
    assert [each.state for each in done] == ["done"] * 3
    began = sorted(done, key=lambda job: job.started or 0.0)
    assert [each.id for each in began] == [ids[2], ids[0], ids[1]]


def test_only_what_waits_can_be_moved_and_only_by_its_owner(engine: Engine) -> None:
    ids = [engine.submit(SMALL, owner="a").id for _ in range(2)]
    with pytest.raises(JobNotFoundError):
        engine.line.first(ids[1], "b")
    engine.cancel(ids[1])
    with pytest.raises(ConflictError, match="does not wait any more"):
        engine.line.first(ids[1], "a")


def test_clearing_the_line_leaves_other_owners_jobs(engine: Engine) -> None:
    mine = [engine.submit(SMALL, owner="a").id for _ in range(2)]
    other = engine.submit(SMALL, owner="b").id
    assert sorted(engine.line.clear("a")) == sorted(mine)
    assert order(engine) == [other]
    assert {engine.job(each).state for each in mine} == {"cancelled"}
