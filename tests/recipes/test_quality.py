import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import quality
from benchmarks.judge import Head, Judge, Verdict
from benchmarks.mobilenet import FEATURES, MobileNetV2
from recipes.mini.colours import COLOURS
from recipes.mini.compose import Sprites, compose
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import ModelChoice, Sampling

NAMES = ("cat", "dog", "owl", "fox", "bee")


def judged(*names: str, style: str = "3d", background: str = "white") -> Verdict:
    several = (*names, *NAMES)[:5]
    return Verdict(concepts=several, blind=several[::-1], style=style, background=background)


def asked(*names: str, **fields: str) -> quality.Wanted:
    return quality.Wanted(prompt="", concepts=frozenset(names), **fields)


def test_rates_are_shares_of_what_was_wanted() -> None:
    wanted = [asked("cat"), asked("fox", "ant", style="flat", background="red")]
    found = quality.hit_rates([judged(), judged()], wanted)
    assert found["concept_top1"] == found["style"] == found["background"] == 0.5
    assert found["concept_top5"] == found["blind_top5"] == 1
    assert found["blind_top1"] == 0


@pytest.mark.parametrize(
    ("name", "verdict", "beside", "right"),
    [
        ("concepts", judged("cat"), judged(), True),
        ("concepts", judged("dog"), judged(), False),
        ("unseen-words", judged("dog"), judged(), True),  # among five
        ("unseen-words", Verdict(concepts=("ant",), blind=(), style="", background=""), judged(), False),
        ("backgrounds", judged("dog", background="blue"), judged(), True),
        ("unseen-background", judged("cat"), judged(), False),
        ("unseen-layout", judged("owl"), judged("house"), True),
        ("unseen-layout", judged("house"), judged("owl"), False),  # the other way round
        ("unseen-colour", judged("dog"), judged(), True),
    ],
)
def test_each_list_is_marked_by_what_it_is_about(
    name: str, verdict: Verdict, beside: Verdict, right: bool, sprites: Sprites
) -> None:
    wanted = asked("cat", background="blue", colour="red", second="house", position="above")
    drawn = quality.Drawn(
        wanted=[wanted],
        pictures=[compose(sprites.pixels[0], COLOURS["white"])],  # a red disc
        features=np.zeros((1, quality.LAST_LAYER), np.float32),
        verdicts=[verdict],
        beside=[beside],
    )
    if verdict.concepts[0] == "house":
        drawn = replace(drawn, verdicts=[Verdict(concepts=("house",), blind=(), style="", background="")])
    assert quality.marks(name, drawn) == [right]


def test_prompts_read_naturally_and_keep_to_their_list(sprites: Sprites) -> None:
    concepts = quality.concept_prompts(sprites)
    assert [set(w.concepts) for w in concepts] == [{name} for name in sprites.mini]
    assert len({w.style for w in concepts}) >= 3
    assert not {(c, w.style) for w in concepts for c in w.concepts} & sprites.heldout_styles
    prompts = {w.prompt for w in quality.first_prompts(sprites)}
    assert prompts >= {"a slice of pizza, 3d", "an apple, 3d", "bread, 3d"}
    assert "a unicorn, 3d" not in prompts  # came later
    unseen = quality.unseen_prompts(sprites)
    found = {name: {(*w.concepts, w.style, w.background, w.colour) for w in unseen[name]} for name in unseen}
    assert {(c, s) for c, s, _, _ in found["unseen-style"]} == sprites.heldout_styles
    assert {(c, b) for c, _, b, _ in found["unseen-background"]} == sprites.heldout_backgrounds
    assert {(c, o) for c, _, _, o in found["unseen-colour"]} == sprites.heldout_colours
    texts = {w.prompt for wanted in unseen.values() for w in wanted}
    assert texts >= {"a purple apple, 3d", "blue bread, 3d", "a loaf, 3d", "a king's unicorn, 3d"}
    assert texts >= {"an apple left of a cat, 3d", "bread right of an hourglass, 3d"}


def test_a_list_is_thinned_evenly_and_each_prompt_stands_for_every_seed(sprites: Sprites) -> None:
    wanted = quality.concept_prompts(sprites)
    assert quality.repeated(wanted, None, 1) == wanted
    assert quality.repeated(wanted, 3, 2) == [w for w in wanted[::2] for _ in range(2)]


def test_background_prompts_leave_out_the_unseen(sprites: Sprites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "PER_COLOUR", 4)
    wanted = quality.background_prompts(sprites)
    assert [w.background for w in wanted] == [colour for colour in COLOURS for _ in range(4)]
    assert not {(c, w.background) for w in wanted for c in w.concepts} & sprites.heldout_backgrounds


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a"])
def test_pictures_made_together_are_those_of_the_product(tiny_checkpoint: Path, sampler: str) -> None:
    shelf = ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32", default=str(tiny_checkpoint))
    prompts, sampling = ["a cat", "bread, 3d", "a slice of pizza"], Sampling(sampler=sampler, steps=3)
    together = list(quality.draw(shelf, prompts, sampling, batch=2))
    for seed, (prompt, picture) in enumerate(zip(prompts, together, strict=True)):
        gap = quality.alone(shelf, prompt, seed, sampling).astype(int) - picture
        assert np.abs(gap).max() <= 1  # batches sum in another order


def test_reconstruction_keeps_form_and_order(tiny_checkpoint: Path) -> None:
    shelf = ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32", default=str(tiny_checkpoint))
    vae = shelf.load(ModelChoice()).vae
    pictures = np.random.default_rng(0).integers(0, 256, (18, 16, 16, 3), dtype=np.uint8)
    made = quality.reconstruct(vae, pictures)
    assert made.shape == pictures.shape
    single = quality.reconstruct(vae, pictures[17:])
    assert np.abs(single.astype(int) - made[17:]).max() <= 1


@pytest.fixture
def eyes(sprites: Sprites) -> Judge:
    """A judge that has learned nothing."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    classes = {"concept": len(sprites.mini), "blind": len(sprites.mini), "style": 4}
    heads = {
        name: Head(
            mean=np.zeros(FEATURES, np.float32),
            std=np.ones(FEATURES, np.float32),
            weight=rng.standard_normal((count, FEATURES)).astype(np.float32),
            bias=np.zeros(count, np.float32),
        )
        for name, count in classes.items()
    }
    return Judge(MobileNetV2().eval(), sprites.mini, heads, {})


def test_lists_are_drawn_judged_and_shown(
    tiny_checkpoint: Path, sprites: Sprites, eyes: Judge, tmp_path: Path
) -> None:
    shelf = ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32", default=str(tiny_checkpoint))
    options = argparse.Namespace(sampler="Euler", steps=1, guidance=1.0, batch=4)
    lists = {"concepts": quality.concept_prompts(sprites)} | quality.unseen_prompts(sprites)
    for name in ("concepts", "unseen-layout"):
        wanted = quality.repeated(lists[name], 2, seeds=2)
        drawn = quality.make(shelf, eyes, wanted, options)
        assert len(drawn.pictures) == len(drawn.verdicts) == len(drawn.features) == len(wanted) == 4
        assert len(drawn.beside) == (4 if name == "unseen-layout" else 0)
        found = quality.report_list(name, drawn, tmp_path, seeds=2)
        assert found["pictures"] == 4
        assert 0 <= found["right"] <= 1
        assert found["spread"] > 0
        assert json.dumps(found)
        with Image.open(tmp_path / f"mini-{name}.png") as image:
            assert image.width == 20 * 68
        if name == "concepts":
            distance = quality.measure_distance(eyes, sprites, drawn)
            assert distance["pictures"] == 4
            assert distance["drawn"] >= 0
            assert distance["least"] >= 0
            np.save(tmp_path / "pictures.npy", np.stack(drawn.pictures))
            copies = quality.measure_copying(tmp_path, drawn, tmp_path)
            assert copies["training_pictures"] == 4
            assert copies["least"] == copies["median"] == 0
