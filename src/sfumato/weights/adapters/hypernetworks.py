"""Hypernetworks of the field's interfaces: small networks before the keys and values of attention.

For each width of what is attended to there are two, one for the keys and one for the values; each adds its
answer to what it is given. A file has the matrices with their place in the sequence, and names the function
that stands between them.

Shape letters: B pictures, T tokens, C the width of what is attended to.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.weights.atomic import atomic_file
from sfumato.weights.files import file_sha256
from sfumato.weights.pickles import read_tensors

FOLDER = "hypernetworks"  # of the models folder, in which pickles are taken for them
_KEY = re.compile(
    r"(?P<width>\d+)\.(?P<side>[01])\.linear(?P<old>[12])?\.?(?P<place>\d+)?\.(?P<leaf>weight|bias)"
)
_MOST = 1000  # places in a sequence


def _same(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "linear": _same,
        "none": _same,
        "relu": F.relu,
        "leakyrelu": F.leaky_relu,
        "elu": F.elu,
        "swish": F.hardswish,  # by that name
        "hardswish": F.hardswish,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "hardshrink": F.hardshrink,
        "hardsigmoid": F.hardsigmoid,
        "hardtanh": F.hardtanh,
        "logsigmoid": F.logsigmoid,
        "relu6": F.relu6,
        "selu": F.selu,
        "celu": F.celu,
        "gelu": F.gelu,
        "silu": F.silu,
        "mish": F.mish,
        "softplus": F.softplus,
        "softshrink": F.softshrink,
        "softsign": F.softsign,
        "tanhshrink": F.tanhshrink,
    }
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Hyper:
    """One of the small networks."""

    layers: tuple[
        tuple[Tensor, Tensor | None], ...
    ]  # in order: matrix (O,I), or factors (C,) of a norm; bias
    activation: str
    last_too: bool  # the function follows the last matrix as well

    def __call__(self, x: Tensor, strength: float) -> Tensor:
        """Move what is attended to (B,T,C)."""
        act, last = (
            ACTIVATIONS[self.activation],
            max(n for n, (w, _) in enumerate(self.layers) if w.ndim == 2),
        )
        h = x
        for place, (weight, bias) in enumerate(self.layers):
            weight, bias = weight.to(x), None if bias is None else bias.to(x)
            if weight.ndim == 1:
                h = F.layer_norm(h, weight.shape, weight, bias)
                continue
            h = F.linear(h, weight, bias)
            h = act(h) if place < last or self.last_too else h
        return x + h * strength


@dataclass(frozen=True, kw_only=True, eq=False)
class Hypernetwork:
    """A file of them."""

    name: str
    digest: str  # SHA-256 of the file
    networks: Mapping[int, tuple[Hyper, Hyper]]  # by width: for keys, for values

    def pieces(self, unet: nn.Module) -> dict[str, Hyper]:
        """Assign them to the modules of a U-Net.

        Raises UnknownModelError: none of them fits.
        """
        found: dict[str, Hyper] = {}
        for name, module in unet.named_modules():
            if isinstance(module, nn.Linear) and name.endswith((".to_k", ".to_v")):
                pair = self.networks.get(module.in_features)
                if pair is not None:
                    found[name] = pair[name.endswith(".to_v")]
        if not found:
            widths = ", ".join(map(str, self.networks))
            raise UnknownModelError(
                f"the hypernetwork {self.name} is for the widths {widths}, of which the checkpoint has none"
            )
        return found


def read_hypernetwork(path: Path) -> Hypernetwork:
    """Read a hypernetwork.

    Args:
        path: a pickle, which is read without being executed, or a safetensors file of the same names.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: a pickle that asks for something to be executed.
        UnknownModelError: it is something else.
        WeightsError: it is broken, or asks for a function that is not known.
    """
    tensors, facts = read_tensors(path)
    places: dict[tuple[int, int], dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        if match := _KEY.fullmatch(name):
            place = int(match["place"]) if match["place"] else int(match["old"] or 0)
            side = places.setdefault((int(match["width"]), int(match["side"])), {})
            side.setdefault(min(place, _MOST), {})[match["leaf"]] = tensor.float()
    widths = {width for width, side in places if (width, 0) in places and (width, 1) in places}
    if not widths:
        raise UnknownModelError(f"{path} holds nothing of a hypernetwork")
    activation = facts.get("activation_func", "linear").lower()
    if activation not in ACTIVATIONS:
        raise WeightsError(f"{path} asks for the function {activation[:40]!r}, which is not known")
    last_too = facts.get("activate_output", "True") == "True"

    def hyper(width: int, side: int) -> Hyper:
        layers = tuple(
            (leaves["weight"], leaves.get("bias"))
            for _, leaves in sorted(places[width, side].items())
            if "weight" in leaves
        )
        made = Hyper(layers=layers, activation=activation, last_too=last_too)
        _require_shape(path, made, width)
        return made

    return Hypernetwork(
        name=path.stem,
        digest=file_sha256(path),
        networks={width: (hyper(width, 0), hyper(width, 1)) for width in sorted(widths)},
    )


def _require_shape(path: Path, hyper: Hyper, width: int) -> None:
    meta = tuple(
        (weight.to("meta"), None if bias is None else bias.to("meta")) for weight, bias in hyper.layers
    )
    finite = all(bool(each.isfinite().all()) for layer in hyper.layers for each in layer if each is not None)
    try:
        fits = Hyper(layers=meta, activation=hyper.activation, last_too=hyper.last_too)(
            torch.empty(1, 1, width, device="meta"), 1.0
        ).shape == (1, 1, width)
    except (RuntimeError, ValueError):  # or there is no matrix
        fits = False
    if not (fits and finite):
        raise WeightsError(f"{path} is broken: its network for the width {width} does not fit that")


def write_hypernetwork(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write a hypernetwork in the form that the field's interfaces read: a pickle of plain values.

    Args:
        path: the file; an existing one is replaced at once.
        tensors: by `WIDTH.SIDE.linear.PLACE.weight` and `.bias`; side 0 is for keys, 1 for values.
        facts: `activation_func`, `layer_structure` and the like.

    Raises:
        OutputError: the file cannot be written; an existing one is left as it was.
    """
    sides: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        width, side, rest = name.split(".", 2)
        sides.setdefault(int(width), ({}, {}))[int(side)][rest] = tensor.detach().float().cpu().clone()
    with atomic_file(path) as file:
        torch.save(dict[object, object]([*facts.items(), *sides.items()]), file)
