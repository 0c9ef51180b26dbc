"""A walk comes by every stop exactly, and makes no frame twice."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sfumato.diffusion.guidance import Contexts, Part
from sfumato.errors import RequestError
from sfumato.pipeline.generate import generate
from sfumato.pipeline.infotext import parse
from sfumato.pipeline.scripts import walk
from sfumato.pipeline.scripts.interpolate import blend
from sfumato.pipeline.scripts.walk import Stop, Walk
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Result, Sampling, StepInfo

REQUEST = Request(
    prompt=Prompt(text="unused", negative="grey"),
    canvas=Canvas(width=64, height=64, seed=3),
    sampling=Sampling(sampler="Euler", steps=2),
    model=ModelChoice(checkpoint="tiny"),
)
STOPS = (
    Stop(prompt="a red cat"),
    Stop(prompt="a dog AND a tree :0.5", seed=8),
    Stop(prompt="a (house:1.2), at night", negative="", seed=8),
)


@pytest.fixture
def shelf(tiny_checkpoint: Path) -> ModelShelf:
    return ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32")


def picture(shelf: ModelShelf, text: str, negative: str, seed: int) -> Image.Image:
    asked = Request(
        prompt=Prompt(text=text, negative=negative),
        canvas=Canvas(width=64, height=64, seed=seed),
        sampling=REQUEST.sampling,
        model=REQUEST.model,
    )
    return next(each.image for each in generate(asked, shelf) if isinstance(each, Result))


def test_every_stop_is_its_own_picture_and_no_frame_is_made_twice(shelf: ModelShelf) -> None:
    way = Walk(stops=STOPS, frames=3)
    events = list(walk.run(way, REQUEST, lambda each: partial(generate, shelf=each), shelf))
    made = [each for each in events if isinstance(each, Result)]
    assert [each.index for each in made] == list(range(way.count)) == list(range(7))
    assert sum(isinstance(each, StepInfo) for each in events) == 7 * 2
    for place, stop in zip((0, 3, 6), STOPS, strict=True):
        negative = "grey" if stop.negative is None else stop.negative
        alone = picture(shelf, stop.prompt, negative, stop.seed or 3)
        assert made[place].image.tobytes() == alone.tobytes()
    assert parse(made[1].infotext).text("Blend curve") == "spherical"
    sizes = {each.image.size for each in made}
    assert sizes == {(64, 64)}
    sheet = walk.contact_sheet(way, made)
    assert sheet.width > 4 * 64
    assert sheet.height > 2 * 64
    moving = way.shown(made)
    assert len(moving) == 2 * 7 - 2
    assert moving[7] is made[5].image


def test_vectors_keep_their_length_on_the_sphere() -> None:
    def unit(seed: int) -> torch.Tensor:
        drawn = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(seed)).double()
        return drawn / drawn.norm(dim=-1, keepdim=True)

    def contexts(context: torch.Tensor) -> Contexts:
        return Contexts(positive=(Part(context=context),), negative=None)

    a, b = unit(1), unit(2)
    b[0, 0] = a[0, 0]  # the start token is the same in every text
    angle = (a * b).sum(-1).clamp(-1, 1).acos()
    for share in (0.0, 0.25, 0.5, 1.0):
        (part,) = blend(contexts(a), contexts(b), share, unit(0), spherical=True).positive
        assert torch.allclose(part.context.norm(dim=-1), torch.ones(()).double(), atol=1e-7)
        from_a = (a * part.context).sum(-1).clamp(-1, 1).acos()
        assert torch.allclose(from_a, share * angle, atol=1e-6)  # acos loses half the digits near 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stops": STOPS[:1]}, "a walk of 1 stops; choose 2 to 4"),
        ({"stops": STOPS * 2}, "a walk of 6 stops"),
        ({"stops": (STOPS[0], STOPS[0])}, "two stops in a row are the same"),
        ({"frames": 0}, "frames=0 is no whole number of 1 to 1000"),
        ({"frames": 2.5}, "frames=2.5"),
        ({"frames": "9"}, "frames=9"),
        ({"file_format": "mp4"}, "format 'mp4' is not one of gif, webp"),
        ({"fps": 0.01}, "fps=0.01"),
    ],
)
def test_a_walk_to_nowhere_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Walk(**{"stops": STOPS[:2], **given})


@pytest.mark.parametrize(
    "given",
    [{"prompt": 3}, {"prompt": "a", "seed": -1}, {"prompt": "a", "seed": True}, {"prompt": "a", "seed": "7"}],
)
def test_a_stop_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        Stop(**given)


def test_more_frames_than_are_held_at_once_are_refused() -> None:
    with pytest.raises(RequestError, match="2,001 frames of 1024×1024 are more than are held at once"):
        Walk(stops=STOPS, frames=1000).check((1024, 1024))
