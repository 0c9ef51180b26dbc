"""What a checkpoint's U-Net predicts, where its keys cannot tell: metadata and side-car files."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from sfumato.errors import WeightsError
from sfumato.types import Prediction
from sfumato.weights.header import Header

SPELLINGS: Mapping[str, Prediction] = {
    "eps": "eps",
    "epsilon": "eps",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
    "vpred": "v",
}
_METADATA_KEYS = ("modelspec.prediction_type", "prediction_type", "parameterization")
_ARCHITECTURES: Mapping[str, Prediction] = {
    "stable-diffusion-v2-768-v": "v",
    "stable-diffusion-v2-512": "eps",
}
_YAML_LINE = re.compile(r"""^\s*parameterization\s*:\s*["']?([\w-]+)""", re.MULTILINE)
_YAML_CONFIG = re.compile(r"^\s*unet_config\s*:", re.MULTILINE)
_MAX_SIDECAR = 2**20


def told_prediction(header: Header, path: Path | None) -> tuple[Prediction | None, str]:
    """Look for the prediction type in a marker key, the metadata and the side-cars, in this order.

    Args:
        header: the checkpoint's header.
        path: where the checkpoint is, to look for `<stem>.yaml` and `<stem>.json`; None looks for none.

    Returns:
        The prediction type, or None where nothing says it, and what said it.

    Raises:
        WeightsError: a side-car cannot be read.
    """
    if "v_pred" in header.tensors:
        return "v", "the key v_pred"
    for key in _METADATA_KEYS:
        if (value := header.metadata.get(key, "").lower()) in SPELLINGS:
            return SPELLINGS[value], f"the metadata {key}"
    architecture = header.metadata.get("modelspec.architecture", "")
    if architecture in _ARCHITECTURES:
        return _ARCHITECTURES[architecture], "the metadata modelspec.architecture"
    for suffix in (".yaml", ".yml", ".json") if path is not None else ():
        assert path is not None
        sidecar = path.with_suffix(suffix)
        if sidecar.is_file() and (found := _read_sidecar(sidecar)):
            return found, sidecar.name
    return None, ""


def _read_sidecar(path: Path) -> Prediction | None:
    """Read the prediction type from a configuration beside a checkpoint; None where it says nothing of it.

    A YAML configuration of the original training code that has no `parameterization` means noise.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SIDECAR).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path} beside the checkpoint cannot be read ({error}); repair or remove it"
        ) from error
    if path.suffix != ".json":
        match = _YAML_LINE.search(text)
        if match is None:
            return "eps" if _YAML_CONFIG.search(text) else None
        value = match[1].lower()
    else:
        try:
            settings = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise WeightsError(
                f"{path} beside the checkpoint is not JSON ({error}); repair or remove it"
            ) from error
        if not isinstance(settings, dict):
            return None
        value = str(settings.get("prediction_type", settings.get("parameterization", ""))).lower()
        if not value:
            return None
    if value not in SPELLINGS:
        raise WeightsError(
            f"{path} gives the prediction type {value[:40]!r}, "
            f"expected one of {', '.join(SPELLINGS)}; correct it"
        )
    return SPELLINGS[value]
