"""What the page is told of the running job, wherever and whenever it asks."""

import math

import pytest

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job, Progress
from sfumato.types import Canvas, Hires, Prompt, Request, Sampling
from sfumato.ui.live import current, now, rate, signature, span, tab_of
from sfumato.ui.site import Visit

SMALL = Request(canvas=Canvas(width=64, height=64), sampling=Sampling(steps=1))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (65.2, "1:05"), (3725, "1:02:05"), (None, "–"), (math.inf, "–")]
)
def test_durations_are_written_as_people_read_them(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_the_rate_is_what_is_left_by_the_time_that_is_left() -> None:
    job = Job(id="a", number=1, owner="local", kind="txt2img", request=Request())
    progress = Progress(job="a", share=0.5, step=10, steps=20, batch=1, batches=1, seconds_left=5)
    assert rate(job, progress) == 2
    twice = Job(id="a", number=1, owner="local", kind="txt2img", request=Request(hires=Hires(enabled=True)))
    assert rate(twice, progress) == 4
    assert rate(job, Progress(job="a")) == 0


def test_a_tab_shows_its_owners_jobs_alone(engine: Engine) -> None:
    ann, bob = Visit(owner="ann", role="user"), Visit(owner="bob", role="user")
    assert now(engine, ann, "txt2img")["signature"] == ""
    job = engine.wait(engine.submit(SMALL, owner="ann").id, 100)
    assert current(engine, "ann", "txt2img") == job
    assert current(engine, "ann", "img2img") is None
    told = now(engine, ann, "txt2img")
    assert told["signature"] == signature(job) == f"{job.id}:done:1"
    assert told["line"].startswith("Done in")
    assert now(engine, bob, "txt2img")["signature"] == ""


def test_a_fault_is_told_in_words_with_its_code(engine: Engine) -> None:
    visit = Visit(owner="carl", role="user", language="de")
    request = Request(
        prompt=Prompt(text="<b>x <lora:nosuch:1>"), canvas=SMALL.canvas, sampling=SMALL.sampling
    )
    engine.wait(engine.submit(request, owner="carl").id, 100)
    told = now(engine, visit, "txt2img")
    assert told["line"] == "Fehlgeschlagen"
    assert told["fault"].endswith("(model_not_found)")


def test_what_waits_is_shown_before_what_has_ended(engine: Engine) -> None:
    first = engine.wait(engine.submit(SMALL, owner="dora").id, 100)
    running = engine.submit(Request(canvas=Canvas(width=64, height=64, batch_count=1000)), owner="dora")
    try:
        assert current(engine, "dora", "txt2img") != first
        assert now(engine, Visit(owner="dora"), "txt2img")["active"]
    finally:
        engine.cancel(running.id)
        engine.wait(running.id, 100)


def test_pictures_from_pictures_belong_to_img2img(engine: Engine) -> None:
    assert tab_of(Job(id="a", number=1, owner="local", kind="x", request=Request())) == "txt2img"


def test_what_was_interrupted_is_kept_and_what_waited_is_cancelled(engine: Engine) -> None:
    running = engine.submit(Request(canvas=Canvas(width=64, height=64, batch_count=1000)), owner="emil")
    waiting = engine.submit(SMALL, owner="fritz")
    while not (engine.progress(running.id) or Progress(job="")).step:
        engine.board.wait(engine.board.version(), 1.0)
    assert engine.interrupt(waiting.id, "fritz").state == "cancelled"
    engine.interrupt(running.id, "emil")
    job = engine.wait(running.id, 100)
    told = now(engine, Visit(owner="emil", role="user"), "txt2img")
    assert told["signature"] == f"{job.id}:interrupted:{len(job.made)}"
    assert told["line"].startswith("Interrupted after")
    assert job.made[-1].infotext.count("Interrupted: ") == 1
