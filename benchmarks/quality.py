"""Measure the embedded picture model with eyes that took no part in its training.

    python -m benchmarks.quality CHECKPOINT --data DIR [--pack DIR]

writes benchmarks/results/quality.json and contact sheets to docs/images/. Every seed is the place of the
prompt in its list, in which it stands --seeds times: none is chosen. The judge's own accuracy on real
renderings stands in the same file.

Shape letters: N pictures, S seeds, H W pixels, F features.
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
from PIL import Image
from torch import Tensor

from benchmarks.figures import (
    chroma_error,
    frechet_distance,
    halves,
    nearest,
    object_colour,
    psnr,
    share,
    sheet,
    spread,
)
from benchmarks.judge import Judge, Verdict, describe, load_judge
from recipes.mini.colours import COLOURS
from recipes.mini.compose import POSITIONS, STYLES, Pixels, Row, Sprites, article, compose, load
from sfumato.diffusion.guidance import Contexts, Part
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline.generate import Walked, generate, walk
from sfumato.pipeline.latents import decode
from sfumato.pipeline.networks import Shown
from sfumato.pipeline.opening import Opening
from sfumato.pipeline.plan import make_plan
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Result, Sampling

AUTOENCODER_FLOOR = 28.0  # dB
FLOORS = {
    ("concepts", "concept_top1"): 0.75,
    ("concepts", "concept_top5"): 0.9,
    ("concepts", "style"): 0.9,
    ("unseen-style", "style"): 0.9,
    ("unseen-style", "concept_top5"): 0.6,
    ("unseen-background", "background"): 0.95,
    ("unseen-colour", "right"): 0.7,
    ("unseen-words", "right"): 0.6,
    ("unseen-layout", "right"): 0.5,
}
HERO = STYLES[0]
LAST_LAYER = 1280  # features that a distance between sets of pictures is taken in
SHOWN = 20  # results beside the training pictures nearest to them
ROOT = Path(__file__).resolve().parents[1]
PER_COLOUR = 10  # pictures on each of the ten backgrounds


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One prompt and what its picture should show."""

    prompt: str
    concepts: frozenset[str]  # any of them will do
    style: str = HERO
    background: str = "white"
    colour: str | None = None  # of the thing itself
    position: str | None = None  # of the thing beside a second one
    second: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What the model made of a list of prompts, and what the judge says."""

    wanted: Sequence[Wanted]
    pictures: Sequence[Pixels]
    features: NDArray[np.float32]  # (N,F)
    verdicts: Sequence[Verdict]
    beside: Sequence[Verdict]  # of the second thing of a layout; the verdict above is of the first


def hit_rates(verdicts: Sequence[Verdict], wanted: Sequence[Wanted]) -> dict[str, float]:
    """Give the shares of pictures whose concept, style and background the judge finds as wanted (0 to 1)."""
    pairs = list(zip(verdicts, wanted, strict=True))
    return {
        "pictures": len(pairs),
        "concept_top1": share([v.concepts[0] in w.concepts for v, w in pairs]),
        "concept_top5": share([not w.concepts.isdisjoint(v.concepts) for v, w in pairs]),
        "blind_top1": share([v.blind[0] in w.concepts for v, w in pairs]),
        "blind_top5": share([not w.concepts.isdisjoint(v.blind) for v, w in pairs]),
        "style": share([v.style == w.style for v, w in pairs]),
        "background": share([v.background == w.background for v, w in pairs]),
    }


def marks(name: str, drawn: Drawn) -> list[bool]:
    """Say for each picture of a list whether it shows what the list is about."""
    triples = zip(drawn.verdicts, drawn.wanted, drawn.pictures, strict=True)
    if name in {"backgrounds", "unseen-background"}:
        return [v.background == w.background for v, w, _ in triples]
    if name == "unseen-colour":
        return [object_colour(picture) == w.colour for _, w, picture in triples]
    if name == "unseen-layout":
        return [
            not w.concepts.isdisjoint(v.concepts) and w.second in second.concepts
            for (v, w, _), second in zip(triples, drawn.beside, strict=True)
        ]
    if name == "unseen-words":
        return [not w.concepts.isdisjoint(v.concepts) for v, w, _ in triples]
    return [v.concepts[0] in w.concepts for v, w, _ in triples]


# -- what is asked for


def concept_prompts(sprites: Sprites) -> list[Wanted]:
    """Ask for every concept on the white that is not said, each in one of its styles by turns."""
    wanted = []
    for place, concept in enumerate(sprites.mini):
        turns = [STYLES[(place + k) % len(STYLES)] for k in range(len(STYLES))]
        style = next(style for style in turns if (concept, style) not in sprites.heldout_styles)
        wanted.append(in_style(sprites, concept, style))
    return wanted


def first_prompts(sprites: Sprites) -> list[Wanted]:
    """Ask for the first model's concepts in the hero style, as its own figures were taken."""
    names = sorted({row.concept for row in sprites.rows if row.first})
    return [in_style(sprites, concept, HERO) for concept in names]


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
    """Ask for what was kept out of training: pairs, words, and things beside each other."""
    colours = [
        Wanted(
            prompt=f"{with_article(sprites, concept, f'{colour} {concept}')}, {HERO}",
            concepts=frozenset({concept}),
            colour=colour,
        )
        for concept, colour in sorted(sprites.heldout_colours)
    ]
    words = [
        Wanted(prompt=f"{article(word)}, {HERO}", concepts=frozenset(concepts))
        for word, concepts in sprites.info["heldout"]["words"].items()
    ]
    layouts = []
    for place, pair in enumerate(sorted(sorted(pair) for pair in sprites.heldout_layouts)):
        first, second = pair
        position = list(POSITIONS)[place % len(POSITIONS)]
        text = f"{said(sprites, first)} {position} {said(sprites, second)}, {HERO}"
        layouts.append(Wanted(prompt=text, concepts=frozenset({first}), position=position, second=second))
    return {
        "unseen-style": [in_style(sprites, c, style) for c, style in sorted(sprites.heldout_styles)],
        "unseen-background": [on_colour(sprites, c, b) for c, b in sorted(sprites.heldout_backgrounds)],
        "unseen-colour": colours,
        "unseen-words": words,
        "unseen-layout": layouts,
    }


def in_style(sprites: Sprites, concept: str, style: str) -> Wanted:
    """Ask for a concept in a style."""
    return Wanted(prompt=f"{said(sprites, concept)}, {style}", concepts=frozenset({concept}), style=style)


def on_colour(sprites: Sprites, concept: str, colour: str) -> Wanted:
    """Ask for a concept in the hero style on a named background."""
    text = f"{said(sprites, concept)}, {HERO}, {colour} background"
    return Wanted(prompt=text, concepts=frozenset({concept}), background=colour)


def with_article(sprites: Sprites, concept: str, noun: str) -> str:
    """Put "a" or "an" before what a concept is called, unless it takes none."""
    row = sprites.find(concept, HERO)
    return noun if row is not None and row.mass else article(noun)


def said(sprites: Sprites, concept: str) -> str:
    """Name a concept as a prompt does: "a slice of pizza", "french fries"."""
    return with_article(sprites, concept, concept)


def repeated(wanted: Sequence[Wanted], most: int | None, seeds: int) -> list[Wanted]:
    """Thin a list evenly to at most so many prompts, and let each stand `seeds` times."""
    step = max(1, -(-len(wanted) // most)) if most else 1
    return [each for each in wanted[::step] for _ in range(seeds)]


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


def last(steps: Generator[Any, Any, Walked]) -> Tensor:
    """Run a walk to its end and give the latents it leads to."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return cast("Walked", stop.value).latents


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


def make(shelf: ModelShelf, judge: Judge, wanted: Sequence[Wanted], options: argparse.Namespace) -> Drawn:
    """Draw a list of prompts and have it judged."""
    sampling = Sampling(sampler=options.sampler, steps=options.steps, guidance=options.guidance)
    pictures = list(draw(shelf, [w.prompt for w in wanted], sampling, options.batch))
    seen, beside = list(pictures), []
    if wanted[0].position:
        cut = [halves(picture, w.position) for picture, w in zip(pictures, wanted, strict=True) if w.position]
        seen, beside = [first for first, _ in cut], judge.read([second for _, second in cut])
    return Drawn(
        wanted=wanted,
        pictures=pictures,
        features=describe(judge.network, pictures)[:, :LAST_LAYER],
        verdicts=judge.read(seen),
        beside=beside,
    )


def report_list(name: str, drawn: Drawn, images: Path, seeds: int) -> dict[str, Any]:
    """Save the contact sheet of a list; give the shares, and what was taken for what."""
    right = marks(name, drawn)
    sheet(drawn.pictures[::seeds], right[::seeds]).save(images / f"mini-{name}.png")
    found: dict[str, Any] = hit_rates(drawn.verdicts, drawn.wanted) | {"right": share(right)}
    if seeds > 1:
        found["spread"] = round(spread(drawn.features.reshape(-1, seeds, LAST_LAYER)), 4)
    styles = sorted({w.style for w in drawn.wanted})
    if len(styles) > 1:
        pairs = list(zip(drawn.verdicts, drawn.wanted, strict=True))
        found["by_style"] = {}
        for style in styles:
            of_style = [pair for pair in pairs if pair[1].style == style]
            found["by_style"][style] = hit_rates(*zip(*of_style, strict=True))
    found["missed"] = {
        w.prompt: [v.concepts[0], v.style, v.background]
        for v, w, hit in zip(drawn.verdicts, drawn.wanted, right, strict=True)
        if not hit
    }
    return found


def real(sprites: Sprites, wanted: Sequence[Wanted], seed: int) -> list[Pixels]:
    """Render what was asked for from the drawings themselves, each placed anew."""
    rng = np.random.default_rng(seed)
    pictures = []
    for w in wanted:
        (concept,) = w.concepts
        row = sprites.find(concept, w.style)
        assert row is not None
        pictures.append(compose(sprites.pixels[row.row], COLOURS["white"], scale=rng.uniform(0.92, 1.0)))
    return pictures


def measure_distance(judge: Judge, sprites: Sprites, drawn: Drawn) -> dict[str, Any]:
    """Compare what was drawn with renderings of the same things that no training saw, as two clouds.

    "least" is the same distance between two such sets of renderings: what is left for the best model.
    """
    first, second = (
        describe(judge.network, real(sprites, drawn.wanted, seed))[:, :LAST_LAYER] for seed in (1, 2)
    )
    return {
        "features": "MobileNetV2, last pooled layer; not comparable with FID",
        "pictures": len(first),
        "drawn": round(frechet_distance(drawn.features, first), 2),
        "least": round(frechet_distance(second, first), 2),
        "spread_of_renderings": round(spread(np.stack([first, second], 1)), 4),
    }


def measure_copying(pack: Path, drawn: Drawn, images: Path) -> dict[str, Any]:
    """Set SHOWN results above the training pictures most like them, and say how alike all are."""
    training = np.load(pack / "pictures.npy", mmap_mode="r")
    step = max(1, len(drawn.pictures) // SHOWN)
    shown = np.stack(drawn.pictures[::step][:SHOWN])
    places, distances = nearest(shown, training)
    lines = [np.concatenate(list(each), 1) for each in (shown, training[places])]
    Image.fromarray(np.concatenate(lines)).save(images / "mini-nearest.png")
    return {
        "training_pictures": len(training),
        "difference": "root mean square over 16x16 cells, of 255",
        "median": round(float(np.median(distances)), 2),
        "least": round(float(distances.min()), 2),
    }


def measure_ceiling(vae: AutoencoderKL, judge: Judge, sprites: Sprites) -> dict[str, float]:
    """Judge the real hero pictures after the autoencoder: the best the picture model could reach."""
    wanted = first_prompts(sprites)
    return hit_rates(judge.read(reconstruct(vae, np.stack(real(sprites, wanted, 3)))), wanted)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything and give what quality.json says."""
    sprites = load(options.data)
    judge = load_judge(sprites, options.cache)
    shelf = ModelShelf(Path(), device="cpu", dtype=options.dtype, default=options.checkpoint)
    models = shelf.load(ModelChoice())
    options.images.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    sampling = Sampling(sampler=options.sampler, steps=options.steps, guidance=options.guidance)
    lists = {
        "first": first_prompts(sprites),
        "concepts": concept_prompts(sprites),
        "backgrounds": background_prompts(sprites),
    }
    if not options.quick:
        lists |= unseen_prompts(sprites)
    lists = {name: repeated(wanted, options.most, options.seeds) for name, wanted in lists.items()}
    prompts = [w.prompt for w in lists["concepts"][: options.batch]]
    batched = next(draw(shelf, prompts, sampling, options.batch))
    gap = np.abs(batched.astype(int) - alone(shelf, prompts[0], 0, sampling)).max()
    report: dict[str, Any] = {
        "checkpoint": models.name,
        "sha256": models.sha256,
        "sampling": {"sampler": options.sampler, "steps": options.steps, "guidance": options.guidance},
        "seeds": options.seeds,
        "largest_gap_of_a_batched_picture": int(gap),  # of 255, to the same picture by `generate` alone
        "autoencoder": measure_autoencoder(models.vae, sprites, options.images),
        "ceiling": measure_ceiling(models.vae, judge, sprites),
    }
    for name, wanted in lists.items():
        drawn = make(shelf, judge, wanted, options)
        report[name] = report_list(name, drawn, options.images, options.seeds)
        if name in {"concepts", "unseen-style"}:
            report[f"{name}-distance"] = measure_distance(judge, sprites, drawn)
        if name == "concepts" and options.pack:
            report["copying"] = measure_copying(options.pack, drawn, options.images)
    report["floors"] = {
        f"{name}.{figure}": {
            "floor": floor,
            "found": report[name][figure],
            "reached": report[name][figure] >= floor,
        }
        for (name, figure), floor in FLOORS.items()
        if name in report
    }
    psnr_floor, found = AUTOENCODER_FLOOR, report["autoencoder"]["all"]["psnr"]
    report["floors"]["psnr"] = {"floor": psnr_floor, "found": found, "reached": found >= psnr_floor}
    report["judge"] = judge.report
    report["seconds"] = round(time.perf_counter() - began)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="a file; none = the embedded model")
    parser.add_argument("--data", type=Path, required=True, help="what recipes.mini.dataset built")
    parser.add_argument("--pack", type=Path, help="the pictures it was trained on, to look for copies among")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each prompt")
    parser.add_argument("--most", type=int, help="prompts of a list at most, spread over it evenly")
    parser.add_argument("--cache", type=Path, help="folder for the judge's weights and fitted heads")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--sampler", default="DPM++ 2M")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=7.0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="leave out what was kept out of training")
    options = parser.parse_args()
    report = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report["floors"], indent=1))


if __name__ == "__main__":
    main()
