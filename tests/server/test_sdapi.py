"""AUTOMATIC1111's routes that make pictures: what its clients send is taken, what they read is there."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

SMALL = {"steps": 3, "width": 64, "height": 64, "seed": 7}


def post(client: TestClient, route: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/sdapi/v1/{route}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def picture(size: tuple[int, int] = (64, 64), colour: str = "red") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_pictures_come_with_what_was_made(client: TestClient) -> None:
    answer = post(client, "txt2img", **SMALL, prompt="a cat", n_iter=2, batch_size=2, styles=["red"])
    info = json.loads(answer["info"])
    assert set(answer) == {"images", "parameters", "info"}
    assert len(answer["images"]) == 4
    assert info["all_seeds"] == [7, 8, 9, 10]
    assert info["all_prompts"] == ["a cat, red"] * 4
    assert (info["negative_prompt"], info["index_of_first_image"], info["styles"]) == ("grey", 0, ["red"])
    assert answer["parameters"]["prompt"] == "a cat"
    for text, infotext in zip(answer["images"], info["infotexts"], strict=True):
        assert opened(text).size == (64, 64)
        assert opened(text).info["parameters"] == infotext
    again = post(client, "txt2img", **(SMALL | {"seed": 9}), prompt="a cat, red", negative_prompt="grey")
    assert opened(again["images"][0]).size == (64, 64)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("txt2img", {"sampler_name": "no such"}),
        ("txt2img", {"steps": "many"}),
        ("txt2img", {"steps": 0}),
        ("txt2img", {"width": 7}),
        ("txt2img", {"n_iter": 0}),
        ("txt2img", {"seed": 2**70}),
        ("txt2img", {"script_name": "no such"}),
        ("txt2img", {"alwayson_scripts": {"ADetailer": {"args": []}}}),
        ("txt2img", {"alwayson_scripts": {"X/Y/Z plot": {"args": []}}}),
        ("txt2img", {"styles": ["no such"]}),
        ("img2img", {"init_images": ["https://example.com/a.png"]}),
        ("img2img", {"init_images": ["/etc/passwd"]}),
        ("img2img", {"init_images": ["aGVsbG8="]}),
        ("img2img", {"init_images": [""]}),
        ("extra-single-image", {"image": "%%%"}),
        ("extra-single-image", {"image": picture(), "upscaling_resize": 0}),
        ("extra-batch-images", {"imageList": []}),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_shape(
    client: TestClient, route: str, body: dict[str, Any]
) -> None:
    answer = client.post(f"/sdapi/v1/{route}", json=body)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert "Traceback" not in answer.text
    assert "/src/" not in answer.text


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("img2img", {}),
        ("img2img", {"init_images": []}),
        ("interrogate", {"image": picture()}),
        ("interrogate", {"image": picture(), "model": "no such"}),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "no such"}}),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}),
    ],
)
def test_what_is_not_there_is_not_found(client: TestClient, route: str, body: dict[str, Any]) -> None:
    answer = client.post(f"/sdapi/v1/{route}", json=body)
    assert answer.status_code == 404, answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
