"""Checkpoints in and out: one file or a folder becomes three networks, whole or not at all."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.types import Prediction
from sfumato.weights import keymaps
from sfumato.weights.detect import SELF, require_spec
from sfumato.weights.files import file_sha256, write_safetensors
from sfumato.weights.layouts import (
    NETWORKS,
    PREFIXES,
    TEXT_PREFIXES,
    Misfit,
    build_empty,
    fill,
    misfit,
    table_of,
)
from sfumato.weights.sources import Source, open_source
from sfumato.weights.specs import MODELS, ModelSpec, spec_fields

Device = torch.device | str
Weights = nn.Module | Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Three networks that belong together, ready to use: no gradients, evaluation mode."""

    unet: UNet
    vae: AutoencoderKL
    text: CLIPText
    spec: ModelSpec
    name: str  # the file's or folder's name without its ending
    path: Path
    hashed: Path  # the file whose hash identifies it: `path`, or a folder's U-Net
    metadata: Mapping[str, str]  # of the file's header

    @cached_property
    def sha256(self) -> str:
        """SHA-256 as 64 hexadecimal digits: of the file, or of a folder's U-Net file. Computed once."""
        return file_sha256(self.hashed)


def load_checkpoint(
    path: Path,
    *,
    device: Device,
    dtype: torch.dtype | None,
    prediction: Prediction | None = None,
    vae: Path | None = None,
) -> Checkpoint:
    """Load a checkpoint strictly: every tensor is there, of the right shape, finite, and none is left over.

    On the CPU, in the dtype it is stored in, weights stay views of the mapped file, but for those of
    convolutions, which are laid out channels-last.

    Args:
        path: a single file, a folder in diffusers' layout, or a PyTorch pickle of a single file.
        device: where the weights go.
        dtype: what floating-point weights are cast to; None keeps each as it is stored.
        prediction: what the U-Net predicts, where the file does not say it.
        vae: another autoencoder, in any form that `load_vae` reads, in place of the checkpoint's own.

    Raises:
        ModelNotFoundError: a path does not exist.
        UnsafeFileError: a pickle that asks for something to be executed.
        UnknownModelError: something else than a checkpoint of a known family; it is named.
        WeightsError: broken, not fitting (the first ten keys of each fault are named), or not saying what it
            predicts.
    """
    with open_source(path, prediction) as source:
        spec = require_spec(source.found, path)
        other = None
        if vae is not None:
            other = load_vae(vae, device=device, dtype=dtype)
            spec = replace(spec, vae=_fitting(other, spec, vae))
        wanted = tuple(name for name in NETWORKS if name != "vae" or other is None)
        networks = _load(path, source, spec, wanted, device, dtype)
    unet, text, autoencoder = networks["unet"], networks["text"], other or networks["vae"]
    assert isinstance(unet, UNet)
    assert isinstance(text, CLIPText)
    assert isinstance(autoencoder, AutoencoderKL)
    return Checkpoint(
        unet=unet,
        vae=autoencoder,
        text=text,
        spec=spec,
        name=path.name if path.is_dir() else path.stem,
        path=path,
        metadata=source.metadata,
        hashed=source.main,
    )


def load_vae(path: Path, *, device: Device, dtype: torch.dtype | None) -> AutoencoderKL:
    """Load an autoencoder alone: from a file of its own in either layout, a folder, or a whole checkpoint.

    Args:
        path: the file or folder.
        device: where the weights go.
        dtype: what floating-point weights are cast to; None keeps each as it is stored.

    Raises:
        ModelNotFoundError: the path does not exist.
        UnknownModelError: it holds no autoencoder of Stable Diffusion; what it is, is named.
        WeightsError: broken or not fitting.
    """
    with open_source(path) as source:
        if not source.parts.get("vae"):
            raise UnknownModelError(f"{path} is {source.found}, not a VAE; give a VAE or a whole checkpoint")
        if source.found.kind == "VAE" and source.found.family not in ("Stable Diffusion", *_own(source)):
            raise UnknownModelError(
                f"{path} is {source.found}, which does not fit Stable Diffusion 1.x and 2.x"
            )
        spec = source.found.spec or ModelSpec(family=source.found.family)
        network = _load(path, source, spec, ("vae",), device, dtype)["vae"]
    assert isinstance(network, AutoencoderKL)
    return network


def _own(source: Source) -> tuple[str, ...]:
    return (source.found.family,) if source.found.self_described else ()


def load_networks(
    path: Path, names: Iterable[str], *, device: Device, dtype: torch.dtype | None
) -> tuple[ModelSpec, dict[str, nn.Module]]:
    """Load some of the networks of a file that Sfumato wrote, which need not hold the others.

    Args:
        path: the file.
        names: of "unet", "vae" and "text".
        device: where the weights go.
        dtype: what floating-point weights are cast to; None keeps each as it is stored.

    Returns:
        The specification, and the networks by name.

    Raises:
        ModelNotFoundError: the path does not exist.
        WeightsError: the file does not describe itself, is broken, or lacks one of the networks.
    """
    with open_source(path) as source:
        if source.found.spec is None:
            raise WeightsError(f"{path} is {source.found} and does not describe itself")
        networks = _load(path, source, source.found.spec, tuple(names), device, dtype)
    return source.found.spec, networks


def _fitting(vae: AutoencoderKL, spec: ModelSpec, path: Path | None) -> VAEConfig:
    if (vae.config.latent_channels, vae.config.reduction) != (spec.vae.latent_channels, spec.vae.reduction):
        raise WeightsError(
            f"{path} has {vae.config.latent_channels} latent channels at 1/{vae.config.reduction} of the "
            f"size, the checkpoint needs {spec.vae.latent_channels} at 1/{spec.vae.reduction}; "
            "choose another VAE"
        )
    return replace(vae.config, scale_factor=spec.vae.scale_factor)


def _load(
    path: Path,
    source: Source,
    spec: ModelSpec,
    wanted: tuple[str, ...],
    device: Device,
    dtype: torch.dtype | None,
) -> dict[str, nn.Module]:
    """Build and fill networks; every fault of shape is found before the first tensor is read."""
    networks = check_fit(path, source, spec, wanted)
    for name, network in networks.items():
        fill(network, source.parts[name], torch.device(device), dtype)
    return networks


def check_fit(path: Path, source: Source, spec: ModelSpec, wanted: tuple[str, ...]) -> dict[str, nn.Module]:
    """Build networks without memory and compare them with what the headers announce.

    Raises:
        WeightsError: tensors are missing, left over or of another shape; the first ten of each are named.
    """
    networks = {name: build_empty(name, spec) for name in wanted}
    faults = Misfit(extra=source.stray if set(wanted) == set(NETWORKS) else ())
    for name, network in networks.items():
        faults += misfit(network, _prefix(name, spec), source.parts.get(name, ()))
    if faults:
        raise WeightsError(f"{path} does not fit {spec.family}: {faults}")
    return networks


def _prefix(network: str, spec: ModelSpec) -> str:
    return PREFIXES.get(network) or TEXT_PREFIXES[spec.text_layout]


def save_checkpoint(
    path: Path,
    *,
    spec: ModelSpec,
    unet: Weights | None = None,
    vae: Weights | None = None,
    text: Weights | None = None,
    provenance: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write networks to one safetensors file in the LDM layout, complete or not at all.

    The header describes the file: the key `sfumato` holds {"spec": …, "provenance": …} as JSON.

    Args:
        path: the file.
        spec: what the networks are.
        unet: the U-Net or its tensors by our names; None leaves it out.
        vae: the autoencoder, likewise.
        text: the text encoder, likewise; it is written under the names of `spec.text_layout`.
        provenance: where the weights come from: data, licences, steps, figures.
        metadata: further strings for the header.
        dtype: what floating-point weights are cast to; None keeps each as it is.

    Raises:
        OutputError: the file cannot be written; an existing one is left as it was.
    """
    tensors: dict[str, Tensor] = {}
    for name, weights in (("unet", unet), ("vae", vae), ("text", text)):
        if weights is None:
            continue
        ours = weights.state_dict() if isinstance(weights, nn.Module) else weights
        if name == "text" and spec.text_layout == "open_clip":
            ours = keymaps.to_theirs(table_of("text", spec, "open_clip"), ours)
        prefix = _prefix(name, spec)
        tensors |= {f"{prefix}{key}": tensor for key, tensor in ours.items()}
    described = describing_metadata(spec, provenance or {})
    write_safetensors(path, tensors, {**(metadata or {}), **described}, dtype=dtype)


_ARCHITECTURES = {  # names that other programs look for (https://github.com/Stability-AI/ModelSpec)
    "sd-1.x": "stable-diffusion-v1",
    "sd-1.x-inpainting": "stable-diffusion-v1/inpainting",
    "sd-2.x-base": "stable-diffusion-v2-512",
    "sd-2.x": "stable-diffusion-v2-768-v",
    "sd-2-inpainting": "stable-diffusion-v2-512/inpainting",
    "sd-2-depth": "stable-diffusion-v2-512/depth",
}


def describing_metadata(spec: ModelSpec, provenance: Mapping[str, str]) -> dict[str, str]:
    """Give the header's metadata of a file that describes itself, to us and to other programs."""
    described = {"spec": spec_fields(spec), "provenance": dict(provenance)}
    metadata = {
        "format": "pt",
        SELF: json.dumps(described, sort_keys=True, ensure_ascii=False),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.prediction_type": "epsilon" if spec.prediction == "eps" else "v",
        "modelspec.resolution": f"{spec.native_size}x{spec.native_size}",
    }
    if spec.family in MODELS and spec.family in _ARCHITECTURES:
        metadata["modelspec.architecture"] = _ARCHITECTURES[spec.family]
    return metadata
