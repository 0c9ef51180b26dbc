"""Where in its files a checkpoint keeps each network, and under which names."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sfumato.errors import WeightsError
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.weights import keymaps
from sfumato.weights.files import DTYPES, read_safetensors
from sfumato.weights.header import Header
from sfumato.weights.specs import ModelSpec, TextLayout

N = TypeVar("N", bound=nn.Module)

NETWORKS = ("unet", "vae", "text")
PREFIXES: Mapping[str, str] = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
TEXT_PREFIXES: Mapping[TextLayout, str] = {
    "clip": "cond_stage_model.transformer.",
    "open_clip": "cond_stage_model.model.",
}
_FOUND_PREFIXES = (  # prefix in a single file, network, layout of a text encoder
    (PREFIXES["unet"], "unet", None),
    (PREFIXES["vae"], "vae", None),
    (TEXT_PREFIXES["clip"], "text", "clip"),
    (TEXT_PREFIXES["open_clip"], "text", "open_clip"),
    ("conditioner.embedders.0.transformer.", "text", "clip"),  # later training code (SD-Turbo)
    ("conditioner.embedders.0.model.", "text", "open_clip"),
)

HARMLESS = re.compile(
    "|".join(
        (
            r"model_ema\..*",  # averaged copy kept for further training
            r"(.*\.)?position_ids",  # 0, 1, 2 …
            r"(sqrt_)?(one_minus_)?(recip(m1)?_)?(betas|alphas_cumprod(_prev)?)",  # the noise schedule
            r"sqrt_(one_minus_|recip_|recipm1_)alphas_cumprod|log_one_minus_alphas_cumprod",
            r"posterior_.*|lvlb_weights|logvar|(denoiser\.)?sigmas|scale_factor|global_step",
            r"v_pred|ztsnr|edm_mean|edm_std|edm_vpred\..*",  # markers
            r"first_stage_model\.loss\..*",  # the autoencoder's training loss
            r"depth_model\..*",  # the depth estimator of SD 2 depth
            r"(cond_stage_model|conditioner\.embedders\.0)\.(model\.|transformer\.)?"
            r"(logit_scale|text_projection(\.weight)?|attn_mask|visual\..*|vision_model\..*|visual_projection\..*)",
            r"(cond_stage_model|conditioner\.embedders\.0)\.model\.transformer\.resblocks\.23\..*",
        )
    )
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network's tensors in one file. `names` maps a name in the file to the same without its prefix."""

    file: Path
    header: Header
    names: Mapping[str, str]
    table: keymaps.Table


def split_single_file(path: Path, header: Header, spec: ModelSpec) -> tuple[dict[str, list[Part]], list[str]]:
    """Assign the tensors of a single file to the networks.

    Args:
        path: the file.
        header: its header.
        spec: what it holds.

    Returns:
        Parts by network ("unet", "vae", "text"), and the names that belong to none and are not known to be
        harmless.
    """
    names: dict[tuple[str, str | None], dict[str, str]] = {}
    stray = []
    for name in header.tensors:
        if HARMLESS.fullmatch(name):
            continue
        for prefix, network, layout in _FOUND_PREFIXES:
            if name.startswith(prefix):
                names.setdefault((network, layout), {})[name] = name.removeprefix(prefix)
                break
        else:
            stray.append(name)
    parts: dict[str, list[Part]] = {"unet": [], "vae": [], "text": []}
    for (network, layout), found in names.items():
        table = table_of(network, spec, "open_clip" if layout == "open_clip" else "clip")
        parts[network].append(Part(file=path, header=header, names=found, table=table))
    return parts, stray


def table_of(network: str, spec: ModelSpec, text_layout: TextLayout = "clip") -> keymaps.Table:
    """Give a network's table: our names against diffusers', or OpenCLIP's for a text encoder laid out so."""
    if network == "unet":
        return keymaps.unet_table(spec.unet)
    if network == "vae":
        return keymaps.vae_table(spec.vae)
    return keymaps.open_clip_table(spec.text) if text_layout == "open_clip" else keymaps.clip_table(spec.text)


class _NoDraws(TorchFunctionMode):
    """Leaves out the drawing of fresh weights; without memory for them, torch would import its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def build_empty(network: str, spec: ModelSpec) -> nn.Module:
    """Build a network of a checkpoint without memory for its weights."""
    if network == "unet":
        return without_memory(lambda: UNet(spec.unet))
    return without_memory(lambda: AutoencoderKL(spec.vae) if network == "vae" else CLIPText(spec.text))


def without_memory(build: Callable[[], N]) -> N:
    """Build a network without memory for its weights."""
    with torch.device("meta"), _NoDraws():
        return build()


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """What keeps a file from fitting a network."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    def __add__(self, other: "Misfit") -> "Misfit":
        return Misfit(
            missing=self.missing + other.missing,
            extra=self.extra + other.extra,
            reshaped=self.reshaped + other.reshaped,
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.reshaped)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("extra", self.extra), ("of another shape", self.reshaped))
        return "; ".join(f"{len(names)} {kind}: {_first_ten(names)}" for kind, names in kinds if names)


def _first_ten(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


def misfit(network: nn.Module, prefix: str, parts: Iterable[Part]) -> Misfit:
    """Compare a network with what the headers announce for it, without reading a tensor.

    Args:
        network: built empty.
        prefix: put before our names in what is reported.
        parts: where its tensors are.
    """
    found: dict[str, Tensor] = {}
    for part in parts:
        announced = {
            inner: torch.empty(part.header.tensors[name].shape, device="meta")
            for name, inner in part.names.items()
        }
        found |= keymaps.to_ours(part.table, announced)
    expected = network.state_dict()
    return Misfit(
        missing=tuple(f"{prefix}{name} {list(t.shape)}" for name, t in expected.items() if name not in found),
        extra=tuple(f"{prefix}{name} {list(t.shape)}" for name, t in found.items() if name not in expected),
        reshaped=tuple(
            f"{prefix}{name} expected {list(tensor.shape)} found {list(found[name].shape)}"
            for name, tensor in expected.items()
            if name in found and found[name].shape != tensor.shape
        ),
    )


def fill(network: nn.Module, parts: Iterable[Part], device: torch.device, dtype: torch.dtype | None) -> None:
    """Give an empty network its tensors, as views of the mapped files where nothing has to be converted.

    The weights of convolutions are laid out channels-last, as the pipeline computes.

    Args:
        network: built empty; `misfit` has found nothing.
        parts: where its tensors are.
        device: where they go.
        dtype: what they are cast to; None keeps each as it is stored.

    Raises:
        WeightsError: a value is not finite, or not in `dtype`.
    """
    tensors: dict[str, Tensor] = {}
    for part in parts:
        stored = read_safetensors(part.file, names=part.names, dtype=dtype, device=device, channels_last=True)
        for name, tensor in stored.items():
            _require_finite(part, name, tensor)
        tensors |= keymaps.to_ours(part.table, {part.names[name]: t for name, t in stored.items()})
    network.load_state_dict(tensors, strict=True, assign=True)
    network.requires_grad_(False).eval()


def _require_finite(part: Part, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.dtype.itemsize < 2:
        return
    low, high = torch.aminmax(tensor)  # both are NaN where any value is
    if not (torch.isfinite(low) and torch.isfinite(high)):
        stored = DTYPES[part.header.tensors[name].dtype]
        raise WeightsError(
            f"{part.file} holds values in {name} that are not finite"
            + (
                f" in {tensor.dtype}; load it in {stored}"
                if stored != tensor.dtype
                else "; get the file again"
            )
        )
