"""Embeddings: found by the words of a prompt, seen by the encoder, named in the picture."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.weights.adapters.conftest import kohya_lora

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.pipeline.embedding_pictures import read_embedding_picture
from sfumato.pipeline.generate import generate, prepare
from sfumato.pipeline.plan import Plan
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Prompt, Request, Result, Sampling
from sfumato.weights.files import file_sha256, write_safetensors

VECTORS = torch.randn(2, 16, generator=torch.Generator().manual_seed(5))
DATA = {"string_to_param": {"*": {"TORCHTENSOR": VECTORS.tolist()}}, "name": "zwx", "step": 7}


def with_text(path: Path) -> Path:
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(DATA).encode()).decode())
    Image.new("RGB", (64, 64), "teal").save(path, pnginfo=info)
    return path


def with_pixels(path: Path, data: bytes | None = None) -> Path:
    """Hide the data as the format says: halves of bytes in the low bits of borders."""
    packed = np.frombuffer(zlib.compress(json.dumps(DATA).encode()) if data is None else data, np.uint8)
    height, seed = 64, 0
    count = -(-len(packed) // (3 * height)) * 3 * height
    packed = np.resize(packed, count)
    mask = np.empty(count, np.uint8)
    for place in range(count):
        seed = (1664525 * seed + 1013904223) % 2**32
        mask[place] = (seed % 255) & 15
    borders = [
        (0x50 | (half ^ mask)).astype(np.uint8).reshape(height, -1, 3) for half in (packed & 15, packed >> 4)
    ]
    black, picture = np.zeros((height, 1, 3), np.uint8), np.full((height, 64, 3), 120, np.uint8)
    pixels = np.concatenate([borders[0], black, picture, black, borders[1]], 1)
    Image.fromarray(np.pad(pixels, ((3, 3), (0, 0), (0, 0)))).save(path)  # the frame some sites add
    return path


@pytest.mark.parametrize("hide", [with_text, with_pixels])
def test_an_embedding_is_found_in_a_picture(tmp_path: Path, hide) -> None:
    path = hide(tmp_path / "card.png")
    embedding = read_embedding_picture(path)
    assert (embedding.name, embedding.step, embedding.digest) == ("zwx", 7, file_sha256(path))
    assert torch.equal(embedding.vectors, VECTORS)


def test_a_picture_without_one_carries_none(tmp_path: Path) -> None:
    for name, image in (("plain", Image.new("RGB", (32, 32), "red")), ("black", Image.new("RGB", (32, 32)))):
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(UnknownModelError, match="no embedding"):
            read_embedding_picture(tmp_path / f"{name}.png")


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="damaged"):
        read_embedding_picture(with_pixels(tmp_path / "a.png", zlib.compress(b"{}")))
    with pytest.raises(UnknownModelError, match="no embedding"):
        read_embedding_picture(with_pixels(tmp_path / "b.png", b"nothing"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.safetensors").symlink_to(tiny_checkpoint)
    (folder / "embeddings").mkdir()
    write_safetensors(folder / "embeddings" / "qjy.safetensors", {"emb_params": VECTORS})
    torch.save({"string_to_param": {"*": VECTORS * 2}}, folder / "embeddings" / "bad-one.pt")
    write_safetensors(folder / "embeddings" / "wide.safetensors", {"emb_params": torch.ones(1, 32)})
    with_text(folder / "embeddings" / "card.png")
    bundle = {"bundle_emb.vkb.string_to_param.*": VECTORS}
    write_safetensors(folder / "fur.safetensors", kohya_lora(seed=1) | bundle)
    return folder


@pytest.fixture(scope="module")
def shelf(folder: Path) -> ModelShelf:
    return ModelShelf(folder, device="cpu", dtype="float32", default="tiny")


def request(text: str, negative: str = "") -> Request:
    return Request(
        prompt=Prompt(text=text, negative=negative),
        sampling=Sampling(steps=1, sampler="Euler"),
        canvas=Canvas(seed=1, width=32, height=32),
    )


def read(shelf: ModelShelf, text: str, negative: str = "") -> tuple[torch.Tensor, Plan]:
    plan = prepare(request(text, negative), shelf)
    contexts = plan.passes[0].script.contexts
    assert not callable(contexts)
    return contexts.positive[0].context, plan


def test_the_encoder_sees_the_vectors_where_the_name_stands(shelf: ModelShelf) -> None:
    context, plan = read(shelf, "a qjy cat")
    models = plan.passes[0].models
    tokens = [49406, *models.reader.tokenizer.encode("a"), 0, 0, *models.reader.tokenizer.encode("cat")]
    ids = torch.tensor([tokens + [49407] * (77 - len(tokens))])
    seen: list[torch.Tensor] = []
    layer = models.checkpoint.text.text_model.encoder
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    models.checkpoint.text(ids, 1, [(0, 2, VECTORS)])
    handle.remove()
    embeddings = models.checkpoint.text.text_model.embeddings
    expected = VECTORS + embeddings.position_embedding.weight[2:4]
    assert torch.equal(seen[0][0, 2:4], expected)
    assert torch.equal(context, models.checkpoint.text(ids, 1, [(0, 2, VECTORS)]))


@pytest.mark.parametrize("text", ["a QJY cat", "a (qjy:1.0) cat", "a [qjy:dog:1.0] cat"])
def test_the_name_is_found_however_it_stands(shelf: ModelShelf, text: str) -> None:
    assert torch.allclose(read(shelf, text)[0], read(shelf, "a qjy cat")[0], atol=1e-6)


def test_names_in_the_negative_prompt_count(shelf: ModelShelf, folder: Path) -> None:
    _, plan = read(shelf, "a cat", "bad-one")
    digest = file_sha256(folder / "embeddings" / "bad-one.pt")[:12]
    assert plan.networks == (("TI hashes", f"bad-one: {digest}"),)


def test_a_picture_in_the_folder_is_called_by_its_own_name(shelf: ModelShelf) -> None:
    assert torch.equal(read(shelf, "a zwx cat")[0], read(shelf, "a qjy cat")[0])
    assert read(shelf, "a card cat")[1].networks == ()


def test_one_of_another_width_is_text(shelf: ModelShelf, caplog: pytest.LogCaptureFixture) -> None:
    assert read(shelf, "a wide cat")[1].networks == ()
    assert "not of width 16" in caplog.text


def test_one_that_came_with_an_adapter_is_there_while_that_is_worn(shelf: ModelShelf) -> None:
    alone = read(shelf, "a vkb cat")[0]
    worn, plan = read(shelf, "a vkb cat<lora:fur:0>")
    assert torch.equal(worn, read(shelf, "a qjy cat")[0])
    assert not torch.equal(worn, alone)
    assert [row[0] for row in plan.networks] == ["Lora hashes"]


def test_the_hash_stands_in_the_picture(shelf: ModelShelf, folder: Path) -> None:
    *_, result = generate(request("a qjy cat"), shelf)
    assert isinstance(result, Result)
    digest = file_sha256(folder / "embeddings" / "qjy.safetensors")[:12]
    assert f'TI hashes: "qjy: {digest}"' in result.infotext
