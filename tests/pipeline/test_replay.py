from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline import dialects, metadata
from sfumato.pipeline.replay import difference, reasons, request_again
from sfumato.types import Canvas, Hires, ModelChoice, Prompt, Request, Source

REQUEST = Request(canvas=Canvas(width=64, height=64, seed=1), model=ModelChoice(checkpoint="tiny"))


def origin(request: Request = REQUEST, **extra: str) -> dialects.Origin:
    hashes = {"model_hash": "a" * 64}
    return dialects.origin({"parameters": metadata.write(request, **hashes, extra=extra.items())})


def test_equal_pictures_have_no_difference() -> None:
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    assert difference(picture, picture.copy()).largest == 0


def test_a_difference_is_measured_per_value() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    changed = pixels.copy()
    changed[0, 0] = (255, 3, 0)
    apart = difference(Image.fromarray(pixels), Image.fromarray(changed))
    assert (apart.largest, apart.mean, apart.share) == (255, 258 / 12, 2 / 12)


def test_other_sizes_are_not_compared() -> None:
    with pytest.raises(RequestError, match="8×8"):
        difference(Image.new("RGB", (8, 8)), Image.new("RGB", (8, 16)))


def test_a_picture_made_from_text_needs_nothing_more() -> None:
    assert request_again(origin()) == REQUEST
    hires = Request(canvas=REQUEST.canvas, hires=Hires(enabled=True))
    assert request_again(origin(hires)) == hires


def test_a_picture_made_from_another_needs_it() -> None:
    source = Source(image=Path("a.png"), denoising_strength=0.5)
    found = origin(Request(canvas=REQUEST.canvas, source=source))
    with pytest.raises(RequestError, match="--source"):
        request_again(found)
    assert request_again(found, source=Path("a.png")).source == source


@pytest.mark.parametrize("name", ["/etc/x.safetensors", "C:\\x", "\\\\host\\share\\x", "../x", "a/../../x"])
def test_a_picture_does_not_choose_a_file(name: str) -> None:
    found = origin(Request(canvas=REQUEST.canvas, model=ModelChoice(checkpoint=name)))
    with pytest.raises(RequestError, match="--model"):
        request_again(found)
    assert request_again(found, checkpoint="tiny").model.checkpoint == "tiny"


@pytest.mark.parametrize("tag", ["<lora:/etc/x.safetensors:1>", "<hypernet:../x>"])
def test_nor_does_its_prompt(tag: str) -> None:
    for request in (
        Request(canvas=REQUEST.canvas, prompt=Prompt(text=f"a cat{tag}")),
        Request(canvas=REQUEST.canvas, hires=Hires(enabled=True, prompt=f"a cat{tag}")),
    ):
        with pytest.raises(RequestError, match="by a path"):
            request_again(origin(request))
    inside = Request(canvas=REQUEST.canvas, prompt=Prompt(text="a cat<lora:style/fur:1>"))
    assert request_again(origin(inside)) == inside


def test_causes_are_named() -> None:
    again = metadata.write(REQUEST, model_hash="b" * 64, extra=[("Precision", "float32")])
    assert reasons(origin(Precision="bfloat16"), again, lossless=True) == [
        "Model hash: then aaaaaaaaaa, now bbbbbbbbbb",
        "Precision: then bfloat16, now float32",
    ]
    other = dialects.origin({"parameters": "Steps: 1, Seed: 2, Size: 64x64, Version: v1.10.1"})
    assert [line.split()[0] for line in reasons(other, again, lossless=False)] == ["the", "made"]
    assert len(reasons(origin(), metadata.write(REQUEST, model_hash="a" * 64), lossless=True)) == 1
