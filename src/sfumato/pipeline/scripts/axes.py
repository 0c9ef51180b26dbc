"""The axes of an X/Y/Z plot: every field of a request under its dotted name and under AUTOMATIC1111's.

How an axis reads its values follows from the type of its field. Three axes are not one field: Prompt S/R,
Prompt order and Size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, permutations
from math import factorial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sfumato.errors import RequestError
from sfumato.pipeline.scripts import fields, values
from sfumato.text.styles import Style, apply_styles
from sfumato.types import Request

Apply = Callable[[Request, Any], Request]

NAMES: Mapping[str, str] = MappingProxyType(  # AUTOMATIC1111's axes that are one field
    {
        "Seed": "canvas.seed",
        "Var. seed": "variation.seed",
        "Var. strength": "variation.strength",
        "Steps": "sampling.steps",
        "Hires steps": "hires.steps",
        "CFG Scale": "sampling.guidance",
        "Image CFG Scale": "sampling.image_guidance",
        "Sampler": "sampling.sampler",
        "Hires sampler": "hires.sampler",
        "Checkpoint name": "model.checkpoint",
        "Negative Guidance minimum sigma": "sampling.negative_min_sigma",
        "Sigma Churn": "solver.s_churn",
        "Sigma min": "solver.s_tmin",
        "Sigma max": "solver.s_tmax",
        "Sigma noise": "solver.s_noise",
        "Schedule type": "sampling.schedule",
        "Schedule min sigma": "levels.sigma_min",
        "Schedule max sigma": "levels.sigma_max",
        "Schedule rho": "levels.rho",
        "Beta schedule alpha": "levels.beta_alpha",
        "Beta schedule beta": "levels.beta_beta",
        "Eta": "solver.eta",
        "Clip skip": "prompt.clip_skip",
        "Initial noise multiplier": "source.noise_multiplier",
        "Extra noise": "source.extra_noise",
        "Hires upscaler": "hires.upscaler",
        "Cond. Image Mask Weight": "mask.conditioning_weight",
        "VAE": "model.vae",
        "UniPC Order": "solver.unipc_order",
        "Always discard next-to-last sigma": "levels.discard_penultimate",
        "Refiner checkpoint": "refiner.checkpoint",
        "Refiner switch at": "refiner.switch_at",
        "RNG source": "canvas.noise_source",
    }
)
COSTS: Mapping[str, float] = MappingProxyType(  # of changing the value; the dearest changes least often
    {"model.checkpoint": 1.0, "refiner.checkpoint": 1.0, "hires.checkpoint": 1.0, "model.vae": 0.7}
)
_PATHS = ("model.checkpoint", "model.vae", "refiner.checkpoint", "hires.checkpoint")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One direction of a plot."""

    name: str = "Nothing"
    text: str = ""  # the values as they were written
    values: tuple[Any, ...] = (None,)  # at most values.MAX_VALUES
    count: int = 1  # of all
    labels: tuple[str, ...] = ("",)
    cost: float = 0.0
    apply: Apply = lambda request, value: request
    fields: tuple[str, ...] = ()  # that it sets


NOTHING = Axis()


def parse_axis(name: str, text: str, base: Request, styles: Mapping[str, Style] | None = None) -> Axis:
    """An axis from its name and its values.

    Args:
        name: of a field ("sampling.steps"), one of `axis_names()`; case does not count.
        text: the values, see `values`.
        base: the request they will change; the values of Prompt S/R and Prompt order refer to its prompt.
        styles: for the axis Styles, by name.

    Raises:
        RequestError: no such axis, no values, a value of another kind; the values out of a field's range are
            refused when they are applied.
        PromptError: no such style.
    """
    known = {each.casefold(): each for each in axis_names()}
    found = known.get(name.strip().casefold())
    if found is None:
        raise fields.unknown(name, axis_names(), "an axis")
    if found == "Nothing":
        return NOTHING
    if found in _SPECIAL:
        axis = _SPECIAL[found](text, base, styles or {})
    elif found == "Denoising":
        field = "source.denoising_strength" if base.source.image else "hires.denoising_strength"
        axis = _field_axis(found, field, text)
    else:
        axis = _field_axis(found, NAMES.get(found, found), text)
    if not axis.count:
        raise RequestError(f"the axis {found} has no values")
    return axis


@cache
def axis_names() -> tuple[str, ...]:
    """Every name an axis can have."""
    return ("Nothing", *NAMES, "Denoising", *_SPECIAL, *fields.request_fields())


def short_name(name: str) -> str:
    """A checkpoint's path without folder and ending."""
    return Path(name).stem if name.endswith((".safetensors", ".ckpt", ".pt")) else Path(name).name


def _field_axis(name: str, field: str, text: str) -> Axis:
    kind = fields.request_fields()[field]
    numeric = int in (kind, *_arguments(kind)) or float in (kind, *_arguments(kind))
    if numeric:
        cells, count = values.numbers(text, whole=float not in (kind, *_arguments(kind)))
    else:
        cells = tuple(values.split(text))
        count = len(cells)
    if field == "canvas.noise_source":
        cells = tuple(fields.RNG_NAMES.get(cell.casefold(), cell) for cell in cells)
    if field == "model.vae":
        cells = tuple("None" if cell == "Automatic" else cell for cell in cells)
    converted = tuple(fields.convert(field, cell, name) for cell in cells)
    return Axis(
        name=name,
        text=text,
        values=converted,
        count=count,
        labels=tuple(_label(name, field, each) for each in converted),
        cost=COSTS.get(field, 0.0),
        apply=lambda request, value: fields.with_values(request, {field: value}),
        fields=(field,),
    )


def _arguments(kind: Any) -> tuple[Any, ...]:
    return getattr(kind, "__args__", ())


def _label(name: str, field: str, value: Any) -> str:
    if field in _PATHS and isinstance(value, str):
        return short_name(value)
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        value = f"{value:g}"
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return f"{name.replace('.', ' ').replace('_', ' ') if name == field else name}: {value}"


def _search_axis(text: str, base: Request, styles: Mapping[str, Style]) -> Axis:
    """Prompt S/R: the first value is searched, each value in turn put in its place."""
    words = tuple(values.split(text))
    prompts = base.prompt.text, base.prompt.negative, base.hires.prompt, base.hires.negative
    if words and not any(words[0] in prompt for prompt in prompts):
        raise RequestError(f"Prompt S/R: {words[0]!r} is in neither prompt; the first value is searched for")

    def replaced(request: Request, word: str) -> Request:
        names = ("prompt.text", "prompt.negative", "hires.prompt", "hires.negative")
        return fields.with_values(
            request, {name: fields.value(request, name).replace(words[0], word) for name in names}
        )

    return _words_axis("Prompt S/R", text, words, replaced, ("prompt.text", "prompt.negative"))


def _order_axis(text: str, base: Request, styles: Mapping[str, Style]) -> Axis:
    """Prompt order: the words change places with each other, in every way there is."""
    words = values.split(text)
    for word in words:
        if word not in base.prompt.text:
            raise RequestError(f"Prompt order: {word!r} is not in the prompt")
    orders = tuple(islice(permutations(words), values.MAX_VALUES))
    axis = _words_axis("Prompt order", text, orders, _reordered, ("prompt.text",))
    return replace(axis, count=factorial(len(words)) if words else 0)


def _reordered(request: Request, order: Sequence[str]) -> Request:
    prompt, pieces = request.prompt.text, []
    for word in sorted(order, key=prompt.find):
        before, _, prompt = prompt.partition(word)
        pieces.append(before)
    text = "".join(part for pair in zip(pieces, order, strict=True) for part in pair) + prompt
    return fields.with_values(request, {"prompt.text": text})


def _size_axis(text: str, base: Request, styles: Mapping[str, Style]) -> Axis:
    """Size: width and height at once."""
    sizes = []
    for cell in values.split(text):
        width, _, height = cell.lower().replace("×", "x").partition("x")
        if not (width.isdecimal() and height.isdecimal() and len(cell) < 20):
            raise RequestError(f"Size: {cell[:40]!r} is not of the form 512x768")
        sizes.append((int(width), int(height)))
    return Axis(
        name="Size",
        text=text,
        values=tuple(sizes),
        count=len(sizes),
        labels=tuple(f"{width}x{height}" for width, height in sizes),
        apply=lambda request, size: fields.with_values(
            request, {"canvas.width": size[0], "canvas.height": size[1]}
        ),
        fields=("canvas.width", "canvas.height"),
    )


def _styles_axis(text: str, base: Request, styles: Mapping[str, Style]) -> Axis:
    """Styles: one value may join several by commas, in quotes."""
    names = tuple(values.split(text))

    def styled(request: Request, name: str) -> Request:
        wanted = [] if name == "None" else [each.strip() for each in name.split(",")]
        prompt, negative = apply_styles(request.prompt.text, request.prompt.negative, wanted, styles)
        return fields.with_values(request, {"prompt.text": prompt, "prompt.negative": negative})

    return _words_axis("Styles", text, names, styled, ("prompt.text", "prompt.negative"))


def _words_axis(name: str, text: str, given: Sequence[Any], apply: Apply, sets: tuple[str, ...]) -> Axis:
    labels = tuple(each if isinstance(each, str) else ", ".join(each) for each in given)
    return Axis(
        name=name, text=text, values=tuple(given), count=len(given), labels=labels, apply=apply, fields=sets
    )


_SPECIAL: Mapping[str, Callable[[str, Request, Mapping[str, Style]], Axis]] = MappingProxyType(
    {"Prompt S/R": _search_axis, "Prompt order": _order_axis, "Size": _size_axis, "Styles": _styles_axis}
)
