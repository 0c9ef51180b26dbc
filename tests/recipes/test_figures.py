import numpy as np
import pytest
import scipy.linalg

from benchmarks import figures
from recipes.mini.colours import COLOURS, recolour
from recipes.mini.compose import POSITIONS, Sprites, Variation, compose
from recipes.mini.heldout import HUES


def test_psnr_of_a_constant_error_has_its_closed_form() -> None:
    wanted = np.full((2, 8, 8, 3), 100, np.uint8)
    images = wanted + np.array([1, 16], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(figures.psnr(images, wanted), 20 * np.log10([255, 255 / 16]))


def test_chroma_error_ignores_lightness_and_sees_hue() -> None:
    grey, light = (np.full((1, 4, 4, 3), level, np.uint8) for level in (80, 200))
    assert figures.chroma_error(grey, light)[0] < 0.05
    red, green = (np.full((1, 4, 4, 3), colour, np.uint8) for colour in ([200, 0, 0], [0, 200, 0]))
    assert figures.chroma_error(red, green)[0] > 100


def test_the_frechet_distance_is_that_of_the_matrix_root() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((200, 7)) @ rng.standard_normal((7, 7))
    second = rng.standard_normal((90, 7)) @ rng.standard_normal((7, 7)) + 1
    root = scipy.linalg.sqrtm(np.cov(first.T) @ np.cov(second.T)).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(
        np.cov(first.T) + np.cov(second.T) - 2 * root
    )
    assert figures.frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert figures.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_spread_is_none_for_copies_and_one_for_what_has_nothing_in_common() -> None:
    same = np.ones((4, 3, 5), np.float32)
    assert figures.spread(same) == pytest.approx(0, abs=1e-6)
    assert figures.spread(np.eye(3, dtype=np.float32)[None]) == pytest.approx(1)
    half = np.array([[[1, 0], [1, 0], [0, 1]]], np.float32)  # of three pairs two differ
    assert figures.spread(half) == pytest.approx(2 / 3)


def test_the_nearest_picture_is_found_with_its_distance() -> None:
    rng = np.random.default_rng(0)
    others = rng.integers(20, 230, (700, 32, 32, 3), dtype=np.uint8)
    places, distances = figures.nearest(others[[5, 650]] + np.uint8(4), others)
    assert places.tolist() == [5, 650]
    np.testing.assert_allclose(distances, 4, rtol=1e-4)


@pytest.mark.parametrize("name", HUES)
@pytest.mark.parametrize("background", ["white", "gray", "green"])
def test_the_colour_of_a_thing_is_not_that_of_its_background(
    name: str, background: str, sprites: Sprites
) -> None:
    picture = compose(recolour(np.asarray(sprites.pixels[0]), name), COLOURS[background])
    if name != background:
        assert figures.object_colour(picture) == name


@pytest.mark.parametrize("position", POSITIONS)
def test_halves_hold_the_first_thing_first(position: str, sprites: Sprites) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        picture, _, drawn = sprites.sample(rng, Variation(pair=1, background=0, styles={"3d": 1}))
        if drawn["position"] == position:
            for half, row in zip(figures.halves(picture, position), drawn["rows"], strict=True):
                assert half.shape == picture.shape
                gap = half[64, 64].astype(int) - sprites.pixels[row][64, 64, :3]
                assert np.abs(gap).max() < 12  # the middle of its own thing, resized twice


def test_a_sheet_marks_what_was_missed() -> None:
    pictures = [np.full((16, 16, 3), 128, np.uint8)] * 3
    image = figures.sheet(pictures, [True, False, True], columns=2, side=16)
    assert image.size == (40, 40)
    assert image.getpixel((24, 17)) == (255, 0, 0)
    assert image.getpixel((4, 17)) == (255, 255, 255)
