"""The folder layout of diffusers, read: read and written.

model_index.json
unet/          config.json, diffusion_pytorch_model.safetensors
vae/           config.json, diffusion_pytorch_model.safetensors
text_encoder/  config.json, model.safetensors
scheduler/     scheduler_config.json
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfumato.errors import UnknownModelError, UnsafeFileError, WeightsError
from sfumato.types import Prediction
from sfumato.weights.detect import SELF, Detection, described_spec, require_agreement
from sfumato.weights.files import file_sha256
from sfumato.weights.folder_configs import read_scheduler, read_text, read_unet, read_vae
from sfumato.weights.header import read_header
from sfumato.weights.layouts import Part, table_of
from sfumato.weights.specs import END_OF_TEXT, MODELS, ModelSpec, TextLayout

DESCRIPTION = "sfumato.json"  # our own description in a folder that we wrote
SUBFOLDERS: Mapping[str, tuple[str, str]] = {  # network: subfolder, stem of its weights
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "text": ("text_encoder", "model"),
}
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionDepth2ImgPipeline",
)
_MAX_JSON = 2**20


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a folder holds."""

    found: Detection
    parts: Mapping[str, list[Part]]
    metadata: Mapping[str, str]


def read_folder(path: Path, prediction: Prediction | None = None) -> Folder:
    """Find out what a folder in diffusers' layout holds; no tensor is read.

    Args:
        path: the folder of a pipeline, or of one autoencoder.
        prediction: what the caller knows; otherwise the scheduler's configuration says it.

    Raises:
        UnknownModelError: it is no such folder, or of another family, which is named.
        UnsafeFileError: it has pickled weights only.
        WeightsError: a file is missing or broken, or a setting is one that the networks do not have.
    """
    if (path / "config.json").is_file() and not (path / "model_index.json").is_file():
        return _lone_vae(path)
    index = read_json(path / "model_index.json", f"{path} is not a model folder: model_index.json is missing")
    kind = str(index.get("_class_name"))
    if kind not in PIPELINES:
        raise UnknownModelError(
            f"{path} is a folder for {kind[:60]}, which is not supported; expected {', '.join(PIPELINES)}"
        )
    if (path / DESCRIPTION).is_file():
        text = json.dumps(read_json(path / DESCRIPTION, ""))
        spec, told = described_spec({SELF: text}), "the folder's own description"
        metadata = {SELF: text}
        require_agreement(spec, prediction, path)
    else:
        spec, told = _translated(path)
        metadata = {}
    if prediction is not None and not metadata:
        spec, told = replace(spec, prediction=prediction), "the caller"
    found = Detection(
        kind="checkpoint",
        family=spec.family,
        rows=(spec,),
        spec=spec,
        told_by=told,
        self_described=bool(metadata),
    )
    parts = {
        network: _parts(path / subfolder, stem, network, spec)
        for network, (subfolder, stem) in SUBFOLDERS.items()
    }
    return Folder(found=found, parts=parts, metadata=metadata)


def _lone_vae(path: Path) -> Folder:
    config = read_json(path / "config.json", "")
    kind = str(config.get("_class_name"))
    if kind != "AutoencoderKL":
        raise UnknownModelError(
            f"{path} is a folder for {kind[:60]}; expected a pipeline or an AutoencoderKL"
        )
    spec = ModelSpec(family="Stable Diffusion", vae=read_vae(config, path / "config.json"))
    found = Detection(kind="VAE", family=spec.family, rows=(spec,), spec=spec)
    return Folder(found=found, parts={"vae": _parts(path, SUBFOLDERS["vae"][1], "vae", spec)}, metadata={})


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """Read a small JSON object.

    Raises:
        UnknownModelError: there is no such file; `missing` is the message.
        WeightsError: it is too large, or no JSON object.
    """
    if not path.is_file():
        raise UnknownModelError(missing or f"{path} does not exist")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON + 1)
        if len(data) > _MAX_JSON:
            raise WeightsError(f"{path} has more than {_MAX_JSON} bytes")
        value = json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path} is not readable JSON ({str(error)[:80]}); get the folder again"
        ) from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} is not a JSON object; get the folder again")
    return value


# --- what diffusers wrote -------------------------------------------------------------------------


def _translated(path: Path) -> tuple[ModelSpec, str]:
    """Build the specification out of the parts' configurations."""

    def settings(name: str, file: str = "config.json") -> tuple[dict[str, Any], Path]:
        missing = f"{path} is incomplete: {name}/{file} is missing"
        return read_json(path / name / file, missing), path / name / file

    unet_settings, unet_path = settings("unet")
    unet, vae = read_unet(unet_settings, unet_path), read_vae(*settings("vae"))
    text = read_text(*settings("text_encoder"))
    prediction, zero_snr = read_scheduler(*settings("scheduler", "scheduler_config.json"))
    size = unet_settings.get("sample_size")
    native = size * vae.reduction if type(size) is int and 0 < size <= 2048 else 512
    rows = [row for row in MODELS.values() if row.unet == unet and row.prediction == prediction]
    like = next(iter(rows), None) or next(
        (row for row in MODELS.values() if row.text.width == text.width), None
    )
    layout: TextLayout = "clip"
    pad = END_OF_TEXT
    if like is not None and text == replace(like.text, skip="last"):
        text, layout, pad = like.text, like.text_layout, like.pad_token
    return ModelSpec(
        family=rows[0].family if rows else "custom",
        unet=unet,
        vae=vae,
        text=text,
        prediction=prediction,
        native_size=native,
        text_layout=layout,
        pad_token=pad,
        zero_terminal_snr=zero_snr,
        source=rows[0].source if rows else "",
    ), "the scheduler's configuration"


def weight_files_of(path: Path) -> list[Path]:
    """List the weights of a pipeline's or an autoencoder's folder that would be loaded.

    Raises:
        UnsafeFileError: a part has pickled weights only.
        WeightsError: a part has none.
    """
    if not (path / "model_index.json").is_file():
        return _weight_files(path, SUBFOLDERS["vae"][1])
    return [file for subfolder, stem in SUBFOLDERS.values() for file in _weight_files(path / subfolder, stem)]


def weights_sha256(path: Path) -> str:
    """Give one SHA-256 of all weights at a path, a file or a folder: 64 hexadecimal digits.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: a part of the folder has pickled weights only.
        WeightsError: a part of the folder has none, or a file cannot be read.
    """
    if not path.is_dir():
        return file_sha256(path)
    hashes = "".join(file_sha256(file) for file in weight_files_of(path))
    return hashlib.sha256(hashes.encode()).hexdigest()


def _parts(folder: Path, stem: str, network: str, spec: ModelSpec) -> list[Part]:
    """Find the weights in a subfolder: one file, or several with an index."""
    table = table_of(network, spec)
    parts = []
    for file in _weight_files(folder, stem):
        header = read_header(file)
        names = {name: name for name in header.tensors if not name.endswith("position_ids")}
        parts.append(Part(file=file, header=header, names=names, table=table))
    return parts


def _weight_files(folder: Path, stem: str) -> list[Path]:
    for variant in ("", ".fp16", ".bf16"):
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return [single]
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            shards = read_json(index, "").get("weight_map")
            names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
            if not names or any(
                Path(name).name != name or not name.endswith(".safetensors") for name in names
            ):
                raise WeightsError(f"{index} does not name safetensors files beside it; get the folder again")
            return [folder / name for name in names]
    if (folder / f"{stem}.bin").exists() or (folder / f"pytorch_{stem}.bin").exists():
        raise UnsafeFileError(f"{folder} has pickled weights only; get the safetensors version of {stem}.bin")
    raise WeightsError(f"{folder / stem}.safetensors is missing; get the folder again")
