"""A data set of six made-up concepts, so that no package has to be fetched."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # recipes/ and benchmarks/ are not installed
    sys.path.insert(0, str(ROOT))

from recipes.mini.colours import COLOURS, hsv_to_rgb  # noqa: E402
from recipes.mini.compose import STYLES, Row, Sprites  # noqa: E402

NAMES = ("apple", "bread", "cat", "hourglass", "slice of pizza", "unicorn")


def disc(hue: float, radius: int = 40, side: int = 128) -> np.ndarray:
    """A shaded disc of one hue on nothing: (side,side,4)."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = x**2 + y**2 < radius**2
    value = np.float32(0.6) + 0.4 * (y / side + 0.5).astype(np.float32)
    rgb = hsv_to_rgb(np.full_like(value, hue), np.full_like(value, 0.8), value)
    return np.concatenate([rgb * 255, inside[..., None] * 255.0], -1).astype(np.uint8)


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    rows, pixels = [], []
    for place, name in enumerate(NAMES):
        for style in STYLES:
            rows.append(
                Row(
                    row=len(rows),
                    code=f"{place:X}",
                    concept=name,
                    label=name,
                    tags=(),
                    synonyms=("kitty",) if name == "cat" else (),
                    mass=name == "bread",
                    style=style,
                    group="food-drink",
                    subgroup="other",
                    split="vae_holdout" if name == "unicorn" else "train",
                    mini=True,
                    first=name != "unicorn",
                    heldout_pair=(name, style) in {("cat", "noto"), ("apple", "flat")},
                    recolourable=name != "cat",
                )
            )
            pixels.append(disc(place / len(NAMES)))
    heldout = {
        "vae_concepts": ["unicorn"],
        "concept_style": [["cat", "noto"], ["apple", "flat"]],
        "concept_background": [["cat", colour] for colour in list(COLOURS)[1:6]],
        "concept_colour": [["apple", "purple"], ["bread", "blue"]],
        "layout": [["apple", "cat"], ["bread", "hourglass"]],
        "words": {"loaf": ["bread"], "king's unicorn": ["unicorn"], "feline": ["cat", "unicorn"]},
    }
    return Sprites(np.stack(pixels), rows, {"heldout": heldout, "sprites_sha256": "0" * 64})
