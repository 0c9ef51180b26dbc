"""The checkpoints that Sfumato knows: one row each, written as a difference from another row.

A file that Sfumato wrote carries its row in its own header, so a checkpoint of another size needs none here.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sfumato.errors import WeightsError
from sfumato.nn.clip_text import CLIPTextConfig
from sfumato.nn.unet import UNetConfig
from sfumato.nn.vae import VAEConfig
from sfumato.types import Prediction

TextLayout = Literal["clip", "open_clip"]

END_OF_TEXT = 49407


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything about a checkpoint but its weights. The defaults are SD 1.x."""

    family: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    prediction: Prediction = "eps"
    native_size: int = 512  # pixels of a side it was trained at
    text_layout: TextLayout = "clip"  # names of the text encoder in a single file
    pad_token: int = END_OF_TEXT  # fills a prompt's chunk after its end
    zero_terminal_snr: bool = False  # trained with the schedule rescaled so that the last step is pure noise
    source: str = ""


_STABILITY = "https://github.com/Stability-AI/stablediffusion, configs/stable-diffusion"

_SD1 = ModelSpec(
    family="sd-1.x",
    source="https://github.com/CompVis/stable-diffusion, configs/stable-diffusion/v1-inference.yaml",
)
_SD2_BASE = replace(
    _SD1,
    family="sd-2.x-base",
    unet=UNetConfig(head_dim=64, context_dim=1024, linear_projection=True),
    text=CLIPTextConfig(width=1024, layers=23, heads=16, activation="gelu", skip="penultimate"),
    text_layout="open_clip",
    pad_token=0,
    source=f"{_STABILITY}/v2-inference.yaml",
)


def _with_inputs(spec: ModelSpec, family: str, in_channels: int, source: str) -> ModelSpec:
    return replace(spec, family=family, unet=replace(spec.unet, in_channels=in_channels), source=source)


_ROWS = (
    _SD1,
    _with_inputs(  # 4 latents, mask, 4 latents of the masked picture
        _SD1,
        "sd-1.x-inpainting",
        9,
        "https://github.com/runwayml/stable-diffusion, configs/stable-diffusion/v1-inpainting-inference.yaml",
    ),
    _with_inputs(  # 4 latents, 4 latents of the picture to edit
        _SD1,
        "sd-1.x-edit",
        8,
        "https://github.com/timothybrooks/instruct-pix2pix, configs/generate.yaml",
    ),
    _SD2_BASE,
    replace(
        _SD2_BASE,
        family="sd-2.x",
        prediction="v",
        native_size=768,
        source=f"{_STABILITY}/v2-inference-v.yaml",
    ),
    _with_inputs(
        _SD2_BASE,
        "sd-2-inpainting",
        9,
        f"{_STABILITY}/v2-inpainting-inference.yaml",
    ),
    _with_inputs(  # 4 latents, depth
        _SD2_BASE,
        "sd-2-depth",
        5,
        f"{_STABILITY}/v2-midas-inference.yaml",
    ),
)

MODELS: Mapping[str, ModelSpec] = {spec.family: spec for spec in _ROWS}


def spec_fields(spec: ModelSpec) -> dict[str, Any]:
    """Give a row as plain fields, for the header of a file that describes itself."""
    fields = dataclasses.asdict(spec)
    assert build_spec(json.loads(json.dumps(fields))) == spec
    return fields


def build_spec(fields: Any) -> ModelSpec:
    """Build a row from the JSON of `spec_fields`; the inverse of it.

    Raises:
        WeightsError: a field is missing, unknown, of the wrong type or out of range.
    """
    try:
        spec = _build(ModelSpec, fields, "spec")
    except ValueError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"the description in the file's header is not usable: {error}") from error
    assert isinstance(spec, ModelSpec)
    return spec


_LIMITS: Mapping[str, int] = {"layers": 64, "res_blocks": 16, "vocab_size": 2**20, "native_size": 16384}
_MOST, _LONGEST = 2**16, 8  # of any other integer, of any tuple


def _build(kind: type, given: Any, where: str) -> Any:
    if not isinstance(given, dict):
        raise WeightsError(f"{where} is {str(given)[:40]!r}, expected an object")
    hints = get_type_hints(kind)
    if given.keys() != hints.keys():
        raise WeightsError(
            f"{where} has the fields {sorted(given)[:20]}, expected {sorted(hints)}; "
            "the file was written by another version of Sfumato"
        )
    return kind(**{name: _value(hint, given[name], name, f"{where}.{name}") for name, hint in hints.items()})


def _value(hint: Any, given: Any, name: str, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, given, where)
    if get_origin(hint) in (Union, UnionType):
        if given is None and type(None) in get_args(hint):
            return None
        return _value(get_args(hint)[0], given, name, where)
    if get_origin(hint) is Literal:
        fits = given in get_args(hint)
    elif get_origin(hint) is tuple:
        fits = isinstance(given, list) and len(given) <= _LONGEST and all(_is_count(v, name) for v in given)
        given = tuple(given) if fits else given
    elif hint is int:
        fits = _is_count(given, name)
    elif hint is float:
        fits = type(given) in (int, float)
    else:
        fits = type(given) is hint
    if not fits:
        raise WeightsError(f"{where} is {str(given)[:40]!r}, which is not a usable {hint}")
    return given


def _is_count(value: Any, name: str) -> bool:
    return type(value) is int and 0 <= value <= _LIMITS.get(name, _MOST)
