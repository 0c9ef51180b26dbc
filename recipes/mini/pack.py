"""Draw the pictures the two stages of sfumato-mini train on, packed as the trainer reads them.

python -m recipes.mini.pack DATA autoencoder OUT     every concept in every style, on many backgrounds
python -m recipes.mini.pack DATA holdout OUT         the concepts kept from the autoencoder, to measure it
python -m recipes.mini.pack DATA diffusion OUT       the model's concepts with captions
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.mini.colours import COLOURS, jittered
from recipes.mini.compose import STYLES, Pixels, Sprites, Variation, compose, load

Drawn = tuple[Pixels, list[str], float]  # picture, captions, sampling weight

KINDS = {"plain": 0.42, "background": 0.26, "colour": 0.12, "pair": 0.2}  # shares of the samples
HERO_SHARE = 0.46  # of each kind; the other styles share the rest
VIEWS = {"plain": (3, 2), "background": (4, 2), "colour": (2, 1)}  # pictures of a sprite: hero, others
PAIRS = 9000  # pictures with two things


def views(sprites: Sprites, split: str, each: int, seed: int) -> Iterator[Drawn]:
    """Draw `each` pictures of every sprite of a split, half of them on a random named colour."""
    rng = np.random.default_rng(seed)
    for row in sprites.select(split=split):
        for view in range(each):
            name = list(COLOURS)[rng.integers(len(COLOURS))] if (row.row + view) % 2 else "white"
            scale = rng.uniform(0.8, 1.0)
            free = (1 - scale) / 2
            shift = (rng.uniform(-free, free), rng.uniform(-free, free))
            yield compose(sprites.pixels[row.row], jittered(rng, name), scale=scale, shift=shift), [""], 1.0


@dataclass(frozen=True, kw_only=True)
class Order:
    """One picture to draw."""

    kind: str  # of KINDS
    style: str
    concept: str | None = None  # None = any


def orders(sprites: Sprites, rng: np.random.Generator) -> list[Order]:
    """List what the picture model sees: every concept alone in every style, and pairs of any."""
    wanted = []
    for concept in sprites.mini:
        for style in STYLES:
            row = sprites.find(concept, style)
            if row is None or row.heldout_pair:
                continue
            for kind, views in VIEWS.items():
                if kind != "colour" or row.recolourable:
                    order = Order(kind=kind, style=style, concept=concept)
                    wanted += [order] * views[style != STYLES[0]]
    for style in rng.choice(STYLES, PAIRS, p=[HERO_SHARE] + [(1 - HERO_SHARE) / 3] * 3).tolist():
        wanted.append(Order(kind="pair", style=style))
    return wanted


def captioned(sprites: Sprites, seed: int) -> Iterator[Drawn]:
    """Draw the model's concepts alone, on colours, in other colours and by twos, with captions."""
    rng = np.random.default_rng(seed)
    wanted = orders(sprites, rng)
    counts = Counter((order.kind, order.style) for order in wanted)
    for order in wanted:
        odds = Variation(
            scale=(0.92, 1.0),
            background={"plain": 0.0, "background": 1.0}.get(order.kind, 0.5),
            recolour=float(order.kind == "colour"),
            pair=float(order.kind == "pair"),
        )
        picture, text, _ = sprites.sample(rng, odds, concept=order.concept, style=order.style)
        share = HERO_SHARE if order.style == STYLES[0] else (1 - HERO_SHARE) / (len(STYLES) - 1)
        yield picture, [text], KINDS[order.kind] * share / counts[order.kind, order.style]


def write(drawn: Iterator[Drawn], folder: Path) -> int:
    """Write pictures.npy and captions.jsonl; give the number of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, rows = [], []
    for picture, captions, weight in drawn:
        pictures.append(picture)
        rows.append(json.dumps({"captions": captions, "weight": float(f"{weight:.4g}")}))
    np.save(folder / "pictures.npy", np.stack(pictures))
    (folder / "captions.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("kind", choices=["autoencoder", "holdout", "diffusion"])
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    sprites = load(options.data)
    drawn = {
        "autoencoder": lambda: views(sprites, "train", 2, 11),
        "holdout": lambda: views(sprites, "vae_holdout", 2, 12),
        "diffusion": lambda: captioned(sprites, 13),
    }[options.kind]()
    print(f"{write(drawn, options.out)} pictures in {options.out}")


if __name__ == "__main__":
    main()
