"""AUTOMATIC1111's routes that make pictures: what its clients send is taken, what they read is there."""

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.errors import QueueFullError
from sfumato.pipeline.scripts.fields import API_NAMES, request_fields
from sfumato.server.schemas import BESIDE, Img2ImgBody, Txt2ImgBody
from sfumato.types import Request

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
    assert set(answer.json()) == {"error", "detail", "body", "errors", "code", "request_id"}
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
    assert set(answer.json()) == {"error", "detail", "body", "errors", "code", "request_id"}


BASE = {  # what old clients send: fields that are no more, and zeros that mean something else
    "prompt": "example prompt",
    "negative_prompt": "",
    "cfg_scale": 7,
    "denoising_strength": 0,
    "enable_hr": False,
    "eta": 0,
    "firstphase_height": 0,
    "firstphase_width": 0,
    "height": 64,
    "width": 64,
    "n_iter": 1,
    "batch_size": 1,
    "restore_faces": False,
    "s_churn": 0,
    "s_noise": 1,
    "s_tmax": 0,
    "s_tmin": 0,
    "sampler_index": "Euler a",
    "seed": -1,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "steps": 3,
    "styles": [],
    "subseed": -1,
    "subseed_strength": 0,
    "tiling": False,
}


@pytest.mark.parametrize(
    ("change", "count", "size"),
    [
        ({}, 1, (64, 64)),
        ({"negative_prompt": "example negative prompt"}, 1, (64, 64)),
        (
            {"prompt": "((emphasis)), (emphasis1:1.1), [to:1], [from::2], [from:to:0.3], [alt|alt1]"},
            1,
            (64, 64),
        ),
        ({"height": 128}, 1, (64, 128)),
        ({"enable_hr": True}, 1, (128, 128)),
        ({"enable_hr": True, "hr_upscaler": "Lanczos", "denoising_strength": 0.5}, 1, (128, 128)),
        ({"enable_hr": True, "denoising_strength": None, "hr_resize_x": 96, "hr_resize_y": 80}, 1, (96, 80)),
        ({"tiling": True}, 1, (64, 64)),
        ({"restore_faces": True}, 1, (64, 64)),
        ({"sampler_index": "PLMS"}, 1, (64, 64)),
        ({"sampler_index": "DDIM"}, 1, (64, 64)),
        ({"sampler_index": "UniPC"}, 1, (64, 64)),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "automatic"}, 1, (64, 64)),
        ({"n_iter": 2}, 2, (64, 64)),
        ({"batch_size": 2}, 2, (64, 64)),
        ({"width": 71, "height": 65.0, "steps": "2"}, 1, (64, 64)),
        (
            {"override_settings": {"sd_vae": "Automatic", "eta_noise_seed_delta": 31337, "unheard_of": 1}},
            1,
            (64, 64),
        ),
        ({"refiner_checkpoint": "sfumato-mini", "refiner_switch_at": 1}, 1, (64, 64)),
        (
            {"alwayson_scripts": {"Refiner": {"args": [False, "None", 0.8]}, "Seed": {"args": []}}},
            1,
            (64, 64),
        ),
        ({"unheard_of": [{}], "clip_skip": 2}, 1, (64, 64)),
        ({"seed": -2, "subseed_strength": 0.5, "prompt": "half \ud83d a character"}, 1, (64, 64)),
    ],
)
def test_text_to_image_takes_what_clients_send(
    client: TestClient, change: dict[str, Any], count: int, size: tuple[int, int]
) -> None:
    body = json.dumps(BASE | change)
    answer = client.post("/sdapi/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    images = answer.json()["images"]
    assert [opened(each).size for each in images] == [size] * count


REFUSED = object()


@pytest.mark.parametrize(
    ("field", "given", "taken"),
    [  # what pydantic takes in A1111's API, and what it refuses
        ("steps", "3", 3),
        ("steps", 3.0, 3),
        ("steps", "3.0", 3),
        ("steps", True, 1),
        ("steps", 3.5, REFUSED),
        ("steps", "3.5", REFUSED),
        ("steps", "three", REFUSED),
        ("steps", "", REFUSED),
        ("steps", None, REFUSED),
        ("steps", [3], REFUSED),
        ("steps", {}, REFUSED),
        ("steps", 1e300, REFUSED),
        ("width", "64", 64),
        ("width", -0.0, REFUSED),  # read as 0, which is no width
        ("seed", -0.0, 0),
        ("seed", "-1", -1),
        ("cfg_scale", "7.5", 7.5),
        ("cfg_scale", 7, 7.0),
        ("cfg_scale", -0.0, 0.0),
        ("cfg_scale", True, 1.0),
        ("cfg_scale", "NaN", REFUSED),
        ("cfg_scale", "Infinity", REFUSED),
        ("cfg_scale", None, REFUSED),
        ("tiling", "true", True),
        ("tiling", "off", False),
        ("tiling", 1, True),
        ("tiling", 0.0, False),
        ("tiling", 2, REFUSED),
        ("tiling", "perhaps", REFUSED),
        ("tiling", None, None),
        ("prompt", 5, REFUSED),
        ("prompt", None, REFUSED),
        ("prompt", ["a"], REFUSED),
        ("prompt", True, REFUSED),
        ("styles", "red", REFUSED),
        ("styles", None, None),
        ("sampler_name", None, None),
        ("sampler_name", 1, REFUSED),
        ("denoising_strength", "0.5", 0.5),
        ("denoising_strength", None, None),
        ("override_settings", [], REFUSED),
        ("override_settings", "{}", REFUSED),
        ("script_args", {}, REFUSED),
        ("script_args", "x", REFUSED),
        ("alwayson_scripts", [], REFUSED),
        ("unheard_of", {"x": [1]}, None),
    ],
)
def test_types_that_are_taken_for_others_and_those_that_are_not(
    client: TestClient, field: str, given: Any, taken: Any
) -> None:
    answer = client.post(
        "/sdapi/v1/txt2img", json={**BASE, "width": 32, "height": 32, "steps": 1, field: given}
    )
    assert answer.status_code == (422 if taken is REFUSED else 200), answer.text
    if taken is not REFUSED:
        echoed = answer.json()["parameters"].get(field)
        assert (echoed, type(echoed)) == (taken, type(taken))


def test_no_limit_of_churn_is_not_a_limit_of_zero(client: TestClient) -> None:
    body = {**BASE, "sampler_index": "Euler", "s_churn": 5, "seed": 1}
    unlimited, none = (
        post(client, "txt2img", **body, **change) for change in ({}, {"override_settings": {"s_tmax": 0}})
    )
    still = post(client, "txt2img", **(body | {"s_churn": 0}))
    assert opened(unlimited["images"][0]).tobytes() == opened(none["images"][0]).tobytes()
    assert opened(unlimited["images"][0]).tobytes() != opened(still["images"][0]).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mask": picture(colour="white")},
        {"mask": picture(colour="white"), "inpainting_mask_invert": True},
        {"mask": picture(colour="white"), "mask_blur": 2, "inpainting_fill": 1, "inpaint_full_res": False},
        {"script_name": "sd upscale", "script_args": ["", 8, "Lanczos", 2.0]},
        {"script_name": "SD Upscale", "script_args": ["", 8, 1, 2.0]},
        {"script_name": "loopback", "script_args": [2, 0.5, "Linear", "None"]},
        {"script_name": "outpainting mk2", "script_args": ["", 64, 8, ["left"], 1.0, 0.05]},
        {"alwayson_scripts": {"Soft Inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}, "mask": picture()},
        {"init_images": [picture(), picture(colour="blue")]},
        {"init_images": [picture((100, 70))], "resize_mode": 2, "mask": None},
    ],
)
def test_image_to_image_takes_what_clients_send(client: TestClient, change: dict[str, Any]) -> None:
    sent = {"init_images": [picture()], "override_settings": {}, "mask": None}
    answer = post(client, "img2img", **(BASE | sent | {"denoising_strength": 0.75} | change))
    wide = {"sd upscale": (128, 128), "outpainting mk2": (128, 64)}
    size = wide.get(change.get("script_name", "").lower(), (64, 64))
    assert {opened(each).size for each in answer["images"]} == {size}
    assert len(answer["images"]) == max(
        2 * ("loopback" in change.values()), len(change.get("init_images", "x"))
    )
    assert answer["parameters"]["init_images"] is None


def test_the_api_has_defaults_of_its_own(client: TestClient) -> None:
    info = json.loads(post(client, "txt2img", width=32, height=32)["info"])
    assert (info["steps"], info["sampler_name"], info["cfg_scale"]) == (50, "Euler", 7)
    body = {"init_images": [picture()], "mask": picture(), "width": 32, "height": 32, "steps": 1}
    info = json.loads(post(client, "img2img", **body)["info"])
    told = info["extra_generation_params"]
    assert info["denoising_strength"] == 0.75
    assert (told["Masked content"], told["Inpaint area"], told["Masked area padding"]) == (
        "fill",
        "Only masked",
        "0",
    )


def test_a_grid_stands_in_front_where_pictures_are_saved(client: TestClient) -> None:
    answer = post(client, "txt2img", **SMALL, n_iter=2, save_images=True)
    assert [opened(each).size for each in answer["images"]] == [(128, 64), (64, 64), (64, 64)]
    assert json.loads(answer["info"])["index_of_first_image"] == 1
    assert post(client, "txt2img", **SMALL, send_images=False)["images"] == []


def test_a_plot_answers_with_its_grid_first(client: TestClient) -> None:
    script = [4, "1,2", "", 0, "", [], "Nothing", "", [], False, True, False, False]
    answer = post(client, "txt2img", **SMALL, script_name="X/Y/Z plot", script_args=script)
    assert [opened(each).size for each in answer["images"]] == [(128, 64), (64, 64), (64, 64)]
    info = json.loads(answer["info"])
    assert info["index_of_first_image"] == 1
    assert "X Type: Steps" in info["infotexts"][0]


@pytest.mark.parametrize(
    ("title", "arguments", "count"),
    [
        ("prompt matrix", [False, False, "positive", "comma", 0], 3),
        ("prompts from file or textbox", [False, False, "start", "a\n--prompt b --steps 1"], 2),
    ],
)
def test_scripts_over_prompts(client: TestClient, title: str, arguments: list[Any], count: int) -> None:
    answer = post(client, "txt2img", **SMALL, prompt="a|b", script_name=title, script_args=arguments)
    assert len(answer["images"]) == count


@pytest.mark.parametrize(
    ("title", "arguments"),
    [
        ("prompt matrix", ["yes"]),
        ("prompt matrix", "text"),
        ("prompts from file or textbox", [False, False, "start", "--init_image /etc/passwd"]),
        ("x/y/z plot", [99, "1"]),
        ("x/y/z plot", ["Token merging ratio", "0.5"]),
        ("x/y/z plot", ["source.image", "/etc/passwd"]),
        ("loopback", []),
    ],
)
def test_arguments_that_fit_no_script_are_refused(client: TestClient, title: str, arguments: Any) -> None:
    body = {**SMALL, "prompt": "a|b", "script_name": title, "script_args": arguments}
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == 422


@pytest.mark.parametrize(("file_format", "name"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_pictures_come_in_the_format_that_is_set(client: TestClient, file_format: str, name: str) -> None:
    answer = post(client, "txt2img", **SMALL, override_settings={"samples_format": file_format}, prompt="é")
    assert opened(answer["images"][0]).format == name
    told = post(client, "png-info", image=answer["images"][0])
    assert told["info"] == json.loads(answer["info"])["infotexts"][0]
    assert (told["parameters"]["Prompt"], told["parameters"]["Seed"]) == ("é", "7")


def test_infotext_fills_what_is_not_given(client: TestClient) -> None:
    first = post(
        client, "txt2img", **SMALL, prompt="a cat", negative_prompt="grey", cfg_scale=3, sampler_name="DDIM"
    )
    infotext = json.loads(first["info"])["infotexts"][0]
    again = post(client, "txt2img", infotext=infotext)
    assert opened(again["images"][0]).tobytes() == opened(first["images"][0]).tobytes()
    other = json.loads(post(client, "txt2img", infotext=infotext, cfg_scale=4, prompt="a dog")["info"])
    assert (other["prompt"], other["cfg_scale"], other["seed"], other["steps"]) == ("a dog", 4, 7, 3)


@pytest.mark.parametrize(
    ("change", "size"),
    [
        (
            {
                "resize_mode": 0,
                "upscaling_resize": 2,
                "upscaler_1": "Lanczos",
                "upscaler_2": "Nearest",
                "extras_upscaler_2_visibility": 0.5,
                "gfpgan_visibility": 0,
                "upscale_first": False,
            },
            (128, 128),
        ),
        (
            {"resize_mode": 1, "upscaling_resize_w": 96, "upscaling_resize_h": 64, "upscaler_1": "Lanczos"},
            (96, 64),
        ),
        ({}, (64, 64)),
        ({"model": "clip"}, (64, 64)),
    ],
)
def test_finished_pictures_are_made_larger(
    client: TestClient, change: dict[str, Any], size: tuple[int, int]
) -> None:
    answer = post(client, "extra-single-image", image=picture(), **change)
    assert set(answer) == {"html_info", "image"}
    assert opened(answer["image"]).size == size
    several = post(client, "extra-batch-images", imageList=[{"data": picture(), "name": "a"}] * 2, **change)
    assert [opened(each).size for each in several["images"]] == [size] * 2


def test_what_is_missing_for_extras_is_not_found(client: TestClient) -> None:
    for body in ({"upscaler_1": "no such"}, {"codeformer_visibility": 1}, {"upscaler_1": "/etc/passwd.pth"}):
        answer = client.post("/sdapi/v1/extra-single-image", json={"image": picture(), **body})
        assert answer.status_code == 404, answer.text
        assert "/etc" not in answer.json()["detail"].replace("'/etc", "")


def test_a_picture_without_parameters_has_none(client: TestClient) -> None:
    assert post(client, "png-info", image=picture())["info"] == ""
    assert post(client, "png-info", image="")["info"] == ""


def test_every_field_means_a_field_of_a_request_or_is_named(client: TestClient) -> None:
    fields = {*Txt2ImgBody.model_fields, *Img2ImgBody.model_fields}
    assert fields <= {*API_NAMES, *BESIDE}
    assert set(BESIDE) <= fields
    known = request_fields()
    for name in fields - set(BESIDE):
        assert set(API_NAMES[name].fields) <= set(known)


def test_of_several_pictures_all_are_taken_in_or_none(client: TestClient, engine: Engine) -> None:
    full = Engine.submit
    with pytest.MonkeyPatch.context() as patch:
        calls = iter([False, True])

        def submit(self: Engine, request: Request, **given: Any) -> Job:
            if next(calls):
                raise QueueFullError("as many jobs wait as may", retry_after=2.5)
            return full(self, request, **given)

        patch.setattr(Engine, "submit", submit)
        body = {**SMALL, "init_images": [picture(), picture()], "steps": 900}
        answer = client.post("/sdapi/v1/img2img", json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    first = engine.jobs(limit=1)[0]
    assert engine.wait(first.id, 60).state == "cancelled"
