"""Extras: sizes, blending and keys as A1111 has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling

from sfumato.errors import ModelNotFoundError, RequestError
from sfumato.pipeline.postprocess import Enlarged, Enlargement, enlarge_image, plan
from sfumato.pipeline.upscalers import UpscalerShelf

SHELF = UpscalerShelf(Path("none"), device=torch.device("cpu"))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def enlarged(image: Image.Image, **given: Any) -> Enlarged:
    *_, out = enlarge_image(image, Enlargement(**given), SHELF)
    assert isinstance(out, Enlarged)
    return out


@pytest.mark.parametrize(
    ("size", "given", "before_crop", "infotext"),
    [
        ((100, 75), {"scale": 4}, (400, 296), "Postprocess upscale by: 4"),
        ((64, 64), {"scale": 1.5}, (96, 96), "Postprocess upscale by: 1.5"),
        (
            (512, 384),
            {"scale": 4, "max_side": 1000},
            (1000, 744),
            "Postprocess upscale by: 4, Max side length: 1000",
        ),
        ((512, 384), {"scale": 2, "max_side": 1024}, (1024, 768), "Postprocess upscale by: 2"),
        (
            (512, 384),
            {"width": 512, "height": 512},
            (680, 512),
            "Postprocess upscale to: 512x512, Postprocess crop to: 512x512",
        ),
        (
            (512, 384),
            {"width": 512, "height": 512, "crop": False},
            (680, 512),
            "Postprocess upscale to: 512x512",
        ),
        (
            (100, 75),
            {"width": 1001, "height": 751},
            (1001, 751),  # sides that are no multiples of 8 are covered as well
            "Postprocess upscale to: 1001x751, Postprocess crop to: 1001x751",
        ),
    ],
)
def test_sizes_and_keys(
    size: tuple[int, int], given: dict[str, Any], before_crop: tuple[int, int], infotext: str
) -> None:
    planned, _ = plan(size, Enlargement(upscaler="Lanczos", **given))
    assert planned == before_crop
    out = enlarged(noise(*size), upscaler="Lanczos", **given)
    cropped = "crop to" in infotext
    assert out.image.size == ((given["width"], given["height"]) if cropped else before_crop)
    assert out.infotext == f"{infotext}, Postprocess upscaler: Lanczos"


def test_cropping_keeps_the_middle() -> None:
    image = noise(20, 10)
    out = enlarged(image, upscaler="Nearest", width=40, height=40).image
    whole = image.resize((80, 40), Resampling.NEAREST)
    assert np.array_equal(np.array(out), np.array(whole)[:, 20:60])


def test_two_upscalers_are_blended_by_visibility() -> None:
    image = noise(16, 16)
    out = enlarged(image, upscaler="Nearest", second_upscaler="Lanczos", second_visibility=0.25, scale=2)
    first = image.resize((32, 32), Resampling.NEAREST)
    second = image.resize((32, 32), Resampling.LANCZOS)
    expected = 0.75 * np.array(first).astype(float) + 0.25 * np.array(second).astype(float)
    assert np.abs(np.array(out.image) - expected).max() <= 1  # rounded to bytes
    assert out.infotext.endswith("Postprocess upscaler: Nearest, Postprocess upscaler 2: Lanczos")


def test_a_second_upscaler_that_is_not_seen_does_not_run() -> None:
    out = enlarged(noise(16, 16), upscaler="Nearest", second_upscaler="no such", scale=2)
    assert "upscaler 2" not in out.infotext


def test_no_upscaler_leaves_the_picture() -> None:
    image = noise(16, 16)
    out = enlarged(image, upscaler="None", scale=2)
    assert out.image is image
    assert out.infotext == ""


def test_steps_of_two_upscalers_count_on() -> None:
    given = Enlargement(
        upscaler="R-ESRGAN AnimeVideo", second_upscaler="R-ESRGAN AnimeVideo", second_visibility=0.5, scale=2
    )
    *steps, _ = enlarge_image(noise(16, 16), given, SHELF)
    assert [(step.done, step.total) for step in steps] == [(1, 2), (2, 2)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "given",
    [
        {"scale": 0.0},
        {"scale": 17.0},
        {"scale": float("nan")},
        {"second_visibility": 1.1},
        {"max_side": -1},
        {"width": 8},
        {"width": 0, "height": 8},
    ],
)
def test_values_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(given)) if len(given) == 1 else "8"):
        Enlargement(**given)


def test_an_unknown_upscaler_is_refused_before_any_work() -> None:
    with pytest.raises(ModelNotFoundError, match="Lanczos"):
        next(enlarge_image(noise(8, 8), Enlargement(upscaler="Lanzcos"), SHELF))


def test_the_shelf_keeps_the_last_two() -> None:
    shelf = UpscalerShelf(Path("none"), device=torch.device("cpu"))
    first = shelf.load("R-ESRGAN AnimeVideo")
    assert shelf.load("R-ESRGAN AnimeVideo") is first
    shelf.load("Lanczos")
    shelf.load("Nearest")
    assert shelf.load("R-ESRGAN AnimeVideo") is not first
