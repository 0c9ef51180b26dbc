"""The generation parameters as text, in the layout the field reads, and back into a `Request`.

One table, `ROWS`, drives both directions: which key stands for which field, in the order of the web UI, and
when it is written. `write` and `read` are inverse for every resolved request, whatever its prompts hold, but
for pictures (source, mask, depth map), which text cannot carry. Knows no torch, no pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, get_args

from sfumato.errors import RequestError
from sfumato.pipeline import infotext
from sfumato.pipeline.infotext import Infotext
from sfumato.pipeline.legacy import modernised
from sfumato.types import Request, field_types

_TRUE_FALSE: Mapping[Any, str] = MappingProxyType({True: "True", False: "False"})
_RNG = MappingProxyType({"philox": "NV", "cpu": "CPU", "device": "GPU"})
_MASK_MODE = MappingProxyType({True: "Inpaint not masked", False: "Inpaint masked"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One key of the parameter line. A row without a field keeps a place for what the caller hands in."""

    key: str
    field: str = ""  # part.field of a Request; of two fields, the first of a size
    second: str = ""
    always: bool = False  # also written where it has its default
    when: Callable[[Request], bool] | None = None  # beside the part's own rule in `PARTS`
    words: Mapping[Any, str] | None = None  # value to text, where it is not the value itself
    unset: tuple[str, ...] = ()  # texts that stand for None


# A part is written only where it has an effect. Parts that always have are not named.
PARTS: Mapping[str, Callable[[Request], bool]] = MappingProxyType(
    {
        "refiner": lambda request: request.refiner.checkpoint is not None,
        "source": lambda request: request.source.image is not None,
        "mask": lambda request: request.mask.image is not None,
        "soft": lambda request: request.soft.enabled,
        "outpaint": lambda request: any(
            getattr(request.outpaint, side) for side in ("left", "right", "up", "down")
        ),
        "hires": lambda request: request.hires.enabled,
    }
)


def _mixes(request: Request) -> bool:
    return request.variation.strength > 0


def _scaled(request: Request) -> bool:
    return request.hires.width == request.hires.height == 0


def _even_blur(request: Request) -> bool:
    return request.mask.blur_x == request.mask.blur_y


def _uneven_blur(request: Request) -> bool:
    return not _even_blur(request)


def _second_pass_of_source(request: Request) -> bool:
    return request.source.image is not None


def _second_pass_of_text(request: Request) -> bool:
    return request.source.image is None


ROWS: tuple[Row, ...] = (
    Row(key="Steps", field="sampling.steps", always=True),
    Row(key="Sampler", field="sampling.sampler", always=True),
    Row(key="Schedule type", field="sampling.schedule", always=True),
    Row(key="CFG scale", field="sampling.guidance", always=True),
    Row(key="Image CFG scale", field="sampling.image_guidance"),
    Row(key="Seed", field="canvas.seed", always=True),
    Row(key="Face restoration"),
    Row(key="Size", field="canvas.width", second="canvas.height"),
    Row(key="Model hash"),
    Row(key="Model", field="model.checkpoint"),
    Row(key="FP8 weight"),
    Row(key="Cache FP16 weight for LoRA"),
    Row(key="VAE hash"),
    Row(key="VAE", field="model.vae"),
    Row(key="Variation seed", field="variation.seed", always=True, when=_mixes),
    Row(key="Variation seed strength", field="variation.strength"),
    Row(key="Seed resize from", field="variation.from_width", second="variation.from_height"),
    Row(key="Denoising strength", field="source.denoising_strength", always=True),
    Row(key="Denoising strength", field="hires.denoising_strength", always=True, when=_second_pass_of_text),
    Row(key="Conditional mask weight", field="mask.conditioning_weight"),
    Row(key="Clip skip", field="prompt.clip_skip"),
    Row(key="ENSD", field="variation.seed_delta"),
    Row(key="Token merging ratio"),
    Row(key="Token merging ratio hr"),
    Row(key="Init image hash"),
    Row(key="RNG", field="canvas.noise_source", always=True, words=_RNG),
    Row(key="Tiling", field="canvas.tiling"),
    Row(key="Hires checkpoint", field="hires.checkpoint", unset=("Use same checkpoint",)),
    Row(key="Hires sampler", field="hires.sampler", unset=("Use same sampler",)),
    Row(key="Hires prompt", field="hires.prompt"),
    Row(key="Hires negative prompt", field="hires.negative"),
    Row(key="Hires schedule type", field="hires.schedule", unset=("Use same scheduler",)),
    Row(key="Hires upscale", field="hires.scale", always=True, when=_scaled),
    Row(key="Hires resize", field="hires.width", second="hires.height"),
    Row(key="Hires steps", field="hires.steps"),
    Row(key="Hires upscaler", field="hires.upscaler", always=True),
    Row(
        key="Hires denoising strength",
        field="hires.denoising_strength",
        always=True,
        when=_second_pass_of_source,
    ),
    Row(key="Lora hashes"),
    Row(key="TI hashes"),
    Row(key="Emphasis", field="prompt.emphasis"),
    Row(key="Eta", field="solver.eta"),  # "Eta DDIM" for the samplers of that name
    Row(key="Sigma churn", field="solver.s_churn"),
    Row(key="Sigma tmin", field="solver.s_tmin"),
    Row(key="Sigma tmax", field="solver.s_tmax", unset=("0", "0.0")),
    Row(key="Sigma noise", field="solver.s_noise"),
    Row(key="UniPC variant", field="solver.unipc_variant"),
    Row(key="UniPC skip type", field="solver.unipc_skip"),
    Row(key="UniPC order", field="solver.unipc_order"),
    Row(key="UniPC lower order final", field="solver.unipc_lower_order_final"),
    Row(key="Schedule min sigma", field="levels.sigma_min", unset=("0", "0.0")),
    Row(key="Schedule max sigma", field="levels.sigma_max", unset=("0", "0.0")),
    Row(key="Schedule rho", field="levels.rho", unset=("0", "0.0")),
    Row(key="Beta schedule alpha", field="levels.beta_alpha"),
    Row(key="Beta schedule beta", field="levels.beta_beta"),
    Row(key="Discard penultimate sigma", field="levels.discard_penultimate"),
    Row(key="Extra noise", field="source.extra_noise"),
    Row(key="NGMS", field="sampling.negative_min_sigma"),
    Row(key="Skip Early CFG", field="sampling.skip_early_guidance"),
    Row(key="CFG rescale", field="sampling.guidance_rescale"),
    Row(key="Prediction type", field="model.prediction"),
    Row(key="Refiner", field="refiner.checkpoint"),
    Row(key="Refiner switch at", field="refiner.switch_at", always=True),
    Row(key="Hires refiner", field="refiner.passes"),
    Row(key="Resize mode", field="source.resize_mode"),
    Row(key="Exact steps", field="source.exact_steps"),
    Row(key="Noise multiplier", field="source.noise_multiplier"),
    Row(key="Color correction", field="source.color_correction"),
    Row(key="Background color", field="source.background"),
    Row(key="Mask blur", field="mask.blur_x", always=True, when=_even_blur),
    Row(key="Mask blur x", field="mask.blur_x", always=True, when=_uneven_blur),
    Row(key="Mask blur y", field="mask.blur_y", always=True, when=_uneven_blur),
    Row(key="Mask mode", field="mask.invert", words=_MASK_MODE),
    Row(key="Inpaint area", field="mask.area"),
    Row(key="Masked area padding", field="mask.padding"),
    Row(key="Masked content", field="mask.content"),
    Row(key="Mask round", field="mask.round"),
    Row(key="Mask overlay", field="mask.overlay"),
    Row(key="Soft inpainting enabled", field="soft.enabled"),
    Row(key="Soft inpainting schedule bias", field="soft.schedule_bias", always=True),
    Row(key="Soft inpainting preservation strength", field="soft.preservation_strength", always=True),
    Row(key="Soft inpainting transition contrast boost", field="soft.contrast_boost", always=True),
    Row(key="Soft inpainting mask influence", field="soft.mask_influence", always=True),
    Row(key="Soft inpainting difference threshold", field="soft.difference_threshold", always=True),
    Row(key="Soft inpainting difference contrast", field="soft.difference_contrast", always=True),
    Row(key="Outpaint left", field="outpaint.left"),
    Row(key="Outpaint right", field="outpaint.right"),
    Row(key="Outpaint up", field="outpaint.up"),
    Row(key="Outpaint down", field="outpaint.down"),
    Row(key="Outpaint mask blur", field="outpaint.mask_blur"),
    Row(key="Outpaint falloff", field="outpaint.falloff"),
    Row(key="Outpaint color variation", field="outpaint.color_variation"),
)

# Where each field of a Request stands. Pictures are written one by one, so the batch fields have no place.
KEYS: Mapping[str, str | None] = MappingProxyType(
    {
        "prompt.text": "first lines",
        "prompt.negative": "Negative prompt",
        "canvas.batch_size": None,
        "canvas.batch_count": None,
        "hires.enabled": "Hires upscaler",
        "source.image": "Init image hash",  # by the caller: text holds no pictures
        "source.depth": None,
        "mask.image": None,
        **{field: row.key for row in ROWS for field in (row.field, row.second) if field},
    }
)
_SECOND_PASS = ("Hires upscale", "Hires resize", "Hires resize-1", "Hires upscaler")


def write(
    request: Request,
    *,
    model_hash: str | None = None,
    vae_hash: str | None = None,
    extra: Iterable[tuple[str, object]] = (),
) -> str:
    """The infotext of one picture.

    Args:
        request: resolved: its seed, size, schedule and checkpoint are those of this very picture.
        model_hash: hexadecimal SHA-256 of the checkpoint's file, of which ten digits are written.
        vae_hash: the same of another autoencoder's file.
        extra: further keys and values. One that has a place of its own stands there, in place of what the
            request says; the others follow in the order given. A value of None is left out.
    """
    handed = {"Model hash": model_hash and model_hash[:10], "VAE hash": vae_hash and vae_hash[:10]}
    handed |= dict(extra)  # type: ignore[arg-type]  # values of any kind
    line: dict[str, object] = {}
    for row in ROWS:
        key = _key(row, request)
        value = _value(row, request)
        if line.get(key) is None:
            line[key] = value
    user = handed.pop("User", None)
    line |= handed
    line |= dict(infotext.exact(request.prompt.text, request.prompt.negative))
    line |= {"Version": f"Sfumato {version('sfumato')}", "User": user}
    return infotext.layout(request.prompt.text, request.prompt.negative, line.items())


def read(text: str) -> Request:
    """The request that infotext describes. Absent keys take their defaults, unknown keys are passed over.

    Raises RequestError, naming key and value, for numbers that are none or out of range.
    """
    return request_of(infotext.parse(text))


def request_of(given: Infotext) -> Request:
    """The request that parsed infotext describes; see `read`."""
    info = modernised(given)
    parts: dict[str, dict[str, Any]] = {part.name: {} for part in fields(Request)}
    parts["prompt"]["text"], parts["prompt"]["negative"] = info.prompts()
    parts["hires"]["enabled"] = any(key in info.fields for key in _SECOND_PASS)
    for row in ROWS:
        if row.second:
            found: list[tuple[str, str | None]] = [
                (row.field, info.fields.get(f"{row.key}-1")),
                (row.second, info.fields.get(f"{row.key}-2")),
            ]
        else:
            found = [(row.field, _text(row, info))]
        for field, value in found:
            if value is not None and field:
                part, name = field.split(".")
                parts[part][name] = _parsed(row, field, value)
    if not parts["hires"]["enabled"]:  # one key, two meanings
        parts["hires"].pop("denoising_strength", None)
    elif not info.text("Hires denoising strength"):
        parts["source"].pop("denoising_strength", None)
    if info.text("Mask blur"):
        parts["mask"]["blur_y"] = parts["mask"]["blur_x"]
    if parts["canvas"].get("noise_source") == "device" and not info.by_sfumato:
        parts["canvas"]["noise_source"] = "philox"  # what a GPU of the web UI's usual maker draws
    return Request(**{name: _part_type(name)(**values) for name, values in parts.items()})


def _key(row: Row, request: Request) -> str:
    return "Eta DDIM" if row.key == "Eta" and _is_ddim(request.sampling.sampler) else row.key


def _is_ddim(sampler: str) -> bool:
    return sampler.casefold().startswith("ddim")


def _value(row: Row, request: Request) -> str | None:
    """What is written for a row; None = nothing."""
    if not row.field:
        return None
    part, name = row.field.split(".")
    own, default = getattr(request, part), _part_type(part)()
    if any(rule is not None and not rule(request) for rule in (PARTS.get(part), row.when)):
        return None
    if row.second:
        sides = [getattr(own, field.split(".")[1]) for field in (row.field, row.second)]
        return "x".join(map(str, sides)) if None not in sides and any(sides) else None
    value = getattr(own, name)
    if value is None or (value == getattr(default, name) and not row.always):
        return None
    return _written(row, value)


def _written(row: Row, value: Any) -> str:
    if row.words:
        return row.words[value]
    if isinstance(value, bool):
        return _TRUE_FALSE[value]
    return _number(value) if isinstance(value, float) else str(value)


def _text(row: Row, info: Infotext) -> str | None:
    """What stands for a row in a text; None = nothing, or that nothing is chosen."""
    value = info.text(row.key)
    if row.key == "Eta":
        value = value or info.text("Eta DDIM")
    if row.key == "Sigma tmax" and info.by_sfumato:
        return value  # here 0 is a number; elsewhere it means no limit
    return None if value in row.unset else value


def _parsed(row: Row, field: str, text: str) -> Any:
    part, name = field.split(".")
    annotation = field_types(_part_type(part))[name]
    kinds = get_args(annotation) or (annotation,)
    if row.words or bool in kinds:
        words = row.words or _TRUE_FALSE
        for value, word in words.items():
            if word.casefold() == text.casefold():
                return value
        raise RequestError(f"{row.key}: {text[:40]!r} is not one of {', '.join(words.values())}")
    kind = next((each for each in (int, float) if each in kinds), None)
    if kind is None:
        return text  # the dataclass refuses what is not among its words
    try:
        return kind(text)
    except ValueError:
        number = "whole number" if kind is int else "number"
        raise RequestError(f"{row.key}: {text[:40]!r} is not a {number}") from None


def _number(value: float) -> str:
    """As Python prints it, whole numbers without the point."""
    return str(int(value)) if value.is_integer() else repr(value)


def _part_type(part: str) -> Any:
    return {field.name: field.default_factory for field in fields(Request)}[part]
