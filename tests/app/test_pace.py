"""Estimates are what the work turns out to take, by a clock that the tests move."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfumato.app import runner
from sfumato.app.engine import Engine
from sfumato.app.jobs import Job, Script
from sfumato.app.pace import Meter, Pace, Taken, passes_of, share_done, units_of
from sfumato.app.scripts import MAX_REQUESTS, count_requests
from sfumato.app.settings import Settings
from sfumato.types import (
    Canvas,
    Hires,
    ModelChoice,
    Outpaint,
    Prompt,
    Request,
    Sampling,
    Source,
    StepInfo,
)

RATES = {"fast": 0.25, "slow": 4.0}  # seconds a unit


@dataclass(eq=False)
class World:
    """A pipeline that takes exactly as long as its work is large, by a clock of its own."""

    now: float = 1000.0
    slower: float = 1.0
    pause: threading.Event = field(default_factory=threading.Event)
    at: tuple[int, int] = (0, 0)  # batch and step to pause at
    paused: threading.Event = field(default_factory=threading.Event)
    told: list[tuple[float | None, float]] = field(default_factory=list)  # estimates, and what was true
    ask: Callable[[], float | None] = lambda: None

    def clock(self) -> float:
        return self.now

    def generate(self, request: Request, _shelf: object, first_batch: int = 1) -> Iterator[StepInfo]:
        passes, batches = passes_of(request), request.canvas.batch_count
        rate = RATES[request.model.checkpoint or ""] * request.canvas.batch_size * self.slower
        left = sum(passes) * (batches - first_batch + 1) * rate
        steps = request.sampling.steps
        self.now += 3.0  # getting ready
        for batch in range(first_batch, batches + 1):
            for number, work in enumerate(passes, 1):
                for step in range(1, steps + 1):
                    self.now += work * rate / steps
                    left -= work * rate / steps
                    yield StepInfo(
                        step=step,
                        steps=steps,
                        batch=batch,
                        batches=batches,
                        pass_=number,
                        passes=len(passes),
                        latents=torch.zeros(1, 4, 4, 4),
                    )
                    self.told.append((self.ask(), left))
                    if (batch, step) == self.at:
                        self.paused.set()
                        assert self.pause.wait(60)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(runner, "generate", world.generate)
    return world


@pytest.fixture
def engine(settings: Settings, tmp_path: Path, world: World) -> Iterator[Engine]:
    models = tmp_path / "models"
    models.mkdir()
    for name in RATES:
        shutil.copy(settings.models / "tiny.safetensors", models / f"{name}.safetensors")
    with Engine(settings.model_copy(update={"models": models, "checkpoint": "fast"})) as engine:
        engine._runner.clock = engine.board.clock = world.clock
        yield engine
        world.pause.set()


def request(checkpoint: str = "fast", steps: int = 4, **canvas: int) -> Request:
    return Request(
        sampling=Sampling(steps=steps),
        canvas=Canvas(**({"seed": 1, "width": 64, "height": 32} | canvas)),  # type: ignore[arg-type]
        model=ModelChoice(checkpoint=checkpoint),
    )


HIRES = replace(request(), hires=Hires(enabled=True, scale=3, denoising_strength=1.0))


def made(engine: Engine, asked: Request) -> Job:
    job = engine.wait(engine.submit(asked).id, 60)
    assert job.state == "done", job.fault
    return job


@pytest.mark.parametrize("asked", [request(batch_count=3, batch_size=2), HIRES, request("slow")])
def test_a_running_job_knows_from_its_second_step_when_it_will_be_done(
    engine: Engine, world: World, asked: Request
) -> None:
    world.ask = lambda: engine.jobs(limit=1)[0].estimate
    made(engine, asked)
    (first, _), *later = world.told
    assert first is None  # nothing was made before, and one step says nothing: it was getting ready, too
    assert [told for told, _ in later] == pytest.approx([true for _, true in later], abs=1e-9)
    world.told.clear()
    made(engine, asked)
    assert world.told[0][0] == pytest.approx(world.told[0][1], rel=0.5)  # by what the last one took


def test_between_two_steps_the_estimate_goes_down_with_the_clock(engine: Engine, world: World) -> None:
    world.at = (1, 3)
    job = engine.submit(request(steps=10))
    assert world.paused.wait(60)
    before = engine.job(job.id).estimate
    assert before is not None
    world.now += before / 4
    assert engine.job(job.id).estimate == pytest.approx(before * 3 / 4)
    world.now += before
    assert engine.job(job.id).estimate == 0.0  # and not below


def test_waiting_jobs_know_when_they_will_be_done_whatever_their_checkpoints(
    engine: Engine, world: World
) -> None:
    assert engine.submit(request()).estimate is None  # nothing is known, and nothing is said
    for asked in (request(), request("slow")):
        for _ in range(3):
            made(engine, replace(asked, canvas=replace(asked.canvas, width=4096, height=4096)))
    world.at = (2, 2)
    running = engine.submit(request(batch_count=3))
    assert world.paused.wait(60)
    left = engine.job(running.id).estimate
    assert left is not None
    asked = [request("slow"), HIRES, request(), replace(request(), sampling=Sampling(steps=4, guidance=1))]
    waiting = [engine.submit(each, priority=-1) for each in asked]
    expected = []
    for each in asked:
        left += units_of(each) * RATES[each.model.checkpoint or ""]
        expected.append(left)
    # Rates are of a few large jobs, that got ready in 3 s of some 16000.
    assert [engine.job(job.id).estimate for job in waiting] == pytest.approx(expected, rel=1e-3)
    listed = [job.estimate for job in engine.jobs(states=["queued"])]
    assert listed[::-1] == pytest.approx(expected, rel=1e-3)


def test_what_was_not_made_at_a_stretch_says_nothing_of_the_pace(engine: Engine, world: World) -> None:
    world.at = (1, 2)
    job = engine.submit(request(steps=100))
    assert world.paused.wait(60)
    engine.interrupt(job.id)
    world.pause.set()
    assert engine.wait(job.id, 60).interrupted
    assert engine._table.past() == []
    assert engine._estimates.pace.seconds({"fast": 1.0}) is None


def test_the_pace_follows_the_newest_jobs_and_guesses_by_the_others() -> None:
    pace = Pace([Taken(checkpoint="a", units=10, seconds=20)])
    assert pace.seconds({"a": 5.0}) == pytest.approx(10)
    for _ in range(20):
        pace.learn(Taken(checkpoint="a", units=10, seconds=40))
    assert pace.seconds({"a": 5.0}) == pytest.approx(20, rel=1e-3)
    pace.learn(Taken(checkpoint="b", units=10, seconds=20))
    assert pace.seconds({"b": 1.0, "a": 1.0, "c": 1.0}) == pytest.approx(2 + 4 + 3, rel=1e-3)
    pace.learn(Taken(checkpoint="b", units=0, seconds=20))  # nothing to be learnt
    assert pace.seconds({"b": 1.0}) == pytest.approx(2)
    assert Pace([]).seconds({"a": 1.0}) is None
    assert Pace([]).seconds({}) == 0.0


def test_a_meter_goes_by_its_own_steps_once_there_are_two() -> None:
    meter = Meter(None)
    assert meter.left(0.1, 100.0) is None
    assert meter.left(0.2, 101.0) == pytest.approx(8.0)
    assert meter.left(1.0, 109.0) == 0.0
    assert Meter(10.0).left(0.25, 5.0) == 7.5
    again = Meter(None)  # half of it was there when it began anew
    again.left(0.5, 0.0)
    assert again.left(0.6, 1.0) == pytest.approx(4.0)


def test_work_is_counted_in_pixels_and_steps() -> None:
    base = units_of(request())
    assert base == 64 * 32 * 4 / 1000
    assert units_of(request(batch_size=2, batch_count=3)) == 6 * base
    assert units_of(HIRES) == pytest.approx(base * (1 + 9))
    assert passes_of(replace(HIRES, hires=replace(HIRES.hires, width=128)))[1] == pytest.approx(4 * base)
    assert units_of(replace(request(), sampling=Sampling(steps=4, guidance=1))) == base / 2
    assert units_of(replace(request(), sampling=Sampling(steps=4, sampler="Heun"))) == 2 * base
    heun = replace(HIRES, hires=replace(HIRES.hires, sampler="Heun"))
    assert units_of(heun) == pytest.approx(base * (1 + 2 * 9))
    source = Image.new("RGB", (64, 32))
    assert units_of(replace(request(), source=Source(image=source, denoising_strength=0.5))) == base / 2
    exact = Source(image=source, denoising_strength=0.5, exact_steps=True)
    assert units_of(replace(request(), source=exact)) == base
    whole = Source(image=source, denoising_strength=1.0)
    wider = replace(request(), source=whole, outpaint=Outpaint(left=64))
    assert units_of(wider) == len(passes_of(wider)) * base > base


def test_the_share_that_is_done_follows_the_work_not_the_passes() -> None:
    step = StepInfo(step=2, steps=4, batch=2, batches=2, pass_=2, passes=2, latents=torch.zeros(1))
    assert share_done(step, (1.0, 9.0)) == pytest.approx((1 + (1 + 9 / 2) / 10) / 2)
    assert share_done(step, (1.0,)) == step.share


AXES = [["sampling.steps", "1,2,3"], ["canvas.seed", "1-4"], ["Nothing", ""]]


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("prompt matrix", {}, 4),
        ("prompts", {"text": "one\n\ntwo\nthree"}, 3),
        ("x/y/z plot", {"axes": AXES, "cells": True}, 12),
        ("loopback", {"loops": 7}, 7),
        ("loopback", {"loops": "many"}, 1),
        ("walk", {"stops": [{"prompt": each} for each in "abc"], "frames": 5, "cells": True}, 11),
        ("walk", {"stops": 2}, 1),
        ("sd upscale", {"scale": 2.0, "overlap": 0}, 4),
        ("faces", {"restorer": "CodeFormer"}, 1),
        ("extras", {}, 0),
    ],
)
def test_scripts_tell_how_often_they_make_the_request(
    name: str, arguments: dict[str, object], count: int
) -> None:
    asked = replace(request(), prompt=Prompt(text="a|b|c"), source=Source(image=Image.new("RGB", (64, 32))))
    assert count_requests(Script(name=name, arguments=arguments), asked) == count
    many = replace(asked, prompt=Prompt(text="|" * 5000))
    assert count_requests(Script(name="prompt matrix"), many) == MAX_REQUESTS
