"""Fields of a `Request` by name, dotted or AUTOMATIC1111's name for its API, with values from text or JSON.

{"sampling.steps": 10, "cfg_scale": 5}   →   the same request with 10 steps and a guidance of 5
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sfumato.errors import RequestError
from sfumato.text.styles import Style, apply_styles
from sfumato.types import MaskedArea, MaskedContent, Request, ResizeMode, field_types

NO_EFFECT = (
    "prompt_for_display",
    "outpath_samples",
    "outpath_grids",
    "do_not_save_samples",
    "do_not_save_grid",
)
"""Names of the API that say nothing about the picture; understood and passed over."""


@dataclass(frozen=True)
class Name:
    """What a foreign name sets."""

    fields: tuple[str, ...]  # dotted
    choices: tuple[Any, ...] = ()  # the values its numbers 0, 1, 2 … stand for
    words: Mapping[str, Any] | None = None  # the values its words stand for
    none: Any = None  # a value that means "not set"


def _one(field: str) -> Name:
    return Name((field,))


RNG_NAMES: Mapping[str, str] = MappingProxyType({"nv": "philox", "gpu": "philox", "cpu": "cpu"})
API_NAMES: Mapping[str, Name] = MappingProxyType(
    {
        "prompt": _one("prompt.text"),
        "negative_prompt": _one("prompt.negative"),
        "seed": _one("canvas.seed"),
        "subseed": _one("variation.seed"),
        "subseed_strength": _one("variation.strength"),
        "seed_resize_from_w": Name(("variation.from_width",), none=-1),
        "seed_resize_from_h": Name(("variation.from_height",), none=-1),
        "sampler_name": _one("sampling.sampler"),
        "sampler_index": _one("sampling.sampler"),
        "scheduler": _one("sampling.schedule"),
        "batch_size": _one("canvas.batch_size"),
        "n_iter": _one("canvas.batch_count"),
        "steps": _one("sampling.steps"),
        "cfg_scale": _one("sampling.guidance"),
        "image_cfg_scale": _one("sampling.image_guidance"),
        "width": _one("canvas.width"),
        "height": _one("canvas.height"),
        "tiling": _one("canvas.tiling"),
        "eta": _one("solver.eta"),
        "s_churn": _one("solver.s_churn"),
        "s_tmin": _one("solver.s_tmin"),
        "s_tmax": _one("solver.s_tmax"),
        "s_noise": _one("solver.s_noise"),
        "s_min_uncond": _one("sampling.negative_min_sigma"),
        "denoising_strength": Name(("source.denoising_strength", "hires.denoising_strength")),
        "init_image": _one("source.image"),
        "resize_mode": Name(("source.resize_mode",), choices=get_args(ResizeMode)),
        "initial_noise_multiplier": _one("source.noise_multiplier"),
        "mask": _one("mask.image"),
        "mask_blur": Name(("mask.blur_x", "mask.blur_y")),
        "mask_blur_x": _one("mask.blur_x"),
        "mask_blur_y": _one("mask.blur_y"),
        "mask_round": _one("mask.round"),
        "inpainting_fill": Name(("mask.content",), choices=get_args(MaskedContent)),
        "inpaint_full_res": Name(("mask.area",), choices=get_args(MaskedArea)),
        "inpaint_full_res_padding": _one("mask.padding"),
        "inpainting_mask_invert": _one("mask.invert"),
        "refiner_checkpoint": _one("refiner.checkpoint"),
        "refiner_switch_at": _one("refiner.switch_at"),
        "enable_hr": _one("hires.enabled"),
        "hr_scale": _one("hires.scale"),
        "hr_upscaler": _one("hires.upscaler"),
        "hr_second_pass_steps": _one("hires.steps"),
        "hr_resize_x": _one("hires.width"),
        "hr_resize_y": _one("hires.height"),
        "hr_checkpoint_name": _one("hires.checkpoint"),
        "hr_sampler_name": _one("hires.sampler"),
        "hr_scheduler": _one("hires.schedule"),
        "hr_prompt": _one("hires.prompt"),
        "hr_negative_prompt": _one("hires.negative"),
        "sd_model": _one("model.checkpoint"),
        "sd_model_checkpoint": _one("model.checkpoint"),
        "sd_vae": Name(("model.vae",), none="Automatic"),
        "CLIP_stop_at_last_layers": _one("prompt.clip_skip"),
        "emphasis": _one("prompt.emphasis"),
        "randn_source": Name(("canvas.noise_source",), words=RNG_NAMES),
        "eta_noise_seed_delta": _one("variation.seed_delta"),
    }
)


@cache
def request_fields() -> Mapping[str, Any]:
    """The type of every field of a request, by dotted name."""
    parts = get_type_hints(Request)
    return MappingProxyType(
        {
            f"{part.name}.{each.name}": field_types(parts[part.name])[each.name]
            for part in fields(Request)
            for each in fields(parts[part.name])
        }
    )


def value(request: Request, field: str) -> Any:
    """What `request` holds in the field of this dotted name."""
    part, name = field.split(".")
    return getattr(getattr(request, part), name)


def with_values(request: Request, values: Mapping[str, Any]) -> Request:
    """The request with other values, by dotted name. Raises RequestError: a value out of range."""
    parts: dict[str, dict[str, Any]] = {}
    for field, each in values.items():
        part, name = field.split(".")
        parts.setdefault(part, {})[name] = each
    return replace(
        request, **{part: replace(getattr(request, part), **given) for part, given in parts.items()}
    )


def convert(field: str, given: object, shown: str | None = None) -> Any:
    """The value of a field from text or from JSON.

    Args:
        field: dotted name.
        given: text is read as the field's type; a number, truth value or None must already be of it.
        shown: name of the field in errors, if it was called by another.

    Raises:
        RequestError: it is not of the field's type; names the field, what was given and what fits.
    """
    kinds = _kinds(request_fields()[field])
    text = given.strip() if isinstance(given, str) else None
    if type(None) in kinds and (given is None or (text is not None and text.casefold() in ("", "none"))):
        return None
    (kind,) = (each for each in kinds if each is not type(None))
    literals = get_args(kind) if get_origin(kind) is Literal else ()
    if literals:
        found = [each for each in literals if text is not None and each.casefold() == text.casefold()]
        expected, fits = f"one of {', '.join(literals)}", bool(found)
        result: Any = found[0] if found else None
    else:
        expected, reader = _READERS[kind]
        result = reader(given)
        fits = result is not None
    if not fits:
        raise RequestError(f"{shown or field}={str(given)[:60]!r} is not {expected}")
    return result


def from_row(base: Request, row: Mapping[str, object], styles: Mapping[str, Style]) -> Request:
    """The request that a row of names and values describes.

    Args:
        base: what the row leaves open.
        row: dotted names or names of the API; a value of None counts as not given. `styles` is a list of
            names, or one text with commas; `override_settings` may hold further names.
        styles: those there are, by name.

    Raises:
        RequestError: an unknown name (the nearest ones are given), a value of another type or out of range.
        PromptError: no such style.
    """
    values: dict[str, Any] = {}
    names: list[str] = []
    for name, given in _flat(row):
        if given is None or name in NO_EFFECT:
            check_name(name)
        elif name == "styles":
            names += _style_names(given)
        elif name == "restore_faces":
            if str(given).casefold() not in ("false", "0", ""):
                raise RequestError("restore_faces: a row cannot ask for faces to be restored; leave it out")
        else:
            values |= _assignments(name, given)
    request = with_values(base, values)
    prompt = request.prompt
    text, negative = apply_styles(prompt.text, prompt.negative, names, styles)
    return with_values(request, {"prompt.text": text, "prompt.negative": negative})


def check_name(name: str) -> None:
    """Refuse what is no name for `from_row`. Raises RequestError with the nearest names."""
    special = ("styles", "restore_faces", "override_settings", *NO_EFFECT)
    if name not in request_fields() and name not in API_NAMES and name not in special:
        raise unknown(name, (*API_NAMES, *special, *request_fields()), "a field")


def unknown(name: str, known: Iterable[str], what: str) -> RequestError:
    """The error for a name that is none, with those nearest to it."""
    names = {each.casefold(): each for each in known}
    near = [names[each] for each in difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return RequestError(f"{name[:60]!r} is not the name of {what}{hint}")


def _flat(row: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    for name, given in row.items():
        if name == "override_settings" and isinstance(given, Mapping):
            yield from given.items()
        else:
            yield name, given


def _assignments(name: str, given: object) -> dict[str, Any]:
    if name in request_fields():
        return {name: convert(name, given)}
    check_name(name)
    return assigned(API_NAMES[name], name, given)


def assigned(foreign: Name, name: str, given: object) -> dict[str, Any]:
    """What a foreign name sets, by dotted name.

    Args:
        foreign: what the name means.
        name: as it is known, for errors.
        given: its value.

    Raises:
        RequestError: the value is of another type, or none of the choices.
    """
    if foreign.none is not None and str(given) == str(foreign.none):
        return {field: value(Request(), field) for field in foreign.fields}
    if isinstance(given, str) and foreign.words:
        given = foreign.words.get(given.casefold(), given)
    number = str(int(given)) if isinstance(given, bool) else str(given)
    if foreign.choices and number.isdecimal():
        if int(number) >= len(foreign.choices):
            raise RequestError(f"{name}={number} is beyond the {len(foreign.choices)} choices from 0")
        given = foreign.choices[int(number)]
    return {field: convert(field, given, name) for field in foreign.fields}


def _style_names(given: object) -> list[str]:
    if isinstance(given, str):
        return [name for name in (part.strip() for part in given.split(",")) if name]
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return list(given)
    raise RequestError(f"styles={str(given)[:60]!r} is not a list of names")


def _kinds(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return (annotation,)
    return tuple(dict.fromkeys(get_args(annotation) or (annotation,)))


def _whole(given: object) -> int | None:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        return int(given) if not isinstance(given, float) or given.is_integer() else None
    except ValueError:
        return None


def _number(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        return float(given)
    except (ValueError, OverflowError):
        return None


def _truth(given: object) -> bool | None:
    word = str(given).strip().casefold() if isinstance(given, bool | int | str) else ""
    return (
        True if word in ("true", "1", "yes", "on") else False if word in ("false", "0", "no", "off") else None
    )


def _text(given: object) -> str | None:
    return given if isinstance(given, str) else None


def _path(given: object) -> Path | None:
    return Path(given) if isinstance(given, str | Path) else None


_READERS: Mapping[Any, tuple[str, Callable[[object], Any]]] = MappingProxyType(
    {
        int: ("a whole number", _whole),
        float: ("a number", _number),
        bool: ("true or false", _truth),
        str: ("text", _text),
        Path: ("a path", _path),
    }
)
