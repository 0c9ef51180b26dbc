"""Draw the pictures the two stages of sfumato-mini train on, packed as the trainer reads them.

python -m recipes.mini.pack DATA autoencoder OUT     every concept in every style, on many backgrounds
python -m recipes.mini.pack DATA holdout OUT         the concepts kept from the autoencoder, to measure it
python -m recipes.mini.pack DATA diffusion OUT       the first model's concepts with captions
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recipes.mini.colours import COLOURS, jittered
from recipes.mini.compose import STYLES, Pixels, Sprites, Variation, compose, load

Drawn = tuple[Pixels, list[str], float]  # picture, captions, sampling weight

HERO_VIEWS, OTHER_VIEWS, HERO_BACKGROUNDS = 6, 3, 10
HERO_SHARE = 0.8  # of the samples; the other styles share the rest


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


def captioned(sprites: Sprites, seed: int) -> Iterator[Drawn]:
    """Draw the first model's concepts: hero style on white and on every colour, other styles more rarely."""
    rng = np.random.default_rng(seed)
    near = {"scale": (0.92, 1.0), "shift": 0.0}
    for concept in sprites.mini:
        for style in STYLES:
            row = sprites.find(concept, style)
            if row is None or row.heldout_pair:
                continue
            hero = style == STYLES[0]
            plain, coloured = (HERO_VIEWS, HERO_BACKGROUNDS) if hero else (OTHER_VIEWS, OTHER_VIEWS)
            share = HERO_SHARE if hero else (1 - HERO_SHARE) / (len(STYLES) - 1)
            for view in range(plain + coloured):
                odds = Variation(background=float(view >= plain), **near)  # type: ignore[arg-type]
                picture, text, _ = sprites.sample(rng, odds, concept=concept, style=style)
                # White is drawn from as often as all colours together.
                yield picture, [text], share / 2 / (coloured if view >= plain else plain)


def write(drawn: Iterator[Drawn], folder: Path) -> int:
    """Write pictures.npy and captions.jsonl; give the number of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, rows = [], []
    for picture, captions, weight in drawn:
        pictures.append(picture)
        rows.append(json.dumps({"captions": captions, "weight": round(weight, 6)}))
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
