"""The visitor's jobs as the page lists them, and downloads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.app.pulls import Pulls
from sfumato.app.settings import Settings
from sfumato.types import Canvas, Prompt, Request, Sampling
from sfumato.ui import lists
from sfumato.ui.site import Visit
from sfumato.weights.hub import PullStep

ANN, BOB = Visit(owner="ann", role="user"), Visit(owner="bob", role="user", language="de")
SMALL = Request(canvas=Canvas(width=64, height=64), sampling=Sampling(steps=1))
HOSTILE = Request(prompt=Prompt(text="<b>a\n red  house <lora:nosuch:1>"), sampling=Sampling(steps=1))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Engine]:
    """One that has made a picture and failed once for Ann, and makes nothing more."""
    folder = tmp_path_factory.mktemp("queue")
    settings = Settings(
        data=folder / "data", outputs=folder / "outputs", models=tiny_checkpoint.parent,
        checkpoint="tiny", device="cpu", dtype="float32",
    )  # fmt: skip
    with Engine(settings) as first:
        for request in (SMALL, HOSTILE):
            first.wait(first.submit(request, owner="ann").id, 100)
    engine = Engine(settings)
    engine.start(listen=False)
    yield engine
    engine.close()


def test_jobs_stand_as_they_are_made_and_others_jobs_do_not(engine: Engine) -> None:
    waiting = [engine.submit(SMALL, owner="ann").id for _ in range(3)]
    engine.submit(SMALL, owner="bob")
    engine.line.first(waiting[2], "ann")
    told = lists.jobs(engine, ANN)
    assert told["active"]
    first, second = told["groups"]
    assert (first["title"], second["title"]) == ("Waiting: 3", "Ended")
    assert [row["id"] for row in first["rows"]] == [waiting[2], *waiting[:2]]
    assert first["rows"][0]["line"].startswith("Waiting: 0 before it · about ")
    assert [name for name, _ in first["rows"][0]["actions"]] == ["cancel", "again_txt2img"]
    assert [name for name, _ in first["rows"][1]["actions"]] == ["first", "cancel", "again_txt2img"]
    failed, done = second["rows"]
    assert failed["title"] == "<b>a red house <lora:nosuch:1>"
    assert failed["fault"].endswith("(model_not_found)")
    assert "nosuch" in failed["fault"]
    assert failed["link"] is None
    assert [name for name, _ in done["actions"]] == ["open", "again_txt2img"]
    assert done["link"] == f"api/v1/pictures/{done['id']}/0"
    assert done["about"] == "txt2img · 64×64 · pictures: 1/1"
    assert engine.gallery.get(done["picture"].split("/")[3]).job == done["id"]
    assert [len(group["rows"]) for group in lists.jobs(engine, BOB)["groups"]] == [1]
    assert lists.jobs(engine, BOB)["groups"][0]["title"] == "Wartet: 1"


def test_a_job_that_ends_while_jobs_are_read_stands_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, read = engine.submit(SMALL, owner="dora"), engine.jobs

    def jobs(**wanted: Any) -> list[Job]:
        found = read(**wanted)
        engine.cancel(job.id)
        return found

    monkeypatch.setattr(engine, "jobs", jobs)
    (group,) = lists.jobs(engine, Visit(owner="dora", role="user"))["groups"]
    assert (group["title"], [row["id"] for row in group["rows"]]) == ("Ended", [job.id])


def test_who_has_no_jobs_is_told_what_will_stand_there(engine: Engine) -> None:
    told = lists.jobs(engine, Visit(owner="carl", role="user"))
    assert (told["groups"], told["active"]) == ([], False)
    assert told["empty"].startswith("Nothing yet")


def test_downloads_are_told_to_admins_alone(engine: Engine, tmp_path: Path) -> None:
    def pull(repo: str, file: str | None, *, folder: Path) -> Iterator[PullStep]:
        yield PullStep(file="a", done=2_000_000, total=4_000_000)
        yield PullStep(file="a", done=4_000_000, total=4_000_000, path=folder / "a.safetensors")

    engine.pulls = Pulls(tmp_path, pull)
    engine.pulls.wait(engine.pulls.start("some/model").id, 100)
    (group,) = lists.pulls(engine, Visit())["groups"]
    (row,) = group["rows"]
    assert (row["title"], row["line"]) == ("some/model", "Ready: a")
    assert row["actions"] == [("use", "Use it")]
    assert lists.pulls(engine, ANN)["groups"] == []
