import colorsys
from itertools import product

import numpy as np
import pytest

from recipes.mini.colours import (
    COLOURS,
    JITTER,
    dominant_hue,
    hsv_to_rgb,
    jittered,
    nearest_colour,
    recolour,
    rgb_to_hsv,
    srgb_to_lab,
)
from recipes.mini.compose import Sprites

CHROMATIC = [name for name in COLOURS if name not in {"white", "black", "gray"}]


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # published values for sRGB under D65, two decimals
        ((255, 255, 255), (100.00, 0.00, 0.00)),
        ((0, 0, 0), (0.00, 0.00, 0.00)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab_has_the_published_values(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    np.testing.assert_allclose(srgb_to_lab(np.array(rgb)), lab, atol=0.02)


def test_hsv_agrees_with_colorsys_and_comes_back() -> None:
    rgb = np.random.default_rng(0).random((200, 3), np.float32)
    rgb[:3] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]
    channels = rgb_to_hsv(rgb)
    np.testing.assert_allclose(
        np.stack(channels, -1), [colorsys.rgb_to_hsv(*c) for c in rgb.tolist()], atol=1e-5
    )
    np.testing.assert_allclose(hsv_to_rgb(*channels), rgb, atol=1e-5)


@pytest.mark.parametrize("name", COLOURS)
def test_a_jittered_colour_keeps_its_name(name: str) -> None:
    for moves in product((-JITTER, JITTER), repeat=3):
        grey = name in {"white", "black", "gray"}
        moved = np.clip(np.add(COLOURS[name], moves[:1] * 3 if grey else moves), 0, 255)
        assert name == "white" or nearest_colour(moved.tolist()) == name
    rng = np.random.default_rng(0)
    assert all(nearest_colour(jittered(rng, name)) == name for _ in range(50))


@pytest.mark.parametrize("name", CHROMATIC)
def test_recolouring_moves_the_hue_and_leaves_the_shape(name: str, sprites: Sprites) -> None:
    sprite = np.asarray(sprites.pixels[0])
    painted = recolour(sprite, name)
    assert (painted[..., 3] == sprite[..., 3]).all()
    found = np.median(painted[sprite[..., 3] > 127][:, :3], 0)
    assert nearest_colour(found.tolist()) == name


def test_many_hues_are_no_dominant_hue() -> None:
    hue = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    rgb = hsv_to_rgb(hue, np.full_like(hue, 0.9), np.full_like(hue, 0.9))
    rainbow = np.concatenate([rgb * 255, np.full((64, 64, 1), 255)], -1).astype(np.uint8)
    assert dominant_hue(rainbow) is None
    assert (recolour(rainbow, "blue") == rainbow).all()
    grey = np.full((64, 64, 4), 128, np.uint8)
    assert dominant_hue(grey) is None
