from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.judge import Verdict
from recipes.mini.colours import COLOURS
from recipes.mini.compose import STYLES, Sprites
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import ModelChoice, Sampling


def test_psnr_of_a_constant_error_has_its_closed_form() -> None:
    wanted = np.full((2, 8, 8, 3), 100, np.uint8)
    images = wanted + np.array([1, 16], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(quality.psnr(images, wanted), 20 * np.log10([255, 255 / 16]))


def test_chroma_error_ignores_lightness_and_sees_hue() -> None:
    grey, light = (np.full((1, 4, 4, 3), level, np.uint8) for level in (80, 200))
    assert quality.chroma_error(grey, light)[0] < 0.05
    red, green = (np.full((1, 4, 4, 3), colour, np.uint8) for colour in ([200, 0, 0], [0, 200, 0]))
    assert quality.chroma_error(red, green)[0] > 100


def test_rates_are_shares_of_what_was_wanted() -> None:
    names = ("cat", "dog", "owl", "fox", "bee")
    verdict = Verdict(concepts=names, blind=names[::-1], style="3d", background="white")
    wanted = [
        quality.Wanted(prompt="", concept="cat", style="3d", background="white"),
        quality.Wanted(prompt="", concept="fox", style="flat", background="red"),
    ]
    found = quality.hit_rates([verdict, verdict], wanted)
    assert found["concept_top1"] == found["style"] == found["background"] == 0.5
    assert found["concept_top5"] == found["blind_top5"] == 1
    assert found["blind_top1"] == 0


def test_prompts_read_naturally_and_keep_to_their_list(sprites: Sprites) -> None:
    concepts = quality.concept_prompts(sprites)
    assert [w.concept for w in concepts] == list(sprites.mini)
    prompts = {w.prompt for w in concepts}
    assert {"a slice of pizza, 3d", "an apple, 3d", "bread, 3d", "a unicorn, 3d"} <= prompts
    unseen = quality.unseen_prompts(sprites)
    assert {(w.concept, w.style) for w in unseen["concept_style"]} == sprites.heldout_styles
    assert {(w.concept, w.background) for w in unseen["concept_background"]} == sprites.heldout_backgrounds
    assert all(w.style in STYLES for each in unseen.values() for w in each)


def test_background_prompts_leave_out_the_unseen(sprites: Sprites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "PER_COLOUR", 4)
    wanted = quality.background_prompts(sprites)
    assert [w.background for w in wanted] == [colour for colour in COLOURS for _ in range(4)]
    assert not {(w.concept, w.background) for w in wanted} & sprites.heldout_backgrounds


def test_a_sheet_marks_what_was_missed() -> None:
    pictures = [np.full((16, 16, 3), 128, np.uint8)] * 3
    image = quality.sheet(pictures, [True, False, True], columns=2, side=16)
    assert image.size == (40, 40)
    assert image.getpixel((24, 17)) == (255, 0, 0)
    assert image.getpixel((4, 17)) == (255, 255, 255)


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
