"""Measure the embedded picture model with eyes that took no part in its training.

    python -m benchmarks.quality CHECKPOINT --data DIR

writes benchmarks/results/quality.json and contact sheets to docs/images/. Every seed is the place of the
prompt in its list: one picture each, none chosen. The judge's own accuracy on real renderings stands in the
same file.

Shape letters: N pictures, H W pixels, B batch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.judge import Judge, Verdict, load_judge
from recipes.mini.colours import COLOURS, srgb_to_lab
from recipes.mini.compose import STYLES, Pixels, Row, Sprites, article, compose, load
from sfumato.diffusion.guidance import Contexts, Part
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline.generate import generate, walk
from sfumato.pipeline.latents import decode
from sfumato.pipeline.networks import Shown
from sfumato.pipeline.opening import Opening
from sfumato.pipeline.plan import make_plan
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Result, Sampling

FLOORS = {"psnr": 26.0, "concept_top1": 0.6, "concept_top5": 0.8, "background": 0.9}
HERO = STYLES[0]
ROOT = Path(__file__).resolve().parents[1]
PER_COLOUR = 10  # pictures on each of the ten backgrounds


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One prompt and what its picture should show."""

    prompt: str
    concept: str
    style: str
    background: str


# -- figures over arrays


def psnr(images: Pixels, wanted: Pixels) -> NDArray[np.float64]:
    """Give the peak signal-to-noise ratio of each picture in dB: (N,) from two (N,H,W,3)."""
    error = np.square(images.astype(np.float64) - wanted).mean((1, 2, 3))
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, 1e-9)))


def chroma_error(images: Pixels, wanted: Pixels) -> NDArray[np.float64]:
    """Give each picture's mean distance of a and b in CIELAB: (N,) from two (N,H,W,3)."""
    difference = srgb_to_lab(images)[..., 1:] - srgb_to_lab(wanted)[..., 1:]
    return np.asarray(np.hypot(difference[..., 0], difference[..., 1]).mean((1, 2)))


def hit_rates(verdicts: Sequence[Verdict], wanted: Sequence[Wanted]) -> dict[str, float]:
    """Give the shares of pictures whose concept, style and background the judge finds as wanted (0 to 1)."""
    pairs = list(zip(verdicts, wanted, strict=True))
    return {
        "pictures": len(pairs),
        "concept_top1": share([v.concepts[0] == w.concept for v, w in pairs]),
        "concept_top5": share([w.concept in v.concepts for v, w in pairs]),
        "blind_top1": share([v.blind[0] == w.concept for v, w in pairs]),
        "blind_top5": share([w.concept in v.blind for v, w in pairs]),
        "style": share([v.style == w.style for v, w in pairs]),
        "background": share([v.background == w.background for v, w in pairs]),
    }


def share(hits: Sequence[bool]) -> float:
    """Give the part of true values, rounded to four digits."""
    return round(sum(hits) / len(hits), 4)


def sheet(
    pictures: Sequence[Pixels], marks: Sequence[bool], columns: int = 20, side: int = 64
) -> Image.Image:
    """Lay pictures out in rows; a mark of False puts a red line under a picture."""
    rows = -(-len(pictures) // columns)
    image = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), "white")
    pen = ImageDraw.Draw(image)
    for place, picture in enumerate(pictures):
        left, top = place % columns * (side + 4) + 2, place // columns * (side + 4) + 1
        image.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (left, top))
        if not marks[place]:
            pen.rectangle((left, top + side, left + side - 1, top + side + 1), fill="red")
    return image


# -- what is asked for


def concept_prompts(sprites: Sprites) -> list[Wanted]:
    """Ask for every concept in the hero style on the white that is not said."""
    return [
        Wanted(prompt=f"{said(sprites, concept)}, {HERO}", concept=concept, style=HERO, background="white")
        for concept in sprites.mini
    ]


def background_prompts(sprites: Sprites) -> list[Wanted]:
    """Ask for PER_COLOUR concepts on each colour; none of the pairs was kept out of training."""
    rng = np.random.default_rng(1)
    wanted = []
    for colour in COLOURS:
        trained = [c for c in sprites.mini if (c, colour) not in sprites.heldout_backgrounds]
        for concept in rng.choice(trained, PER_COLOUR, replace=False).tolist():
            wanted.append(on_colour(sprites, concept, colour))
    return wanted


def unseen_prompts(sprites: Sprites) -> dict[str, list[Wanted]]:
    """Ask for the pairs that were kept out of training."""
    styles = [
        Wanted(prompt=f"{said(sprites, c)}, {style}", concept=c, style=style, background="white")
        for c, style in sorted(sprites.heldout_styles)
    ]
    backgrounds = [on_colour(sprites, c, colour) for c, colour in sorted(sprites.heldout_backgrounds)]
    return {"concept_style": styles, "concept_background": backgrounds}


def on_colour(sprites: Sprites, concept: str, colour: str) -> Wanted:
    """Ask for a concept in the hero style on a named background."""
    text = f"{said(sprites, concept)}, {HERO}, {colour} background"
    return Wanted(prompt=text, concept=concept, style=HERO, background=colour)


def said(sprites: Sprites, concept: str) -> str:
    """Name a concept as a prompt does: "a slice of pizza", "french fries"."""
    row = sprites.find(concept, HERO)
    return concept if row is not None and row.mass else article(concept)


# -- the model at work


def reconstruct(vae: AutoencoderKL, pictures: Pixels) -> Pixels:
    """Send pictures (N,H,W,3) through the autoencoder and back."""
    weight = next(vae.parameters())
    parts = []
    for start in range(0, len(pictures), 16):
        x = torch.from_numpy(pictures[start : start + 16]).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            mean, _ = vae.encode(x.to(weight.dtype, memory_format=torch.channels_last))
            parts.append(decode(mean.float() * vae.config.scale_factor, vae).numpy())
    return np.concatenate(parts)


@torch.no_grad()
def draw(shelf: ModelShelf, prompts: Sequence[str], sampling: Sampling, batch: int) -> Iterator[Pixels]:
    """Make one picture of each prompt, several prompts at a time; the seed is the prompt's place in the list.

    The steps are those of `pipeline.generate`, so picture k is what the product makes of prompt k and seed k.

    Args:
        shelf: with the checkpoint as its default.
        prompts: one a picture.
        sampling: sampler, steps and guidance of all.
        batch: pictures sampled together.

    Yields:
        Pictures (H,W,3) in order.
    """
    for start in range(0, len(prompts), batch):
        texts = prompts[start : start + batch]
        request = Request(
            prompt=Prompt(), sampling=sampling, canvas=Canvas(seed=start, batch_size=len(texts))
        )
        plan = make_plan(request, shelf)
        first = plan.passes[0]
        scripts = [first.models.reader.read(Prompt(text=t), first.steps, sampling.guidance) for t in texts]
        told = [script.contexts for script in scripts if isinstance(script.contexts, Contexts)]
        assert len(told) == len(texts), "prompts that change on the way cannot share a batch"
        contexts = Contexts(
            positive=(Part(context=torch.cat([each.positive[0].context for each in told])),),
            negative=told[0].negative,
        )
        walked = replace(first, script=replace(first.script, contexts=contexts))
        steps = walk(walked, plan.batches()[0], Opening(), Shown(), (1, 1, 1))
        yield from decode(last(steps), first.models.vae).numpy()


def last(steps: Generator[Any, None, Tensor]) -> Tensor:
    """Run a walk to its end and give what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return cast("Tensor", stop.value)


def alone(shelf: ModelShelf, prompt: str, seed: int, sampling: Sampling) -> Pixels:
    """Make one picture by the product's own `generate`: (H,W,3)."""
    request = Request(prompt=Prompt(text=prompt), sampling=sampling, canvas=Canvas(seed=seed))
    *_, result = generate(request, shelf)
    assert isinstance(result, Result)
    return np.asarray(result.image.convert("RGB"))


# -- the measurements


def measure_autoencoder(vae: AutoencoderKL, sprites: Sprites, images: Path) -> dict[str, Any]:
    """Measure reconstructions of concepts the autoencoder never saw, and save some beside their originals."""
    held: list[Row] = sprites.select(split="vae_holdout")
    names = list(COLOURS)
    pictures, kinds = [], []
    for place, row in enumerate(held):
        for name in ("white", names[1 + place % (len(names) - 1)]):
            pictures.append(compose(sprites.pixels[row.row], COLOURS[name], scale=0.95))
            kinds.append((row.style, "white" if name == "white" else "colour"))
    wanted = np.stack(pictures)
    made = reconstruct(vae, wanted)
    decibels, chroma = psnr(made, wanted), chroma_error(made, wanted)
    report: dict[str, Any] = {"concepts": len(sprites.info["heldout"]["vae_concepts"])}
    for name in ("all", HERO, "white", "colour"):
        rows = [place for place, kind in enumerate(kinds) if name == "all" or name in kind]
        report[name] = {
            "pictures": len(rows),
            "psnr": round(float(decibels[rows].mean()), 2),
            "psnr_10th_percentile": round(float(np.percentile(decibels[rows], 10)), 2),
            "chroma_error": round(float(chroma[rows].mean()), 2),
        }
    hero = [place for place, kind in enumerate(kinds) if kind[0] == HERO][:48]
    pairs = [np.concatenate([wanted[place], made[place]]) for place in hero]
    lines = [np.concatenate(pairs[k : k + 12], 1) for k in range(0, len(pairs), 12)]
    Image.fromarray(np.concatenate(lines)).save(images / "mini-autoencoder.png")
    return report


def measure_pictures(
    name: str, shelf: ModelShelf, judge: Judge, wanted: Sequence[Wanted], options: argparse.Namespace
) -> dict[str, Any]:
    """Draw, judge, save the contact sheet; give the shares and what was taken for what."""
    sampling = Sampling(sampler=options.sampler, steps=options.steps, guidance=options.guidance)
    pictures = list(draw(shelf, [w.prompt for w in wanted], sampling, options.batch))
    verdicts = judge.read(pictures)
    right = [v.concepts[0] == w.concept for v, w in zip(verdicts, wanted, strict=True)]
    if name == "backgrounds":
        right = [v.background == w.background for v, w in zip(verdicts, wanted, strict=True)]
    sheet(pictures, right).save(options.images / f"mini-{name}.png")
    missed = {
        w.prompt: [v.concepts[0], v.style, v.background]
        for v, w, hit in zip(verdicts, wanted, right, strict=True)
        if not hit
    }
    return {**hit_rates(verdicts, wanted), "missed": missed}


def measure_ceiling(vae: AutoencoderKL, judge: Judge, sprites: Sprites) -> dict[str, float]:
    """Judge the real hero pictures after the autoencoder: the best the picture model could reach."""
    rows = [row for c in sprites.mini if (row := sprites.find(c, HERO)) is not None]
    real = np.stack([compose(sprites.pixels[row.row], COLOURS["white"], scale=0.96) for row in rows])
    wanted = [Wanted(prompt="", concept=row.concept, style=HERO, background="white") for row in rows]
    return hit_rates(judge.read(reconstruct(vae, real)), wanted)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything and give what quality.json says."""
    sprites = load(options.data)
    judge = load_judge(sprites, options.cache)
    shelf = ModelShelf(Path(), device="cpu", dtype=options.dtype, default=options.checkpoint)
    models = shelf.load(ModelChoice())
    options.images.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    sampling = Sampling(sampler=options.sampler, steps=options.steps, guidance=options.guidance)
    lists = {"concepts": concept_prompts(sprites), "backgrounds": background_prompts(sprites)}
    if not options.quick:
        lists |= {f"unseen-{name}": wanted for name, wanted in unseen_prompts(sprites).items()}
    prompts = [w.prompt for w in lists["concepts"][: options.batch]]
    batched = next(draw(shelf, prompts, sampling, options.batch))
    gap = np.abs(batched.astype(int) - alone(shelf, prompts[0], 0, sampling)).max()
    report: dict[str, Any] = {
        "checkpoint": models.name,
        "sha256": models.sha256,
        "sampling": {"sampler": options.sampler, "steps": options.steps, "guidance": options.guidance},
        "largest_gap_of_a_batched_picture": int(gap),  # of 255, to the same picture by `generate` alone
        "autoencoder": measure_autoencoder(models.vae, sprites, options.images),
        "ceiling": measure_ceiling(models.vae, judge, sprites),
    }
    for name, wanted in lists.items():
        report[name] = measure_pictures(name, shelf, judge, wanted, options)
    found = {
        "psnr": report["autoencoder"]["all"]["psnr"],
        "concept_top1": report["concepts"]["concept_top1"],
        "concept_top5": report["concepts"]["concept_top5"],
        "background": report["backgrounds"]["background"],
    }
    report["floors"] = {
        name: {"floor": floor, "found": found[name], "reached": found[name] >= floor}
        for name, floor in FLOORS.items()
    }
    report["judge"] = judge.report
    report["seconds"] = round(time.perf_counter() - began)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="a file; none = the embedded model")
    parser.add_argument("--data", type=Path, required=True, help="what recipes.mini.dataset built")
    parser.add_argument("--cache", type=Path, help="folder for the judge's weights and fitted heads")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--sampler", default="DPM++ 2M")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=7.0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="leave out the pairs kept out of training")
    options = parser.parse_args()
    report = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report["floors"], indent=1))


if __name__ == "__main__":
    main()
