"""Upscalers and face restorers of other architectures, through the library spandrel where it is installed.

spandrel (MIT) asks for torchvision, of which it uses two functions in two architectures. Where torchvision is
missing, or does not go with this torch, stand-ins are in its place while spandrel is imported: one that
computes what it says (`normalize`), one that only LaMa, an inpainting network, would call.
"""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.weights.files import read_safetensors

INSTALL = "pip install --no-deps spandrel einops"
INSTALL_EXTRA = "pip install --no-deps spandrel-extra-arches"  # CodeFormer among them; not for commercial use
_FUNCTIONAL = "torchvision.transforms.functional"


class Foreign:
    """A network of spandrel, as an enlarger."""

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor
        self.name = str(descriptor.architecture.name)  # CodeFormer, GFPGAN, SwinIR …
        self.restores_faces = descriptor.purpose == "FaceSR"

    @property
    def scale(self) -> int:
        """How many times wider and higher the result is."""
        return int(self._descriptor.scale)

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        model: nn.Module = self._descriptor.model
        return model

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the network."""
        return self.model.parameters()

    def __call__(self, x: Tensor) -> Tensor:
        """Enlarge colours (B,3,H,W) in [0, 1]; sizes the network cannot take are padded and cut again."""
        out: Tensor = self._descriptor(x)
        return out

    def restore(self, x: Tensor, weight: float) -> Tensor:
        """Restore upright faces (B,3,512,512) in [0, 1]; `weight` is CodeFormer's. Draws no noise."""
        if self.name not in ("CodeFormer", "GFPGAN"):
            return self(x)
        told: dict[str, Any] = {"weight": weight} if self.name == "CodeFormer" else {"randomize_noise": False}
        out: Tensor = self.model(x * 2 - 1, **told)[0]
        return (out + 1) / 2


def load(file: Path, path: Path, *, device: torch.device, dtype: torch.dtype) -> Foreign:
    """Load a network of a kind that spandrel knows.

    Args:
        file: safetensors.
        path: what the user gave, for messages.
        device: where it goes.
        dtype: what it computes in, if the architecture can; else float32.

    Raises:
        UnknownModelError: spandrel does not know it either, or is not installed.
        WeightsError: spandrel knows it, but it does not fit, or takes other than three colours.
    """
    if importlib.util.find_spec("spandrel") is None:
        raise UnknownModelError(
            f"{path} is neither ESRGAN nor Real-ESRGAN; for other architectures install spandrel: {INSTALL}"
        )
    with without_torchvision():
        spandrel = importlib.import_module("spandrel")
        if importlib.util.find_spec("spandrel_extra_arches") is not None:
            importlib.import_module("spandrel_extra_arches").install(ignore_duplicates=True)
    tensors = read_safetensors(file)
    try:
        with warnings.catch_warnings():  # what its architectures' authors wrote for older versions of torch
            warnings.simplefilter("ignore")
            found = spandrel.ModelLoader().load_from_state_dict(tensors)
    except spandrel.UnsupportedModelError as error:
        raise UnknownModelError(
            f"{path} is no upscaler that is known; CodeFormer also needs {INSTALL_EXTRA}"
        ) from error
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} does not fit: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(found, spandrel.ImageModelDescriptor) or (
        found.input_channels,
        found.output_channels,
    ) != (
        3,
        3,
    ):
        raise WeightsError(f"{path} is {found.architecture.name}, which does not map colours to colours")
    fits = dtype == torch.float32 or {
        torch.float16: found.supports_half,
        torch.bfloat16: found.supports_bfloat16,
    }.get(dtype, False)
    found.to(device).to(dtype if fits else torch.float32).eval()
    found.model.requires_grad_(False)
    return Foreign(found)


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Let spandrel be imported where torchvision cannot."""
    try:
        importlib.import_module(_FUNCTIONAL)
    except (ImportError, RuntimeError):  # missing, or made for another torch
        stand_ins = _stand_ins()
    else:
        stand_ins = {}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


def _stand_ins() -> Mapping[str, types.ModuleType]:
    modules = {}
    name = ""
    for part in _FUNCTIONAL.split("."):
        name = f"{name}.{part}".lstrip(".")
        modules[name] = types.ModuleType(name)
    functional: Any = modules[_FUNCTIONAL]
    functional.normalize = _normalize
    functional.rotate = _refuse
    functional.InterpolationMode = types.SimpleNamespace(BILINEAR="bilinear", NEAREST="nearest")
    return modules


def _normalize(tensor: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:
    """(x − mean) / std, channel by channel, as torchvision has it."""
    assert not inplace, "nothing here normalises in place"
    shape = (-1, 1, 1)
    return (tensor - tensor.new_tensor(mean).view(shape)) / tensor.new_tensor(std).view(shape)


def _refuse(*_: object) -> Tensor:
    raise WeightsError("this network needs torchvision, which does not go with this torch")
