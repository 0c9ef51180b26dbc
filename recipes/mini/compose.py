"""Sprites on backgrounds, with captions that say exactly what was done.

Pure functions over numpy arrays; every draw comes from the generator that is handed in.
Shape letters: N sprites, H W pixels of the picture, h w pixels of a sprite; the last axis is RGB or RGBA.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from recipes.mini.colours import COLOURS, jittered, recolour

Pixels = NDArray[np.uint8]

STYLES = ("3d", "flat", "noto", "twemoji")  # the hero style first
POSITIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How a sample may differ from its bare sprite. Probabilities 0 to 1, lengths in sides."""

    size: int = 128  # side of the picture in pixels
    styles: Mapping[str, float] | None = None  # sampling weight by style; None = 3d 0.55, the others 0.15
    background: float = 0.5  # probability that a background colour is put in and named; otherwise plain white
    scale: tuple[float, float] = (0.82, 0.98)  # side of the sprite's frame
    shift: float = (
        0.0  # largest move beyond the margin that the scale leaves free, each way; > 0 cuts parts off
    )
    flip: bool = False  # mirror half of the pictures
    recolour: float = 0.0  # probability of a named object colour, where the sprite has one dominant hue
    pair: float = 0.0  # probability of a second object and a position word
    bare_hero: float = 0.35  # probability that the hero style is left unsaid
    heldout: bool = False  # also draw the pairs kept out of training


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of index.jsonl."""

    row: int
    code: str
    concept: str
    label: str
    tags: tuple[str, ...]
    synonyms: tuple[str, ...]
    mass: bool  # said without an article
    style: str
    group: str
    subgroup: str
    split: str  # "train" or "vae_holdout"
    mini: bool  # one of the model's concepts
    first: bool  # one of the first model's
    heldout_pair: bool  # this concept in this style is kept out of text-to-image training
    recolourable: bool  # has one dominant hue


def article(noun: str) -> str:
    """Put "a" or "an" before a noun phrase, by sound: "an hourglass", "a unicorn"."""
    first = noun.split()[0].lower()
    vowel = first[0] in "aeiou"
    if first.startswith(("uni", "eu", "one", "ufo", "uk")):
        vowel = False
    if first.startswith(("hour", "honest", "x-")) or first in {"8", "mri"}:
        vowel = True
    return f"{'an' if vowel else 'a'} {noun}"


def place(canvas: Pixels, sprite: Pixels, left: int, top: int) -> None:
    """Lay a sprite over a picture, in place; what falls outside is cut off.

    Args:
        canvas: (H,W,3).
        sprite: (h,w,4), not premultiplied.
        left: column of the sprite's left edge; may be negative.
        top: row of its upper edge; may be negative.
    """
    height, width = canvas.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + sprite.shape[1], width), min(top + sprite.shape[0], height)
    if x1 <= x0 or y1 <= y0:
        return
    part = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
    under = canvas[y0:y1, x0:x1]
    alpha = part[..., 3:].astype(np.float32) * np.float32(1 / 255)
    mixed = under + (part[..., :3].astype(np.float32) - under) * alpha
    canvas[y0:y1, x0:x1] = (mixed + np.float32(0.5)).astype(np.uint8)


def resized(sprite: Pixels, side: int) -> Pixels:
    """Resize a sprite (h,w,4) to (side,side,4), weighting colours by alpha."""
    if sprite.shape[:2] == (side, side):
        return sprite
    image = Image.fromarray(sprite)  # Pillow premultiplies RGBA inside resize
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def compose(
    sprite: Pixels,
    background: Sequence[int],
    *,
    size: int = 128,
    scale: float = 0.95,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
) -> Pixels:
    """Put one sprite on a plain background.

    Args:
        sprite: (h,w,4), not premultiplied.
        background: red, green, blue, 0 to 255.
        size: side of the picture in pixels.
        scale: side of the sprite's frame as a fraction of `size`.
        shift: move of its centre right and down, as fractions of `size`.
        flip: mirror the sprite left to right.

    Returns:
        The picture (size,size,3).
    """
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = np.asarray(background, np.uint8)
    side = max(1, round(size * scale))
    drawn = resized(sprite, side)
    if flip:
        drawn = drawn[:, ::-1]
    corner = [round((size - side) / 2 + size * move) for move in shift]
    place(canvas, drawn, corner[0], corner[1])
    return canvas


def caption(rng: Generator, noun: str, *, mass: bool, style: str | None, background: str | None) -> str:
    """Say what is in a picture.

    Args:
        rng: picks the template.
        noun: what is shown, object colour included: "purple apple".
        mass: the noun takes no article ("bread", "glasses").
        style: style word, or None to leave it unsaid.
        background: name of the background colour, or None to leave it unsaid.
    """
    subject = noun if mass else article(noun)
    kinds = ("plain", "subject", "picture")
    kind = kinds[rng.choice(3, p=(0.3, 0.55, 0.15))]
    text = {"plain": noun, "subject": subject, "picture": f"a picture of {subject}"}[kind]
    if background is None:
        return text if style is None else f"{text}, {style}"
    if kind == "picture" or rng.random() < 0.3:
        text = f"{text} on {article(background)} background"
        return text if style is None else f"{text}, {style}"
    parts = [text, *([] if style is None else [style]), f"{background} background"]
    return ", ".join(parts)


class Sprites:
    """The data set: `pixels` (N,128,128,4) memory-mapped, `rows` in their order, `info` of dataset.json."""

    def __init__(self, pixels: Pixels, rows: Sequence[Row], info: Mapping[str, Any]) -> None:
        self.pixels, self.rows, self.info = pixels, rows, info
        self.mini = tuple(sorted({row.concept for row in rows if row.mini}))
        self._place = {(row.concept, row.style): row for row in rows}
        self.heldout_styles = {(c, s) for c, s in info["heldout"]["concept_style"]}
        self.heldout_backgrounds = {(c, b) for c, b in info["heldout"]["concept_background"]}
        self.heldout_colours = {(c, b) for c, b in info["heldout"]["concept_colour"]}
        self.heldout_layouts = {frozenset(pair) for pair in info["heldout"]["layout"]}

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, concept: str, style: str) -> Row | None:
        """Give the row of a concept in a style, or None."""
        return self._place.get((concept, style))

    def select(
        self, *, styles: Iterable[str] = STYLES, split: str | None = None, mini: bool | None = None
    ) -> list[Row]:
        """List rows by style, split and membership of the model's concepts."""
        wanted = set(styles)
        return [
            row
            for row in self.rows
            if row.style in wanted
            and (split is None or row.split == split)
            and (mini is None or row.mini == mini)
        ]

    def sample(
        self,
        rng: Generator,
        variation: Variation | None = None,
        *,
        concept: str | None = None,
        style: str | None = None,
    ) -> tuple[Pixels, str, dict[str, Any]]:
        """Draw one captioned picture.

        Args:
            rng: the only source of randomness.
            variation: how samples may vary; None = the defaults.
            concept: this one instead of any of the model's.
            style: this one instead of a draw by weight.

        Returns:
            The picture (size,size,3), its caption, and what was drawn: "rows" (numbers of the sprites),
            "concepts", "style", "background" (name, or None for unsaid white), "colour" (of the object, or
            None), "position".
        """
        v = variation or Variation()
        row = self._draw_row(rng, v, concept, style)
        named = rng.random() < v.background
        background = self._draw_background(rng, row, v) if named else None
        paint = jittered(rng, background) if background else COLOURS["white"]
        said = None if row.style == STYLES[0] and rng.random() < v.bare_hero else row.style
        meta: dict[str, Any] = {
            "style": row.style,
            "background": background,
            "colour": None,
            "position": None,
        }
        if rng.random() < v.pair:
            return self._sample_pair(rng, v, row, paint, said, meta)
        sprite, noun, mass = self.pixels[row.row], self._noun(rng, row), row.mass
        if row.recolourable and rng.random() < v.recolour:
            colour = self._draw_colour(rng, row, v)
            if colour is not None:
                sprite, noun, mass = recolour(sprite, colour), f"{colour} {row.concept}", row.mass
                meta["colour"] = colour
        scale = rng.uniform(*v.scale)
        free = (1 - scale) / 2 + v.shift
        picture = compose(
            sprite,
            paint,
            size=v.size,
            scale=scale,
            shift=(rng.uniform(-free, free), rng.uniform(-free, free)),
            flip=v.flip and bool(rng.random() < 0.5),
        )
        meta |= {"rows": [row.row], "concepts": [row.concept]}
        return picture, caption(rng, noun, mass=mass, style=said, background=background), meta

    def _draw_row(self, rng: Generator, v: Variation, concept: str | None, style: str | None) -> Row:
        weights = v.styles or dict(zip(STYLES, (0.55, 0.15, 0.15, 0.15), strict=True))
        names, odds = list(weights), np.array(list(weights.values()), np.float64)
        for _ in range(1000):
            what = concept or self.mini[rng.integers(len(self.mini))]
            look = style or names[rng.choice(len(names), p=odds / odds.sum())]
            row = self.find(what, look)
            if row is not None and (v.heldout or not row.heldout_pair):
                return row
        raise ValueError(f"no picture of {concept or 'any concept'} in style {style or names} may be drawn")

    def _draw_background(self, rng: Generator, row: Row, v: Variation) -> str:
        open_ = [c for c in COLOURS if v.heldout or (row.concept, c) not in self.heldout_backgrounds]
        return open_[rng.integers(len(open_))]

    def _draw_colour(self, rng: Generator, row: Row, v: Variation) -> str | None:
        hues = [c for c in COLOURS if c not in {"white", "black", "gray"}]
        open_ = [c for c in hues if v.heldout or (row.concept, c) not in self.heldout_colours]
        return open_[rng.integers(len(open_))] if open_ else None

    def _noun(self, rng: Generator, row: Row) -> str:
        if row.synonyms and not row.mass and rng.random() < 0.2:
            return row.synonyms[rng.integers(len(row.synonyms))]
        return row.concept

    def _is_kept_apart(self, first: str, second: str, background: str | None) -> bool:
        return {first, second} in self.heldout_layouts or (second, background) in self.heldout_backgrounds

    def _sample_pair(
        self,
        rng: Generator,
        v: Variation,
        first: Row,
        paint: Sequence[int],
        said: str | None,
        meta: dict[str, Any],
    ) -> tuple[Pixels, str, dict[str, Any]]:
        second = first
        while second.concept == first.concept or (
            not v.heldout and self._is_kept_apart(first.concept, second.concept, meta["background"])
        ):
            second = self._draw_row(rng, v, None, first.style)
        word = list(POSITIONS)[rng.integers(len(POSITIONS))]
        across, down = POSITIONS[word]
        picture = np.empty((v.size, v.size, 3), np.uint8)
        picture[:] = np.asarray(paint, np.uint8)
        for row, sign in ((first, 1), (second, -1)):
            side = round(v.size * rng.uniform(0.44, 0.5))
            centre = (v.size * (0.5 + 0.25 * sign * across), v.size * (0.5 + 0.25 * sign * down))
            sprite = resized(self.pixels[row.row], side)
            place(picture, sprite, round(centre[0] - side / 2), round(centre[1] - side / 2))
        nouns = [row.concept if row.mass else article(row.concept) for row in (first, second)]
        text = f"{nouns[0]} {word} {nouns[1]}"
        text += f", {said}" if said else ""
        text += f", {meta['background']} background" if meta["background"] else ""
        rows = [first.row, second.row]
        return (
            picture,
            text,
            meta | {"rows": rows, "concepts": [first.concept, second.concept], "position": word},
        )


def load(folder: str | Path) -> Sprites:
    """Open a data set that `python -m recipes.mini.dataset` built.

    Args:
        folder: holds sprites.npy, index.jsonl and dataset.json.

    Raises:
        OSError: a file is missing.
        ValueError: the files do not belong together.
    """
    folder = Path(folder)
    pixels = np.load(folder / "sprites.npy", mmap_mode="r")
    rows = []
    for line in (folder / "index.jsonl").read_text("utf-8").splitlines():
        fields = json.loads(line)
        rows.append(Row(**fields | {"tags": tuple(fields["tags"]), "synonyms": tuple(fields["synonyms"])}))
    info = json.loads((folder / "dataset.json").read_text("utf-8"))
    if len(rows) != len(pixels) or pixels.ndim != 4 or pixels.shape[3] != 4 or pixels.dtype != np.uint8:
        raise ValueError(
            f"{folder}: expected (N,H,W,4) bytes and N index rows, "
            f"got {pixels.shape} {pixels.dtype} and {len(rows)}"
        )
    return Sprites(pixels, rows, info)
