"""Embeddings of every layout come to the same vectors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.weights.adapters.embeddings import read_embedding
from sfumato.weights.files import file_sha256, write_safetensors

VECTORS = torch.arange(6.0).view(2, 3)
INTERFACE = {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "fur", "step": 500}
INTERFACE |= {"sd_checkpoint": "6ce0161689", "sd_checkpoint_name": "base"}
LAYOUTS: dict[str, Callable[[Path], Path]] = {}


def layout(name: str, ending: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def kept(write: Callable[[Path], None]) -> Callable[[Path], None]:
        def made(folder: Path) -> Path:
            path = folder / f"fur.{ending}"
            write(path)
            return path

        LAYOUTS[name] = made
        return write

    return kept


layout("of the interface", "pt")(lambda path: torch.save(INTERFACE, path))
layout("of diffusers", "bin")(lambda path: torch.save({"<fur>": VECTORS}, path))
layout("of the interface, as parameters", "pt")(
    lambda path: torch.save({"string_to_param": {"*": torch.nn.Parameter(VECTORS)}}, path)
)
layout("emb_params", "safetensors")(lambda path: write_safetensors(path, {"emb_params": VECTORS}))
layout("of diffusers, safe", "safetensors")(lambda path: write_safetensors(path, {"<fur>": VECTORS}))
layout("any name", "safetensors")(lambda path: write_safetensors(path, {"fur": VECTORS.half()}))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_comes_to_the_same_vectors(tmp_path: Path, name: str) -> None:
    path = LAYOUTS[name](tmp_path)
    embedding = read_embedding(path)
    assert embedding.name == "fur"
    assert torch.equal(embedding.vectors, VECTORS)
    assert embedding.vectors.dtype == torch.float32
    assert embedding.digest == file_sha256(path)


def test_what_its_trainer_said_is_told(tmp_path: Path) -> None:
    embedding = read_embedding(LAYOUTS["of the interface"](tmp_path))
    assert (embedding.step, embedding.checkpoint, embedding.checkpoint_hash) == (500, "base", "6ce0161689")


def test_one_vector_may_lie_flat(tmp_path: Path) -> None:
    torch.save({"<fur>": VECTORS[0]}, tmp_path / "fur.bin")
    assert read_embedding(tmp_path / "fur.bin").vectors.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("tensors", "error", "said"),
    [
        ({"clip_g": torch.ones(2, 1280), "clip_l": torch.ones(2, 768)}, UnknownModelError, "SDXL"),
        ({"a": VECTORS, "b": VECTORS}, UnknownModelError, "2 tensors"),
        ({"a": torch.ones(2, 3, 4)}, UnknownModelError, "no embedding"),
        ({"a": torch.ones(0, 3)}, UnknownModelError, "no embedding"),
        ({"emb_params": torch.full((1, 3), torch.nan)}, WeightsError, "not finite"),
    ],
)
def test_anything_else_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], error: type[Exception], said: str
) -> None:
    write_safetensors(tmp_path / "x.safetensors", tensors)
    with pytest.raises(error, match=said):
        read_embedding(tmp_path / "x.safetensors")
