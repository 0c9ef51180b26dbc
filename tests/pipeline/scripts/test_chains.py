"""Loopback and SD upscale."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pipeline.scripts.conftest import Maker

from sfumato.errors import RequestError
from sfumato.pipeline import infotext
from sfumato.pipeline.scripts import loopback, sd_upscale
from sfumato.pipeline.scripts.loopback import Loops
from sfumato.pipeline.scripts.sd_upscale import Tiling
from sfumato.pipeline.scripts.work import Sheet
from sfumato.types import Canvas, Mask, Request, Result, Sampling, Source, StepInfo

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8))
PAINTED = Request(
    source=Source(image=PHOTO, denoising_strength=0.8), canvas=Canvas(seed=5), sampling=Sampling(steps=2)
)


def test_curves_start_at_the_initial_and_end_at_the_final_strength() -> None:
    middle = {"Aggressive": 0.8 - 0.4 * 0.5**0.5, "Linear": 0.6, "Lazy": 0.8 - 0.4 * (1 - 0.5**0.5)}
    for curve, expected in middle.items():
        loops = Loops(loops=3, final_denoising_strength=0.4, curve=curve)  # type: ignore[arg-type]
        assert loopback.strengths(loops, 0.8) == pytest.approx([0.8, expected, 0.4])
    assert loopback.strengths(Loops(loops=1), 0.8) == [0.8]


def test_each_loop_starts_from_the_last_result(maker: Maker) -> None:
    painted = replace(PAINTED, canvas=Canvas(seed=5, batch_count=2), mask=Mask(image=PHOTO, content="fill"))
    events = loopback.run(Loops(loops=3), painted, maker)
    results = [event for event in events if isinstance(event, Result)]
    assert [each.canvas.seed for each in maker.asked] == [5, 6, 7, 8, 9, 10]
    sources = [each.source.image for each in maker.asked]
    assert sources == [PHOTO, results[0].image, results[1].image, PHOTO, results[3].image, results[4].image]
    assert [each.mask.content for each in maker.asked] == ["fill", "original", "original"] * 2
    assert [each.index for each in results] == list(range(6))
    told = infotext.parse(results[0].infotext)
    assert (told.text("Final denoising strength"), told.text("Denoising curve")) == ("0.5", "Linear")


def test_loopback_refuses_what_it_cannot_chain(maker: Maker) -> None:
    for bad, named in (
        (Request(), "source picture"),
        (replace(PAINTED, canvas=Canvas(batch_size=2)), "batch_size=2"),
    ):
        with pytest.raises(RequestError, match=named):
            list(loopback.run(Loops(), bad, maker))
    for values in ({"loops": 0}, {"final_denoising_strength": 2}, {"curve": "Steep"}):
        with pytest.raises(RequestError, match=next(iter(values))):
            Loops(**values)  # type: ignore[arg-type]


def repaint(request: Request) -> Iterator[StepInfo | Result]:
    """A maker that gives the source back at the canvas's size."""
    assert isinstance(request.source.image, Image.Image)
    size = request.canvas.width or 0, request.canvas.height or 0
    text = "a\nSteps: 1, Sampler: Euler, Seed: 5, Version: x"
    image = request.source.image.resize(size)
    yield Result(image=image, request=request, infotext=text, index=0, seconds=0.0)


def bicubic(image: Image.Image, width: int, height: int) -> Iterator[Any]:
    yield image.resize((width, height))


@pytest.mark.parametrize("tile", [(64, 64), (64, 128), (104, 72), (400, 400), (304, 64)])
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_tiles_that_do_not_change_join_to_the_same_picture(tile: tuple[int, int], overlap: int) -> None:
    request = replace(PAINTED, canvas=Canvas(seed=5, width=tile[0], height=tile[1]))
    *_, sheet = sd_upscale.run(Tiling(overlap=overlap), request, repaint, bicubic)
    assert isinstance(sheet, Sheet)
    wanted = np.asarray(PHOTO.resize((300, 180))).astype(int)
    assert sheet.image.size == (300, 180)
    exact = all(side % 8 == 0 for side in (min(tile[0], 300), min(tile[1], 180)))
    if exact:  # other tiles are resized to multiples of 8 and back
        assert np.abs(np.asarray(sheet.image).astype(int) - wanted).max() <= 1  # a rounding at each join


@pytest.mark.parametrize("size", [(512, 512), (1000, 700), (513, 2048)])
@pytest.mark.parametrize("overlap", [0, 64, 256])
def test_tiles_cover_everything_and_overlap_enough(size: tuple[int, int], overlap: int) -> None:
    rows = sd_upscale.boxes(size, (512, 512), overlap)
    covered = np.zeros(size[::-1], bool)
    for row in rows:
        for left, top, right, bottom in row:
            assert (right - left, bottom - top) == (512, 512)
            covered[top:bottom, left:right] = True
        assert all(a[2] - b[0] >= overlap for a, b in pairwise(row))
    assert covered.all()


def test_seams_fade_linearly() -> None:
    places = sd_upscale.boxes((112, 64), (64, 64), 16)
    black, white = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white")
    joined = np.asarray(sd_upscale.join([[black, white]], places, 16))[0, :, 0]
    assert (joined[:48] == 0).all()
    assert (joined[64:] == 255).all()
    assert joined[48:64].tolist() == [round(255 * k / 16) for k in range(16)]


def test_tiles_have_seeds_of_their_own_and_the_sheet_says_how(maker: Maker) -> None:
    request = replace(PAINTED, canvas=Canvas(seed=5, width=160, height=96, batch_count=2))
    sheets = [each for each in sd_upscale.run(Tiling(), request, maker, bicubic) if isinstance(each, Sheet)]
    assert len(sheets) == 2
    tiles = len(maker.asked) // 2
    assert [each.canvas.seed for each in maker.asked] == [*range(5, 5 + tiles), *range(6, 6 + tiles)]
    told = infotext.parse(sheets[0].infotext)
    assert (told.text("SD upscale overlap"), told.text("SD upscale upscaler")) == ("64", "Lanczos")


def test_sd_upscale_refuses_what_it_cannot_tile(maker: Maker) -> None:
    small = replace(PAINTED, canvas=Canvas(width=64, height=64))
    for bad, tiling, named in (
        (Request(), Tiling(), "source picture"),
        (replace(PAINTED, mask=Mask(image=PHOTO)), Tiling(), "no mask"),
        (small, Tiling(overlap=64), "leaves nothing"),
    ):
        with pytest.raises(RequestError, match=named):
            list(sd_upscale.run(tiling, bad, maker, bicubic))
    for values in ({"scale": 0.5}, {"overlap": -1}):
        with pytest.raises(RequestError, match=next(iter(values))):
            Tiling(**values)
