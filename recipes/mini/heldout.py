"""What is kept out of training, so that what the model makes of it can be measured.

    python -m recipes.mini.heldout DATA        draws heldout.json anew from a built data set

The committed heldout.json is what `recipes.mini.dataset` reads. What the first release kept out stays so.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.mini.colours import COLOURS
from recipes.mini.compose import STYLES, Sprites, load

SEED = 20_27
STYLE_PAIRS_EACH = 40  # concept × style pairs a release adds, for each style but the hero
BACKGROUND_PAIRS = 140  # concept × background pairs a release adds
COLOUR_PAIRS = 120  # concept × object colour pairs a release adds
LAYOUTS = 50  # pairs of concepts that never share a picture
NEAR_COPY = 0.12  # mean distance (0 to 1) under which two hero pictures count as the same drawing
LISTS, WORDS = (Path(__file__).with_name(name) for name in ("heldout.json", "words.txt"))
HUES = tuple(name for name in COLOURS if name not in {"white", "black", "gray"})

Pairs = list[tuple[str, str]]


def read_words(path: Path = WORDS) -> dict[str, list[str]]:
    """Read the words that stand in no caption: word → the concepts a picture of it may show."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    rows = [line.split("\t") for line in lines]
    return {word: concepts.split(", ") for word, concepts in rows}


def read_heldout(path: Path = LISTS) -> dict[str, Any]:
    """Read everything kept out of training, by kind."""
    lists: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return lists | {"words": read_words()}


def independent(hero: dict[str, NDArray[np.uint8]]) -> set[str]:
    """Keep the names whose hero picture is not a near copy of another one, so that it may be held out."""
    names = sorted(hero)
    small = np.stack([np.asarray(Image.fromarray(hero[n]).resize((16, 16)).convert("RGBa")) for n in names])
    flat = small.reshape(len(names), -1).astype(np.float32) / 255
    alone = set()
    for row, name in enumerate(names):
        distance = np.abs(flat - flat[row]).mean(1)
        mirrored = np.abs(flat - small[row][:, ::-1].reshape(-1).astype(np.float32) / 255).mean(1)
        distance[row] = mirrored[row] = 1
        if min(distance.min(), mirrored.min()) > NEAR_COPY:
            alone.add(name)
    return alone


def choose_pairs(names: list[str], others: list[str], count: int, rng: np.random.Generator) -> Pairs:
    """Draw `count` different pairs, spread as evenly as the numbers allow over both lists."""
    columns = rng.permutation(np.resize(np.arange(len(others)), count))
    order = np.concatenate([rng.permutation(len(names)) for _ in range(-(-count // len(names)))])[:count]
    pairs = dict.fromkeys((names[i], others[j]) for i, j in zip(order, columns, strict=True))
    while len(pairs) < count:
        pairs[names[rng.integers(len(names))], others[rng.integers(len(others))]] = None
    return sorted(pairs)


def choose_layouts(names: list[str], count: int, rng: np.random.Generator) -> Pairs:
    """Draw `count` pairs of two names, no name twice."""
    shuffled = rng.permutation(names)[: 2 * count].tolist()
    return sorted(zip(shuffled[::2], shuffled[1::2], strict=True))


def widened(sprites: Sprites, kept: dict[str, Any]) -> dict[str, Any]:
    """Add pairs of the concepts that came after the first release to what is kept out already.

    Args:
        sprites: the data set.
        kept: what heldout.json holds; its own entries stay.
    """
    rng = np.random.default_rng(SEED)
    rows = {row.concept: row for row in sprites.rows if row.mini and row.style == STYLES[0]}
    later = sorted(name for name, row in rows.items() if not row.first)
    alone = independent({name: np.asarray(sprites.pixels[rows[name].row]) for name in later})
    shuffled = rng.permutation(sorted(alone)).tolist()
    styles = [
        (name, style)
        for k, style in enumerate(STYLES[1:])
        for name in shuffled[k * STYLE_PAIRS_EACH : (k + 1) * STYLE_PAIRS_EACH]
    ]
    hued = [name for name in later if rows[name].recolourable]
    return {
        "vae_concepts": kept["vae_concepts"],
        "concept_style": kept["concept_style"] + styles,
        "concept_background": kept["concept_background"]
        + choose_pairs(later, [c for c in COLOURS if c != "white"], BACKGROUND_PAIRS, rng),
        "concept_colour": kept["concept_colour"] + choose_pairs(hued, list(HUES), COLOUR_PAIRS, rng),
        "layout": choose_layouts(sorted(name for name, row in rows.items() if row.first), LAYOUTS, rng),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    lists = widened(load(parser.parse_args().data), json.loads(LISTS.read_text("utf-8")))
    kinds = [
        f' "{kind}": [\n'
        + ",\n".join(f"  {json.dumps(each, ensure_ascii=False)}" for each in entries)
        + "\n ]"
        for kind, entries in lists.items()
    ]
    LISTS.write_text("{\n" + ",\n".join(kinds) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
