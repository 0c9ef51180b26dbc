"""From one layout to another: single file, diffusers folder, pickle. Numbers go through to the bit."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.errors import OutputError, UnknownModelError
from sfumato.types import Prediction
from sfumato.weights import folder_configs as configs
from sfumato.weights import keymaps
from sfumato.weights.atomic import atomic_folder
from sfumato.weights.detect import SELF, require_spec
from sfumato.weights.files import read_safetensors, write_safetensors
from sfumato.weights.folders import DESCRIPTION, SUBFOLDERS
from sfumato.weights.layouts import NETWORKS, Part, table_of
from sfumato.weights.load import Weights, check_fit, describing_metadata, save_checkpoint
from sfumato.weights.sources import Source, open_source
from sfumato.weights.specs import ModelSpec
from sfumato.weights.tokenizer_folder import write_tokenizer


def convert(
    source: Path,
    target: Path,
    *,
    dtype: torch.dtype | None = None,
    prediction: Prediction | None = None,
) -> None:
    """Write a checkpoint in another layout, with what is known to be harmless ballast left out.

    A pickle of something else than a checkpoint (a VAE, a LoRA, an embedding) is written as safetensors under
    the names it has.

    Args:
        source: a single file, a folder in diffusers' layout, or a pickle.
        target: a path ending in `.safetensors` for a single file, one without an ending for a folder; it must
            not exist.
        dtype: what floating-point weights are cast to; None keeps each as it is.
        prediction: what the U-Net predicts, where the source does not say it.

    Raises:
        ModelNotFoundError: there is no such source.
        UnsafeFileError: a pickle that asks for something to be executed.
        WeightsError: the source is broken, does not fit its family, or does not say what it predicts.
        OutputError: the target exists, has another ending, or cannot be written; nothing is left of it.
    """
    if target.exists():
        raise OutputError(f"{target} exists already; choose another name or remove it")
    single = target.suffix == ".safetensors"
    if not single and re.fullmatch(r"\.[A-Za-z]\w*", target.suffix):  # v1.5 is no ending
        raise OutputError(
            f"{target}: models are written as .safetensors or, without an ending, as a folder; rename it"
        )
    with open_source(source, prediction) as opened:
        if opened.found.kind not in ("checkpoint", "training state") and single and source.is_file():
            _rewrite(opened, target, dtype)
            return
        spec = require_spec(opened.found, source)
        check_fit(source, opened, spec, NETWORKS)
        weights = {name: _our_tensors(opened.parts[name]) for name in NETWORKS}
        provenance = {"converted from": source.name} | _provenance(opened.metadata)
        if single:
            kept = {k: v for k, v in opened.metadata.items() if k not in describing_metadata(spec, {})}
            save_checkpoint(target, spec=spec, **weights, provenance=provenance, metadata=kept, dtype=dtype)
        else:
            save_folder(target, spec=spec, **weights, provenance=provenance, dtype=dtype)


def _rewrite(opened: Source, target: Path, dtype: torch.dtype | None) -> None:
    if opened.found.kind == "unknown":
        raise UnknownModelError(f"{opened.main} is {opened.found}; it is not converted")
    write_safetensors(target, read_safetensors(opened.file), opened.metadata, dtype=dtype)


def _our_tensors(parts: list[Part]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part in parts:
        stored = read_safetensors(part.file, names=part.names)
        tensors |= keymaps.to_ours(part.table, {part.names[name]: t for name, t in stored.items()})
    return tensors


def _provenance(metadata: Mapping[str, str]) -> dict[str, str]:
    described = json.loads(metadata.get(SELF, "{}"))  # was read before
    provenance = described.get("provenance", {})
    return {str(k): str(v) for k, v in provenance.items()} if isinstance(provenance, dict) else {}


def save_folder(
    path: Path,
    *,
    spec: ModelSpec,
    unet: Weights,
    vae: Weights,
    text: Weights,
    provenance: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder in diffusers' layout, complete or not at all; diffusers loads it with `from_pretrained`.

    Args:
        path: the folder; it must not exist.
        spec: what the networks are; it is written beside them as sfumato.json.
        unet: the U-Net or its tensors by our names.
        vae: the autoencoder, likewise.
        text: the text encoder, likewise.
        provenance: where the weights come from.
        dtype: what floating-point weights are cast to; None keeps each as it is.

    Raises:
        OutputError: the folder exists, or cannot be written; nothing is left of it.
    """
    settings: Mapping[str, dict[str, Any]] = {
        "model_index.json": configs.index_settings(),
        "unet/config.json": configs.unet_settings(spec),
        "vae/config.json": configs.vae_settings(spec),
        "text_encoder/config.json": configs.text_settings(spec),
        "scheduler/scheduler_config.json": configs.scheduler_settings(spec),
        DESCRIPTION: json.loads(describing_metadata(spec, provenance or {})[SELF]),
    }
    with atomic_folder(path) as folder:
        for name, values in settings.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "tokenizer").mkdir()
        write_tokenizer(folder / "tokenizer", spec.pad_token)
        for network, weights in (("unet", unet), ("vae", vae), ("text", text)):
            ours = weights.state_dict() if isinstance(weights, nn.Module) else weights
            subfolder, stem = SUBFOLDERS[network]
            theirs = keymaps.to_theirs(table_of(network, spec), ours)
            write_safetensors(
                folder / subfolder / f"{stem}.safetensors", theirs, {"format": "pt"}, dtype=dtype
            )
