"""Adapters of random weights for any checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY
from torch import nn

from sfumato.weights.adapters.names import kohya_names
from sfumato.weights.layouts import build_empty
from sfumato.weights.specs import ModelSpec

Tensors = dict[str, torch.Tensor]
TARGETS = ("proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def networks(spec: ModelSpec) -> dict[str, nn.Module]:
    return {name: build_empty(name, spec) for name in ("unet", "text")}


def kohya_lora(
    spec: ModelSpec = TINY, rank: int = 4, alpha: float | None = 2.0, *, conv: bool = False, seed: int = 0
) -> Tensors:
    """A LoRA as kohya's trainer saves it: what it changes, under which names, in which shapes."""
    draw = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    made = networks(spec)
    for (network, module), name in kohya_names(spec).items():
        weight = getattr(made[network].get_submodule(module), "weight", None)
        if weight is None:  # a shortcut where the width stays
            continue
        wanted = module.endswith(TARGETS if network == "unet" else TEXT_TARGETS)
        blocks = conv and network == "unet" and module.startswith(("input_blocks", "middle", "output_blocks"))
        convolution = blocks and weight.ndim > 1 and not module.startswith("input_blocks.0.")
        if not wanted and not convolution:
            continue
        out, inside, *kernel = weight.shape
        ones = [1] * len(kernel)
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inside, *kernel, generator=draw) * 0.3
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, rank, *ones, generator=draw) * 0.3
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write tensors to an adapter file."""
    from sfumato.weights.files import write_safetensors

    def written(tensors: Tensors, name: str = "fur", metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        write_safetensors(path, tensors, metadata)
        return path

    return written
