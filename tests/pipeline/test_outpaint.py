from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from sfumato.errors import RequestError
from sfumato.pipeline import metadata
from sfumato.pipeline.generate import generate
from sfumato.pipeline.outpaint import (
    SIDES,
    Side,
    count_passes,
    extended,
    matched_noise,
    outpaint,
    strips,
    tiles,
)
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Mask, Outpaint, Prompt, Request, Result, Sampling, Source, StepInfo


def photo(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(data.coffee()[100 : 100 + height, 200 : 200 + width])


@pytest.fixture(scope="module")
def shelf(tiny_checkpoint: Path) -> ModelShelf:
    return ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32", default=str(tiny_checkpoint))


def request(source: Image.Image, **sides: int) -> Request:
    return Request(
        prompt=Prompt(text="a cat"),
        sampling=Sampling(steps=2),
        canvas=Canvas(seed=7),
        source=Source(image=source),
        outpaint=Outpaint(**({"mask_blur": 2} | sides)),  # type: ignore[arg-type]
    )


def old_place(outpaint: Outpaint, size: tuple[int, int]) -> tuple[slice, slice]:
    """Where the source is in the result, without what the seam may change."""
    seam = 8  # mask_blur 2: two pixels painted, six blurred
    top, left = outpaint.up, outpaint.left
    rows = (top + (seam if outpaint.up else 0), top + size[1] - (seam if outpaint.down else 0))
    columns = (left + (seam if outpaint.left else 0), left + size[0] - (seam if outpaint.right else 0))
    return slice(rows[0], max(rows)), slice(columns[0], max(columns))


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((64, 64), {"right": 32}),
        ((64, 64), {"left": 32}),
        ((64, 64), {"up": 24}),
        ((64, 64), {"down": 24}),
        ((64, 64), {"right": 100}),  # wider than half a window: several strips
        ((50, 41), {"left": 9, "down": 5}),  # no multiples of 8 anywhere
        ((150, 130), {"left": 8, "right": 8, "up": 8, "down": 8}),  # larger than the window
        ((3, 2), {"right": 16}),
    ],
)
def test_the_picture_grows_by_the_pixels_and_stays_itself(
    shelf: ModelShelf, size: tuple[int, int], sides: dict[str, int]
) -> None:
    source = photo(*size)
    asked = request(source, **sides)
    *steps, result = generate(asked, shelf)
    assert isinstance(result, Result)
    grown = asked.outpaint
    assert result.image.size == (
        size[0] + grown.left + grown.right,
        size[1] + grown.up + grown.down,
    )
    place = old_place(grown, size)
    inside = np.asarray(source)[
        place[0].start - grown.up : place[0].stop - grown.up,
        place[1].start - grown.left : place[1].stop - grown.left,
    ]
    assert np.array_equal(np.asarray(result.image)[place], inside)
    passes = count_passes(size, grown, (64, 64))
    assert [event.pass_ for event in steps] == [
        k for k in range(1, passes + 1) for _ in range(len(steps) // passes)
    ]  # type: ignore[union-attr]
    assert {event.passes for event in steps} == {passes}  # type: ignore[union-attr]


def test_what_is_new_is_painted_not_left_as_noise(shelf: ModelShelf) -> None:
    asked = request(photo(64, 64), right=32)
    *_, result = generate(asked, shelf)
    assert isinstance(result, Result)
    start = extended(photo(64, 64), "right", 32, asked.outpaint, 7)
    assert (np.asarray(result.image)[:, 64:] != np.asarray(start)[:, 64:]).mean() > 0.9


def test_the_picture_says_how_it_was_made_and_is_made_again(shelf: ModelShelf) -> None:
    asked = request(photo(64, 64), right=24, up=8)
    *_, result = generate(asked, shelf)
    assert isinstance(result, Result)
    told = metadata.read(result.infotext)
    assert told.outpaint == asked.outpaint
    assert "Init image hash" in result.infotext
    *_, again = generate(replace(told, source=replace(told.source, image=photo(64, 64))), shelf)
    assert isinstance(again, Result)
    assert again.image.tobytes() == result.image.tobytes()


def test_a_picture_of_several_is_the_one_made_alone(shelf: ModelShelf) -> None:
    asked = request(photo(64, 64), right=16)
    several = replace(asked, canvas=replace(asked.canvas, batch_size=2, batch_count=2))
    made = [event for event in generate(several, shelf) if isinstance(event, Result)]
    assert [result.index for result in made] == [0, 1, 2, 3]
    assert [result.request.canvas.seed for result in made] == [7, 8, 9, 10]
    for result in made[1::2]:
        *_, alone = generate(result.request, shelf)
        assert isinstance(alone, Result)
        assert alone.image.tobytes() == result.image.tobytes()


def test_stopping_stops(shelf: ModelShelf) -> None:
    asked: list[Request] = []

    def counting(part: Request) -> Iterator[StepInfo | Result]:
        asked.append(part)
        yield from generate(part, shelf)

    for _event in outpaint(request(photo(64, 64), right=64), shelf, counting):
        break
    assert len(asked) == 1


def test_a_mask_beside_sides_is_refused(shelf: ModelShelf) -> None:
    asked = replace(request(photo(), right=8), mask=Mask(image=Image.new("L", (64, 48), 255)))
    with pytest.raises(RequestError, match="mask"):
        next(iter(generate(asked, shelf)))


def test_sides_without_a_source_are_refused(shelf: ModelShelf) -> None:
    with pytest.raises(RequestError, match="source"):
        next(iter(generate(replace(request(photo(), right=8), source=Source()), shelf)))


@given(
    st.sampled_from(SIDES),
    st.integers(1, 60),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 64),
)
def test_windows_cover_a_strip_and_see_what_surrounds_it(
    side: Side, pixels: int, wide: int, high: int, across: int, down: int, seam: int
) -> None:
    window = (8 * across, 8 * down)
    sides = Outpaint(**{side: pixels})  # type: ignore[arg-type]
    size = [wide, high]
    for strip, grown in strips(sides, window):
        axis = 0 if strip in ("left", "right") else 1
        size[axis] += grown
        assert grown <= window[axis] // 2
        unpainted = np.zeros((size[1], size[0]), bool)
        edge = {
            "left": np.s_[:, :grown], "right": np.s_[:, -grown:], "up": np.s_[:grown], "down": np.s_[-grown:]
        }[strip]  # fmt: skip
        unpainted[edge] = True
        for tile in tiles((size[0], size[1]), strip, grown, window, seam):
            left, top, right, bottom = tile.window
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
            assert right - left <= window[0]
            assert bottom - top <= window[1]
            new = tile.paint
            assert left <= new[0] < new[2] <= right
            assert top <= new[1] < new[3] <= bottom
            assert unpainted[new[1] : new[3], new[0] : new[2]].any()
            unpainted[new[1] : new[3], new[0] : new[2]] = False
        assert not unpainted.any()
    assert size[0] == wide + sides.left + sides.right
    assert size[1] == high + sides.up + sides.down


@pytest.mark.parametrize("side", SIDES)
def test_a_strip_is_set_at_its_side_and_begins_with_the_edge(side: Side) -> None:
    source = photo()
    larger = np.asarray(extended(source, side, 40, Outpaint(), 1)).astype(int)
    turned = np.rot90(larger, {"right": 0, "down": 1, "left": 2, "up": 3}[side])
    inside = np.rot90(np.asarray(source), {"right": 0, "down": 1, "left": 2, "up": 3}[side]).astype(int)
    width = inside.shape[1]
    assert turned.shape == (inside.shape[0], width + 40, 3)
    assert np.array_equal(turned[:, :width], inside)
    assert np.abs(turned[:, width] - inside[:, -1]).mean() < 15  # the first column has a twentieth of noise


def spectrum(pixels: np.ndarray) -> np.ndarray:
    """Mean amplitude in rings of equal frequency, the lowest first."""
    grey = pixels.mean(-1)
    taper = np.outer(np.hanning(len(grey)), np.hanning(grey.shape[1]))
    amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * taper))
    ring = np.rint(np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) * n for n in grey.shape), indexing="ij")))
    return np.array([amplitude[ring == k].mean() for k in range(1, 33)])


def test_noise_has_the_pictures_spectrum_and_colours() -> None:
    known = data.coffee()[100:228, 100:228]
    noise = matched_noise(known, 128, 128, 1.0, 0.05, 0)
    octaves = [(1, 2), (2, 4), (4, 8), (8, 16), (16, 32)]
    ratio = [
        spectrum(noise)[low - 1 : high].sum() / spectrum(known)[low - 1 : high].sum() for low, high in octaves
    ]
    assert all(0.4 < each < 2.5 for each in ratio)  # one draw of random phases; white noise is off by 20
    for k in range(3):
        assert (
            np.abs(
                np.percentile(noise[..., k], [5, 50, 95]) - np.percentile(known[..., k], [5, 50, 95])
            ).max()
            < 2
        )


def test_a_higher_falloff_is_smoother_and_none_is_white() -> None:
    known = data.coffee()[100:228, 100:228]
    fine = [
        spectrum(noise := matched_noise(known, 128, 128, falloff, 0.05, 0))[16:].sum() / spectrum(noise).sum()
        for falloff in (0.0, 1.0, 2.0)
    ]
    assert fine[0] > 2 * fine[1] > 4 * fine[2]


@pytest.mark.parametrize(("variation", "alike"), [(0.0, 0.999), (1.0, 0.0)])
def test_colours_vary_as_far_as_they_are_let(variation: float, alike: float) -> None:
    known = np.random.default_rng(1).normal(128, 30, (64, 64, 1)).clip(0, 255).repeat(3, -1)
    noise = matched_noise(known, 64, 64, 1.0, variation, 0)
    correlation = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    assert correlation > alike if alike > 0.5 else abs(correlation) < 0.5


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
@pytest.mark.parametrize("size", [(1, 1), (64, 48)])
def test_a_plain_picture_is_continued_plainly(colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    larger = extended(Image.new("RGB", size, colour), "right", 16, Outpaint(), 0)
    assert larger.getcolors() == [((size[0] + 16) * size[1], colour)]


def test_noise_belongs_to_its_seed() -> None:
    one, same, other = (extended(photo(), "up", 16, Outpaint(), seed).tobytes() for seed in (1, 1, 2))
    assert one == same != other
