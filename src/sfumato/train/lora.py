"""LoRA and its kin: small changes of layers, trained beside weights that stay.

Shape letters: O out, I in, K… kernel of a convolution (nothing for a linear map), R rank.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.layers import Upsample
from sfumato.nn.unet import Downsample, ResBlock, SpatialTransformer
from sfumato.train.config import LoRAConfig, Targets, TrainConfig
from sfumato.train.method import Trainee, Weights
from sfumato.weights.adapters import kinds
from sfumato.weights.adapters.names import Place, kohya_names
from sfumato.weights.adapters.read import Piece
from sfumato.weights.adapters.tools import kohya_tensors
from sfumato.weights.files import write_safetensors
from sfumato.weights.load import Checkpoint

Layer = nn.Linear | nn.Conv2d


class Change(nn.Module):
    """A change of one layer that trains; at first it is none."""

    def __init__(
        self, layer: Layer, kind: str, rank: int, alpha: float | None, generator: torch.Generator
    ) -> None:
        """Take the layer's shape, dtype and device.

        Args:
            layer: what is changed; it is not held.
            kind: as in `LoRAConfig`.
            rank: R.
            alpha: the change is scaled by alpha / R; None = R.
            generator: of the first values.
        """
        super().__init__()
        self.kind = "lora" if kind == "dora" else kind
        self.scaled_by = alpha or float(rank)
        made = _FIRST[self.kind](layer.weight.shape, rank, generator)
        if kind == "dora":
            length = torch.linalg.vector_norm(layer.weight.float().flatten(1), dim=1)
            made["dora_scale"] = length.reshape(-1, *[1] * (layer.weight.ndim - 1)).cpu()
        self.tensors = nn.ParameterDict(
            {name: nn.Parameter(tensor.to(layer.weight)) for name, tensor in made.items()}
        )

    def forward(self, layer: Layer, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Give the changed layer's output.

        Args:
            layer: the same as at first.
            original: what it makes of x without the change.
            x: its input.
        """
        if self.kind != "lora":
            wide = {name: tensor.float() for name, tensor in self.tensors.items()}
            change = kinds.delta(self.kind, wide, self.scaled_by, layer.weight.float())
            assert change is not None
            return _apply(layer, layer.weight + change.to(layer.weight.dtype), layer.bias, x)
        out, thin = original(x), self._thin(layer, x)
        if "dora_scale" not in self.tensors:
            return out + thin
        # The norm counts as a constant on the way back (Liu et al. 2024, arXiv:2402.09353, section 4.3).
        factor: Tensor = self.tensors["dora_scale"] / self._norm(layer)
        factor = factor.flatten(1).T if isinstance(layer, nn.Linear) else factor.reshape(1, -1, 1, 1)
        if layer.bias is None:
            return (out + thin) * factor
        bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias[:, None, None]
        return (out - bias + thin) * factor + bias

    def _thin(self, layer: Layer, x: Tensor) -> Tensor:
        """Hu et al. 2021, arXiv:2106.09685: alpha / R · up · down · x."""
        down, up = self.tensors["down"], self.tensors["up"]
        scale = self.scaled_by / len(down)
        if isinstance(layer, nn.Linear):
            return F.linear(F.linear(x, down), up) * scale
        return F.conv2d(layer._conv_forward(x, down, None), up) * scale

    @torch.no_grad()
    def _norm(self, layer: Layer) -> Tensor:
        wide = {name: self.tensors[name].float() for name in ("down", "up")}
        weight = layer.weight.float()
        change = kinds.delta("lora", wide, self.scaled_by, weight)
        assert change is not None
        others = tuple(range(1, weight.ndim))
        norm: Tensor = torch.linalg.vector_norm(weight + change, dim=others, keepdim=True)
        return norm.to(layer.weight.dtype)


def _apply(layer: Layer, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return F.linear(x, weight, bias) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, bias)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Kaiming's uniform with a = √5, from which the field's trainers begin."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _first_lora(shape: torch.Size, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    ones = [1] * (len(shape) - 2)
    return {
        "down": _uniform((rank, *shape[1:]), generator),
        "up": torch.zeros(shape[0], rank, *ones),
    }


def _first_loha(shape: torch.Size, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    out, inside = shape[0], shape[1:].numel()
    return {
        "hada_w1_a": torch.randn(out, rank, generator=generator) * 0.1,
        "hada_w1_b": torch.randn(rank, inside, generator=generator),
        "hada_w2_a": torch.zeros(out, rank),
        "hada_w2_b": torch.randn(rank, inside, generator=generator),
    }


def _first_lokr(shape: torch.Size, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    (few_out, many_out), (few_in, many_in) = balanced(shape[0]), balanced(shape[1])
    inside = many_in * shape[2:].numel()
    first = {"lokr_w1": _uniform((few_out, few_in), generator)}
    if 2 * rank >= max(many_out, many_in):
        return first | {"lokr_w2": torch.zeros(many_out, many_in, *shape[2:])}
    return first | {
        "lokr_w2_a": torch.zeros(many_out, rank),
        "lokr_w2_b": _uniform((rank, inside), generator),
    }


def balanced(number: int) -> tuple[int, int]:
    """Split a number into the two factors that lie closest together, the smaller first."""
    few = next(each for each in range(math.isqrt(number), 0, -1) if number % each == 0)
    return few, number // few


_FIRST: Mapping[str, Callable[[torch.Size, int, torch.Generator], dict[str, Tensor]]] = {
    "lora": _first_lora,
    "loha": _first_loha,
    "lokr": _first_lokr,
}


def changed_layers(unet: nn.Module, targets: Targets, *, convolutions: bool) -> Iterator[tuple[str, Layer]]:
    """Give the layers of a U-Net that are to change, by name.

    Args:
        unet: the network.
        targets: "cross-attention": queries, keys, values and output where pictures look at texts;
            "attention": those where they look at themselves, too; "transformers": everything in them that is
            no norm.
        convolutions: also what residual blocks and changes of size consist of.
    """
    parts = {"cross-attention": (".attn2.",), "attention": (".attn1.", ".attn2."), "transformers": (".",)}
    for outer, block in unet.named_modules():
        if isinstance(block, SpatialTransformer):
            yield from _layers(outer, block, parts[targets])
        elif convolutions and isinstance(block, ResBlock | Downsample | Upsample):
            yield from _layers(outer, block, (".",))


def _layers(outer: str, block: nn.Module, parts: tuple[str, ...]) -> Iterator[tuple[str, Layer]]:
    for inner, layer in block.named_modules():
        name = f"{outer}.{inner}"
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(part in name for part in parts):
            yield name, layer


def lora(config: TrainConfig, checkpoint: Checkpoint) -> Trainee:
    """Put changes beside layers of a checkpoint's U-Net, and of its text encoder where that has a rate."""
    table = config.lora
    generator = torch.Generator().manual_seed(config.seed)
    found = {
        Place("unet", name): layer
        for name, layer in changed_layers(
            checkpoint.unet, table.targets, convolutions=table.conv_rank is not None
        )
    }
    if config.optimiser.text_rate is not None:
        for name, layer in checkpoint.text.named_modules():
            if isinstance(layer, nn.Linear):
                found[Place("text", name)] = layer
    changes: dict[Place, Change] = {}
    for place in kohya_names(checkpoint.spec):  # in one order, whatever the modules' is
        if place in found:
            layer = found[place]
            changes[place] = Change(layer, table.kind, *_rank(table, layer), generator)
            _wear(layer, changes[place])
    assert changes.keys() == found.keys()

    def export(path: Path, weights: Weights, metadata: Mapping[str, str]) -> None:
        made = {
            place: Piece(
                kind=change.kind,
                tensors={name: weights[_name(place, name)] for name in change.tensors},
                alpha=change.scaled_by,
            )
            for place, change in changes.items()
        }
        said = {"format": "pt", **_network_metadata(table), **metadata}
        write_safetensors(path, kohya_tensors(made, checkpoint.spec), said, dtype=getattr(torch, table.dtype))

    parameters = {
        _name(place, name): parameter
        for place, change in changes.items()
        for name, parameter in change.tensors.items()
    }
    return Trainee(parameters=parameters, export=export)


def _name(place: Place, field: str) -> str:
    return f"{place.network}.{place.module}.{field}"


def _rank(table: LoRAConfig, layer: Layer) -> tuple[int, float | None]:
    wide = isinstance(layer, nn.Conv2d) and layer.weight[0, 0].numel() > 1
    return (table.conv_rank or 1, table.conv_alpha) if wide else (table.rank, table.alpha)


def _wear(layer: Layer, change: Change) -> None:
    original = layer.forward
    layer.forward = lambda x: change(layer, original, x)  # type: ignore[assignment,method-assign]


def _network_metadata(table: LoRAConfig) -> dict[str, str]:
    """Say what the file holds, as kohya's trainer and LyCORIS do."""
    arguments: dict[str, str] = {}
    if table.conv_rank is not None:
        arguments |= {
            "conv_dim": str(table.conv_rank),
            "conv_alpha": f"{table.conv_alpha or table.conv_rank:g}",
        }
    module = "networks.lora"
    if table.kind != "lora":
        module = "lycoris.kohya"
        arguments["algo"] = "locon" if table.kind == "dora" else table.kind
        if table.kind == "dora":
            arguments["dora_wd"] = "True"
    return {
        "ss_network_module": module,
        "ss_network_dim": str(table.rank),
        "ss_network_alpha": f"{table.alpha or table.rank:g}",
        "ss_network_args": json.dumps(arguments),
    }
