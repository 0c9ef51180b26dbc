"""The first pass of a picture of Hires. fix is found where it was made, and taken for no other."""

from dataclasses import replace

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.types import Canvas, Hires, Prompt, Request, Sampling
from sfumato.ui.first_pass import first_pass

HIRES = Hires(enabled=True, scale=2.0, upscaler="Latent", denoising_strength=0.6)
PLAIN = Request(
    prompt=Prompt(text="a cat"), canvas=Canvas(width=64, height=64, seed=1), sampling=Sampling(steps=1)
)


def made(engine: Engine, request: Request, owner: str) -> Job:
    return engine.wait(engine.submit(request, owner=owner).id, 100)


def test_it_is_the_same_request_without_the_second(engine: Engine) -> None:
    plain = made(engine, replace(PLAIN, canvas=replace(PLAIN.canvas, batch_count=2)), "ann")
    made(engine, replace(PLAIN, prompt=Prompt(text="a dog")), "ann")
    made(engine, replace(PLAIN, sampling=Sampling(steps=2)), "ann")
    enlarged = made(engine, replace(PLAIN, hires=HIRES, canvas=replace(PLAIN.canvas, batch_size=2)), "ann")
    for before, after in zip(plain.made, enlarged.made, strict=True):
        assert after.width == 2 * before.width
        assert first_pass(engine.gallery, enlarged, after) == engine.settings.outputs / before.file
    assert first_pass(engine.gallery, plain, plain.made[0]) is None


def test_anothers_is_not_taken(engine: Engine) -> None:
    made(engine, PLAIN, "ann")
    enlarged = made(engine, replace(PLAIN, hires=HIRES), "bob")
    assert first_pass(engine.gallery, enlarged, enlarged.made[0]) is None
