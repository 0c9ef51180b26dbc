"""How far a job is, asked again and again: the short way says what the long one says, and costs no look."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.app.standing import Standing, Standings
from sfumato.server.kept import Kept
from sfumato.types import Canvas, Request, Sampling

PATH = "/sdapi/v1/progress"


@pytest.fixture
def running(engine: Engine) -> Iterator[str]:
    job = engine.submit(
        Request(sampling=Sampling(steps=900), canvas=Canvas(seed=1, width=64, height=64)), owner="ann"
    )
    for event in engine.watch(job.id, every=0):
        if event.progress is not None and event.progress.preview:
            break
    yield job.id
    engine.cancel(job.id)
    engine.wait(job.id, 600)


@pytest.fixture
def still(engine: Engine, running: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's progress as it is now, for ever."""
    now = engine.progress(running)
    monkeypatch.setattr(engine, "progress", lambda job_id: now)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("", "?skip_current_image=0"),
        ("?skip_current_image=false", "?skip_current_image=no"),
        ("?skip_current_image=true", "?skip_current_image=1"),
    ],
)
@pytest.mark.parametrize("owner", ["ann", "bob"])
@pytest.mark.usefixtures("still")
def test_both_ways_say_the_same(client: TestClient, short: str, long: str, owner: str) -> None:
    headers = {"X-Test-Owner": owner}
    answers = [client.get(PATH + query, headers=headers) for query in (long, short)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert dict(answers[0].headers, **{"x-process-time": ""}) == dict(
        answers[1].headers, **{"x-process-time": ""}
    )
    told = answers[0].json()
    assert (told["progress"] > 0) == (owner == "ann")
    assert (told["current_image"] is not None) == (owner == "ann" and "1" not in long)


def test_who_asks_again_and_again_costs_no_look_and_no_writing(
    client: TestClient, engine: Engine, still: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    look = Standings.look

    def counted(self: Standings, owner: str) -> Standing:
        looks.append(owner)
        return look(self, owner)

    monkeypatch.setattr(Standings, "look", counted)
    monkeypatch.setattr(engine.standings, "clock", lambda: 0.0)
    engine.board.touch("another")
    answers = [client.get(PATH, headers={"X-Test-Owner": "ann"}).content for _ in range(20)]
    assert len({*answers}) == 1
    assert looks == ["ann"]


def test_an_end_is_told_at_once(client: TestClient, engine: Engine, running: str) -> None:
    headers = {"X-Test-Owner": "ann"}
    assert client.get(PATH, headers=headers).json()["progress"] > 0
    engine.cancel(running)
    engine.wait(running, 600)
    assert client.get(PATH, headers=headers).json()["progress"] == 0


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_the_short_way_is_for_reading_alone(client: TestClient, method: str) -> None:
    assert getattr(client, method)(PATH).status_code == 405


def test_an_answer_is_written_again_only_when_it_tells_of_something_else() -> None:
    kept, written = Kept(), iter(range(10))

    def write() -> bytes:
        return b"%d" % next(written)

    one, equal = [1], [1]
    assert [kept.of("a", (one, None), write) for _ in range(3)] == [b"0"] * 3
    assert kept.of("b", (one, None), write) == b"1"  # another asks for another answer
    assert kept.of("a", (equal, None), write) == b"2"
    assert kept.of("a", (equal, one), write) == b"3"
