"""webuiapi, the client most programs use, unmodified, against a server at a port: every function of it."""

import inspect
import socket
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
import uvicorn
import webuiapi
from PIL import Image

from sfumato.app.engine import Engine
from sfumato.app.leaving import Leaving
from sfumato.server.app import create_app
from sfumato.server.serving import Server

RED, MASK = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
SMALL = {"steps": 2, "width": 64, "height": 64, "seed": 3}


@pytest.fixture(scope="module")
def api(engine: Engine) -> Iterator[webuiapi.WebUIApi]:
    said: list[str] = []
    config = uvicorn.Config(create_app(engine), port=0, log_level="warning")
    server = Server(config, Leaving(), said.append)
    thread = Thread(target=server.run)
    thread.start()
    while not said:
        assert thread.is_alive()
    yield webuiapi.WebUIApi(port=int(said[0].rpartition(":")[2]), sampler="Euler a", steps=2)
    server.should_exit = True
    thread.join(30)


def _text(api: Any) -> None:
    result = api.txt2img(prompt="a cat", negative_prompt="dog", styles=["red"], **SMALL)
    assert result.image.size == (64, 64)
    assert result.info["all_prompts"] == ["a cat, red"]
    assert result.parameters["steps"] == 2
    high = api.txt2img(prompt="a cat", enable_hr=True, hr_upscaler=webuiapi.HiResUpscaler.Lanczos, **SMALL)
    assert high.image.size == (128, 128)
    several = api.txt2img(n_iter=2, batch_size=2, save_images=True, **SMALL)
    assert len(several.images) == 5


def _picture(api: Any) -> None:
    result = api.img2img(images=[RED], mask_image=MASK, inpainting_fill=1, denoising_strength=0.5, **SMALL)
    assert result.image.size == (64, 64)
    script = {"script_name": "SD Upscale", "script_args": ["", 8, "Lanczos", 2.0]}
    assert api.img2img(images=[RED], **script, **SMALL).image.size == (128, 128)
    with pytest.raises(RuntimeError, match="404"):
        api.img2img(images=[])


def _extras(api: Any) -> None:
    result = api.extra_single_image(RED, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=1.5)
    assert result.image.size == (96, 96)
    assert "Lanczos" in result.info


def _batch(api: Any) -> None:
    result = api.extra_batch_images([RED, RED], upscaler_1="Nearest", upscaling_resize=2)
    assert [image.size for image in result.images] == [(128, 128)] * 2


def _info(api: Any) -> None:
    made = api.txt2img(prompt="a cat", **SMALL)
    assert api.png_info(made.image).info == made.info["infotexts"][0]


def _interrogate(api: Any) -> None:
    with pytest.raises(RuntimeError, match="404"):
        api.interrogate(RED)


def _options(api: Any) -> None:
    before = api.get_options()["send_seed"]
    assert api.set_options({"send_seed": not before}) is None
    assert api.get_options()["send_seed"] is not before
    api.set_options({"send_seed": before})


def _progress(api: Any) -> None:
    assert api.get_progress()["progress"] == 0
    api.util_wait_for_ready()


def _model(api: Any) -> None:
    for name in api.util_get_model_names():
        api.util_set_model(name, find_closest=False)
        assert api.util_get_current_model() == name
    api.util_set_model("tiny")
    assert api.util_get_current_model().startswith("tiny.safetensors [")


def _control(api: Any) -> None:
    with pytest.raises(RuntimeError, match="404"):
        api.controlnet_detect([RED])


def _missing(name: str) -> Callable[[Any], None]:
    """What belongs to extensions, and answers are not there."""

    def call(api: Any) -> None:
        with pytest.raises((KeyError, RuntimeError)):
            getattr(api, name)()

    return call


def _rows(name: str) -> Callable[[Any], None]:
    def call(api: Any) -> None:
        assert isinstance(getattr(api, name)(), list | dict)

    return call


def _error(name: str) -> Callable[[Any], None]:
    def call(api: Any) -> None:
        assert set(getattr(api, name)()) == {"error", "detail", "body", "errors", "code", "request_id"}

    return call


CALLS: dict[str, Callable[[Any], None]] = {
    "txt2img": _text,
    "img2img": _picture,
    "extra_single_image": _extras,
    "extra_batch_images": _batch,
    "png_info": _info,
    "interrogate": _interrogate,
    "get_options": _options,
    "set_options": _options,
    "get_progress": _progress,
    "util_wait_for_ready": _progress,
    "util_set_model": _model,
    "util_get_current_model": _model,
    "util_get_model_names": _model,
    "util_get_sampler_names": _rows("util_get_sampler_names"),
    "util_get_scheduler_names": _rows("util_get_scheduler_names"),
    "interrupt": _rows("interrupt"),
    "skip": lambda api: api.skip() is None,
    "refresh_checkpoints": lambda api: api.refresh_checkpoints() is None,
    **{
        name: _rows(name)
        for name in (
            "get_cmd_flags",
            "get_samplers",
            "get_sd_vae",
            "get_upscalers",
            "get_latent_upscale_modes",
            "get_loras",
            "get_sd_models",
            "get_hypernetworks",
            "get_face_restorers",
            "get_realesrgan_models",
            "get_prompt_styles",
            "get_scripts",
            "get_embeddings",
            "get_memory",
            "get_schedulers",
        )
    },
    "get_artists": _error("get_artists"),  # gone upstream, too
    "get_artist_categories": _error("get_artist_categories"),
    "controlnet_detect": _control,
    **{
        name: _missing(name)
        for name in (
            "controlnet_version",
            "controlnet_model_list",
            "controlnet_module_list",
            "list_prompt_gen_models",
            "prompt_gen",
        )
    },
}
PLUMBING = (
    "async_post",
    "check_extensions",
    "custom_get",
    "custom_post",
    "get_endpoint",
    "post_and_get_api_result",
)


def test_every_function_of_the_client_is_driven() -> None:
    public = [
        name
        for name, _ in inspect.getmembers(webuiapi.WebUIApi, inspect.isfunction)
        if not name.startswith("_") and name not in (*PLUMBING, "set_auth")
    ]
    assert sorted(CALLS) == sorted(public)


@pytest.mark.parametrize("name", CALLS)
def test_the_client_gets_what_it_expects(api: webuiapi.WebUIApi, name: str) -> None:
    CALLS[name](api)


def test_a_client_that_goes_away_stops_nothing_for_others(api: webuiapi.WebUIApi, engine: Engine) -> None:
    port = int(api.baseurl.split(":")[2].partition("/")[0])
    body = b'{"steps": 50, "width": 64, "height": 64}'
    head = "POST /sdapi/v1/txt2img HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as gone:
        gone.sendall(head.encode() + body)
        while api.get_progress()["progress"] == 0:
            pass
    assert api.txt2img(**SMALL).image.size == (64, 64)


def test_many_clients_wait_at_once_and_others_are_answered(api: webuiapi.WebUIApi) -> None:
    sizes: list[tuple[int, int]] = []
    body = SMALL | {"steps": 1, "width": 32, "height": 32}
    threads = [Thread(target=lambda: sizes.append(api.txt2img(**body).image.size)) for _ in range(60)]
    for thread in threads:
        thread.start()
    assert api.get_samplers()
    for thread in threads:
        thread.join(60)
    assert sizes == [(32, 32)] * 60
