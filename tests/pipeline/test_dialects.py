"""Pictures of other programs. The texts are constructed in the layouts that sd-parsers documents."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import OutputError, SfumatoError
from sfumato.pipeline import dialects, images, metadata
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Sampling

COMFY: dict[str, Any] = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 12,
            "cfg": 6.5,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
}
INVOKE = {
    "app_version": "4.2.0",
    "positive_prompt": "a cat",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 768,
    "seed": 7,
    "cfg_scale": 6.5,
    "steps": 12,
    "scheduler": "dpmpp_2m_k",
    "model": {"model_name": "dream"},
}
NOVEL = {
    "steps": 12,
    "sampler": "k_dpmpp_2m",
    "seed": 7,
    "scale": 6.5,
    "uc": "blurry",
    "width": 512,
    "height": 768,
}
FOOOCUS = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "base_model": "dream",
    "base_model_hash": "0123456789",
    "guidance_scale": 6.5,
    "resolution": "(512, 768)",
    "sampler": "dpmpp_2m",
    "scheduler": "karras",
    "seed": "7",
    "steps": 12,
    "version": "Fooocus v2.5.0",
}
TEXTS: dict[str, dict[str, str]] = {
    "ComfyUI": {"prompt": json.dumps(COMFY), "workflow": "{}"},
    "InvokeAI 4.2.0": {"invokeai_metadata": json.dumps(INVOKE)},
    "NovelAI": {
        "Software": "NovelAI",
        "Source": "Stable Diffusion 1D44365E",
        "Description": "a cat",
        "Comment": json.dumps(NOVEL),
    },
    "Fooocus Fooocus v2.5.0": {"parameters": json.dumps(FOOOCUS)},
}


@pytest.mark.parametrize("program", TEXTS)
def test_every_dialect_becomes_the_same_request(program: str) -> None:
    found = dialects.origin(TEXTS[program])
    assert found.program == program
    assert found.notes
    assert found.request is not None
    request = found.request
    assert request.prompt == Prompt(
        text="a cat", negative="blurry", clip_skip=2 if program == "NovelAI" else 1
    )
    schedule = "Automatic" if program == "NovelAI" else "Karras"
    assert request.sampling == Sampling(sampler="DPM++ 2M", schedule=schedule, steps=12, guidance=6.5)
    source = "philox" if program == "NovelAI" else "cpu"
    assert request.canvas == Canvas(width=512, height=768, seed=7, noise_source=source)
    assert metadata.read(found.text) == request


def test_the_legacy_of_invokeai_is_read() -> None:
    text = '"a cat [blurry]" -s 12 -S 7 -W 512 -H 768 -C 6.5 -A k_euler_a'
    request = dialects.origin({"Dream": text}).request
    assert request is not None
    assert request.prompt == Prompt(text="a cat", negative="blurry")
    assert (request.sampling.sampler, request.canvas.seed) == ("Euler a", 7)


@pytest.mark.parametrize(
    ("parameters", "program"),
    [
        ("Version: v1.10.1", "AUTOMATIC1111's web UI v1.10.1"),
        ("Version: f2.0.1v1.10.1", "web UI Forge f2.0.1v1.10.1"),
        ("App: SD.Next", "SD.Next"),
        ("Version: ComfyUI", "ComfyUI"),
        ("Tiling: True", "a program that writes like AUTOMATIC1111's web UI"),
    ],
)
def test_infotext_says_who_wrote_it(parameters: str, program: str) -> None:
    found = dialects.origin({"parameters": f"a cat\nSteps: 1, Seed: 2, Size: 64x64, {parameters}"})
    assert found.program == program
    assert found.request is not None


def test_our_own_pictures_are_known() -> None:
    request = Request(canvas=Canvas(width=64, height=64, seed=1), model=ModelChoice(checkpoint="tiny"))
    found = dialects.origin({"parameters": metadata.write(request)})
    assert found.program.startswith("Sfumato ")
    assert (found.request, found.notes, found.fault) == (request, (), "")


def test_what_is_not_done_here_is_said() -> None:
    text = 'Steps: 1, Seed: 2, Size: 64x64, Lora hashes: "fur: 01", Token merging ratio: 0.5, Version: v1.5.0'
    notes = dialects.origin({"parameters": text}).notes
    assert [note.split(":")[0] for note in notes] == [
        "Lora hashes",
        "Token merging ratio",
        "before web UI 1.6",
        "before web UI 1.8",
    ]


def test_values_out_of_range_leave_the_text_without_a_request() -> None:
    found = dialects.origin({"parameters": "<b>\nSteps: 1000000000, Sampler: a, Seed: 1"})
    assert found.request is None
    assert "steps" in found.fault


DEEP = "[" * 100_000
CHAIN = {
    str(k): {
        "class_type": "KSampler",
        "inputs": {"sampler_name": "euler", "steps": 1, "cfg": 1, "model": [str(k + 1), 0]},
    }
    for k in range(400)
}


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"Comment": "made with love"},
        {"prompt": "a cat"},
        {"prompt": "{}"},
        {"prompt": "[1]"},
        {"prompt": '{"1": 2}'},
        {"prompt": DEEP},
        {"prompt": '{"1":' * 5000},
        {"prompt": json.dumps(CHAIN)},
        {"prompt": json.dumps({str(k): {"class_type": "A", "inputs": {}} for k in range(501)})},
        {"parameters": "{" * 50_000},
        {"parameters": "{}"},
        {"parameters": '{"base_model": 1}'},
        {"parameters": "a" * (17 * 2**20)},
        {"parameters": "{" + " " * (5 * 2**20)},
        {"invokeai_metadata": "[]"},
        {"invokeai_metadata": DEEP},
        {"sd-metadata": '{"image": []}'},
        {"sd-metadata": '{"image": {"sampler": 1, "prompt": 5}}'},
        {"Dream": '"' * 1_000_000},
        {"Software": "NovelAI", "Comment": "7"},
        {"Software": "NovelAI", "Comment": DEEP},
    ],
    ids=range(22),
)
def test_hostile_texts_are_refused_in_one_line(texts: dict[str, str]) -> None:
    with pytest.raises(OutputError) as caught:
        dialects.origin(texts)
    assert len(str(caught.value)) < 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(sorted(TEXTS)),
    st.dictionaries(st.sampled_from(sorted({*INVOKE, *NOVEL, *FOOOCUS})), json_values, max_size=4),
)
def test_no_value_of_any_type_makes_it_fail(program: str, changed: dict[str, Any]) -> None:
    texts = dict(TEXTS[program])
    for key, text in texts.items():
        if text.startswith("{"):
            texts[key] = json.dumps({**json.loads(text), **changed})
    with suppress(SfumatoError):
        dialects.origin(texts)


@given(st.lists(st.tuples(st.sampled_from(sorted(COMFY["3"]["inputs"])), json_values), max_size=4))
def test_no_comfyui_graph_makes_it_fail(changed: list[tuple[str, Any]]) -> None:
    graph = json.loads(json.dumps(COMFY))
    graph["3"]["inputs"].update(changed)
    with suppress(SfumatoError):
        dialects.origin({"prompt": json.dumps(graph)})


def test_a_comfyui_graph_that_runs_in_circles_ends() -> None:
    graph = json.loads(json.dumps(COMFY))
    graph["6"]["inputs"] = {"text": ["7", 0]}
    graph["7"]["inputs"] = {"text": ["6", 0]}
    found = dialects.origin({"prompt": json.dumps(graph)})
    assert found.info.prompt == ""


def test_texts_of_a_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "comfy.png"
    chunks = PngInfo()
    for key, text in TEXTS["ComfyUI"].items():
        chunks.add_text(key, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    assert dialects.origin(images.read_texts(path)).program == "ComfyUI"
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(COMFY)}"
    Image.new("RGB", (8, 8)).save(tmp_path / "comfy.webp", exif=exif)
    assert dialects.origin(images.read_texts(tmp_path / "comfy.webp")).program == "ComfyUI"


def test_a_text_that_inflates_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    chunks = PngInfo()
    chunks.add_text("parameters", "a" * 2**26, zip=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=chunks)
    assert path.stat().st_size < 2**20
    with pytest.raises(OutputError, match=r"bomb\.png"):
        images.read_texts(path)
