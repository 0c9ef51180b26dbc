"""The one table of the form: which control stands for which field of a `Request`, in the order of the page.

Labels and help lines are words of `strings`, by the field's name: `sampling.steps`, `help.sampling.steps`.
Defaults come from the dataclasses. `read` leads from the values of components to a request, `shown` back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import gradio as gr

from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import SCHEDULES
from sfumato.errors import RequestError
from sfumato.pipeline.enlarge import LATENT_UPSCALERS
from sfumato.pipeline.scripts.fields import convert, request_fields, value, with_values
from sfumato.types import Request
from sfumato.ui.strings import LANGUAGES, t, table

Kind = Literal["text", "lines", "slider", "choice", "radio", "check", "colour"]
Choices = Literal["samplers", "schedules", "checkpoints", "autoencoders", "upscalers"]
BOTH = ("txt2img", "img2img")
UNSET = ""  # a control's value for a field that is None


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control."""

    field: str  # dotted
    kind: Kind
    group: str  # where it stands; see the tabs
    tabs: tuple[str, ...] = BOTH
    low: float = 0.0  # of a slider
    high: float = 1.0
    step: float = 0.01
    choices: Choices | None = None  # None = the words of the field's type
    unset: str = ""  # key of the word for None, where that can be chosen


def _slider(field: str, group: str, low: float, high: float, step: float, **more: Any) -> Control:
    return Control(field=field, kind="slider", group=group, low=low, high=high, step=step, **more)


_TEXT, _IMAGE = ("txt2img",), ("img2img",)
_SAME_SAMPLER, _SAME_SCHEDULE, _SAME_MODEL = (
    "choice.same_sampler",
    "choice.same_schedule",
    "choice.same_model",
)
CONTROLS: tuple[Control, ...] = (
    Control(field="model.checkpoint", kind="choice", group="quick", choices="checkpoints"),
    Control(field="prompt.text", kind="lines", group="prompt"),
    Control(field="prompt.negative", kind="lines", group="prompt"),
    Control(field="sampling.sampler", kind="choice", group="sampling", choices="samplers"),
    Control(field="sampling.schedule", kind="choice", group="sampling", choices="schedules"),
    _slider("sampling.steps", "steps", 1, 150, 1),
    Control(field="hires.enabled", kind="check", group="hires", tabs=_TEXT),
    Control(field="hires.upscaler", kind="choice", group="hires", tabs=_TEXT, choices="upscalers"),
    _slider("hires.steps", "hires", 0, 150, 1, tabs=_TEXT),
    _slider("hires.denoising_strength", "hires", 0, 1, 0.01, tabs=_TEXT),
    _slider("hires.scale", "hires", 1, 4, 0.05, tabs=_TEXT),
    _slider("hires.width", "hires", 0, 2048, 8, tabs=_TEXT),
    _slider("hires.height", "hires", 0, 2048, 8, tabs=_TEXT),
    Control(
        field="hires.checkpoint", kind="choice", group="hires_more", tabs=_TEXT,
        choices="checkpoints", unset=_SAME_MODEL,
    ),
    Control(
        field="hires.sampler", kind="choice", group="hires_more", tabs=_TEXT,
        choices="samplers", unset=_SAME_SAMPLER,
    ),
    Control(
        field="hires.schedule", kind="choice", group="hires_more", tabs=_TEXT,
        choices="schedules", unset=_SAME_SCHEDULE,
    ),
    Control(field="hires.prompt", kind="lines", group="hires_more", tabs=_TEXT),
    Control(field="hires.negative", kind="lines", group="hires_more", tabs=_TEXT),
    Control(
        field="refiner.checkpoint", kind="choice", group="refiner", choices="checkpoints", unset="choice.none"
    ),
    _slider("refiner.switch_at", "refiner", 0.01, 1, 0.01),
    Control(field="refiner.passes", kind="radio", group="refiner", tabs=_TEXT),
    Control(field="source.resize_mode", kind="radio", group="resize", tabs=_IMAGE),
    _slider("mask.blur_x", "inpaint", 0, 64, 1, tabs=_IMAGE),
    _slider("mask.blur_y", "inpaint", 0, 64, 1, tabs=_IMAGE),
    Control(field="mask.invert", kind="check", group="inpaint", tabs=_IMAGE),
    Control(field="mask.content", kind="radio", group="inpaint", tabs=_IMAGE),
    Control(field="mask.area", kind="radio", group="inpaint", tabs=_IMAGE),
    _slider("mask.padding", "inpaint", 0, 256, 4, tabs=_IMAGE),
    Control(field="mask.round", kind="check", group="inpaint", tabs=_IMAGE),
    _slider("mask.conditioning_weight", "inpaint", 0, 1, 0.01, tabs=_IMAGE),
    Control(field="mask.overlay", kind="check", group="inpaint", tabs=_IMAGE),
    Control(field="soft.enabled", kind="check", group="soft", tabs=_IMAGE),
    _slider("soft.schedule_bias", "soft", 0, 8, 0.1, tabs=_IMAGE),
    _slider("soft.preservation_strength", "soft", 0, 8, 0.05, tabs=_IMAGE),
    _slider("soft.contrast_boost", "soft", 1, 32, 0.5, tabs=_IMAGE),
    _slider("soft.mask_influence", "soft", 0, 1, 0.05, tabs=_IMAGE),
    _slider("soft.difference_threshold", "soft", 0, 8, 0.25, tabs=_IMAGE),
    _slider("soft.difference_contrast", "soft", 0, 8, 0.25, tabs=_IMAGE),
    _slider("outpaint.left", "outpaint", 0, 512, 8, tabs=_IMAGE),
    _slider("outpaint.right", "outpaint", 0, 512, 8, tabs=_IMAGE),
    _slider("outpaint.up", "outpaint", 0, 512, 8, tabs=_IMAGE),
    _slider("outpaint.down", "outpaint", 0, 512, 8, tabs=_IMAGE),
    _slider("outpaint.mask_blur", "outpaint", 0, 64, 1, tabs=_IMAGE),
    _slider("outpaint.falloff", "outpaint", 0, 4, 0.01, tabs=_IMAGE),
    _slider("outpaint.color_variation", "outpaint", 0, 1, 0.01, tabs=_IMAGE),
    _slider("canvas.width", "size", 64, 2048, 8),
    _slider("canvas.height", "size", 64, 2048, 8),
    _slider("canvas.batch_count", "batch", 1, 100, 1),
    _slider("canvas.batch_size", "batch", 1, 8, 1),
    _slider("sampling.guidance", "guidance", 1, 30, 0.5),
    _slider("sampling.image_guidance", "denoising", 0, 3, 0.05, tabs=_IMAGE),
    _slider("source.denoising_strength", "denoising", 0, 1, 0.01, tabs=_IMAGE),
    Control(field="canvas.seed", kind="text", group="seed"),
    Control(field="variation.seed", kind="text", group="variation"),
    _slider("variation.strength", "variation", 0, 1, 0.01),
    _slider("variation.from_width", "variation", 0, 2048, 8),
    _slider("variation.from_height", "variation", 0, 2048, 8),
    Control(
        field="model.vae", kind="choice", group="model", choices="autoencoders", unset="choice.automatic"
    ),
    Control(field="model.prediction", kind="radio", group="model", unset="choice.automatic"),
    _slider("prompt.clip_skip", "model", 1, 12, 1),
    Control(field="prompt.emphasis", kind="radio", group="model"),
    Control(field="canvas.tiling", kind="check", group="model"),
    Control(field="canvas.noise_source", kind="radio", group="model"),
    Control(field="variation.seed_delta", kind="text", group="model"),
    _slider("sampling.guidance_rescale", "finer", 0, 1, 0.05),
    _slider("sampling.negative_min_sigma", "finer", 0, 15, 0.01),
    _slider("sampling.skip_early_guidance", "finer", 0, 1, 0.01),
    Control(field="solver.eta", kind="text", group="finer"),
    _slider("solver.s_churn", "finer", 0, 100, 0.01),
    _slider("solver.s_tmin", "finer", 0, 10, 0.01),
    Control(field="solver.s_tmax", kind="text", group="finer"),
    _slider("solver.s_noise", "finer", 0, 1.1, 0.001),
    Control(field="solver.unipc_variant", kind="radio", group="finer"),
    Control(field="solver.unipc_skip", kind="radio", group="finer"),
    _slider("solver.unipc_order", "finer", 1, 50, 1),
    Control(field="solver.unipc_lower_order_final", kind="check", group="finer"),
    Control(field="levels.sigma_min", kind="text", group="finer"),
    Control(field="levels.sigma_max", kind="text", group="finer"),
    Control(field="levels.rho", kind="text", group="finer"),
    _slider("levels.beta_alpha", "finer", 0.01, 2, 0.01),
    _slider("levels.beta_beta", "finer", 0.01, 2, 0.01),
    Control(field="levels.discard_penultimate", kind="radio", group="finer", unset="choice.automatic"),
    Control(field="source.exact_steps", kind="check", group="source_finer", tabs=_IMAGE),
    _slider("source.noise_multiplier", "source_finer", 0, 1.5, 0.001, tabs=_IMAGE),
    _slider("source.extra_noise", "source_finer", 0, 1, 0.01, tabs=_IMAGE),
    Control(field="source.color_correction", kind="check", group="source_finer", tabs=_IMAGE),
    Control(field="source.background", kind="colour", group="source_finer", tabs=_IMAGE),
)  # fmt: skip
OUTSIDE: Mapping[str, str] = MappingProxyType(  # fields without a control here, and why
    {
        "source.image": "a picture; the canvases of img2img hold it",
        "source.depth": "a picture; img2img has a place for it",
        "mask.image": "a picture; it is painted on the canvas, or uploaded",
    }
)


def of_tab(tab: str, group: str | None = None) -> list[Control]:
    """The controls of a tab, or of one of its groups, in their order."""
    return [each for each in CONTROLS if tab in each.tabs and group in (None, each.group)]


def read(values: Mapping[str, Any], base: Request | None = None) -> Request:
    """The request that the values of components describe, by field.

    Args:
        values: as the components send them.
        base: what they leave open.

    Raises:
        RequestError: a value out of range or of another type; names the field.
    """
    given = {field: convert(field, _unset(field, each)) for field, each in values.items()}
    return with_values(base or Request(), given)


def shown(request: Request, controls: Iterable[Control], native: tuple[int, int]) -> dict[str, Any]:
    """What the components of these controls show for a request, by field; the inverse of `read`.

    Args:
        request: what is to be shown.
        controls: which.
        native: width and height for a request that leaves them to its checkpoint.
    """
    sides = {"canvas.width": native[0], "canvas.height": native[1]}
    values = {each.field: value(request, each.field) for each in controls}
    return {
        field: _display(field, sides[field] if each is None and field in sides else each)
        for field, each in values.items()
    }


def component(control: Control, start: Any, choices: Callable[[Choices], list[Any]], tab: str) -> Any:
    """The component of a control.

    Args:
        control: which.
        start: its value at first, as `shown` gives it.
        choices: what can be chosen, by kind.
        tab: where it stands; it goes into the element's id: `txt2img_sampling_steps`.
    """
    common: dict[str, Any] = {
        "label": t(control.field),
        "info": t(f"help.{control.field}"),
        "value": start,
        "elem_id": f"{tab}_{control.field.replace('.', '_')}",
        "interactive": True,
    }
    if control.kind == "slider":
        made: Any = gr.Slider(minimum=control.low, maximum=control.high, step=control.step, **common)
    elif control.kind == "choice":
        # What a text names need not be here; the engine says so in words, with the nearest names.
        made = gr.Dropdown(choices=_rows(control, choices), allow_custom_value=True, **common)
    elif control.kind == "radio":
        made = gr.Radio(choices=_rows(control, choices), **common)
    elif control.kind == "check":
        made = gr.Checkbox(**common)
    elif control.kind == "colour":
        made = gr.ColorPicker(**common)
    else:
        lines, most = (3, 12) if control.kind == "lines" else (1, 1)
        made = gr.Textbox(lines=lines, max_lines=most, **common)
    return made


def within(control: Control, shown: Any, **changes: Any) -> Any:
    """What a component is given: a slider grows where a text holds a value beyond its end.

    Args:
        control: which.
        shown: its value.
        changes: of other properties.
    """
    if control.kind == "slider" and not control.low <= shown <= control.high:
        changes |= {"minimum": min(control.low, shown), "maximum": max(control.high, shown)}
    return gr.update(value=shown, **changes) if changes else shown


def _rows(control: Control, choices: Callable[[Choices], list[Any]]) -> list[Any]:
    rows = choices(control.choices) if control.choices else _words_of(control.field)
    return [(t(control.unset), UNSET), *rows] if control.unset else rows


def _words_of(field: str) -> list[tuple[Any, str]]:
    """The values of a field of few words."""
    kinds = request_fields()[field]
    literals = next((each for each in (kinds, *get_args(kinds)) if get_origin(each) is Literal), None)
    values = [str(each) for each in get_args(literals)] if literals else ["True", "False"]
    keys = [f"value.{re.sub('[^a-z]+', '_', each.casefold()).strip('_')}" for each in values]
    return [
        (t(key) if key in table(LANGUAGES[0]) else each, each) for key, each in zip(keys, values, strict=True)
    ]


def _unset(field: str, given: Any) -> Any:
    """A component's value; of a field that may be None, an empty one means that."""
    empty = given is None or (isinstance(given, str) and not given.strip())
    if empty and type(None) not in get_args(request_fields()[field]) and request_fields()[field] is not str:
        raise RequestError(f"{field} is empty; give a value")
    return given if given is not None else ""


def _display(field: str, held: Any) -> Any:
    if held is None:
        return UNSET
    control = next(each for each in CONTROLS if each.field == field)
    return str(held) if control.kind in ("text", "radio") else held


def sampler_names() -> list[str]:
    """Samplers in AUTOMATIC1111's order."""
    return list(SAMPLERS)


def schedule_names() -> list[str]:
    """Schedules in AUTOMATIC1111's order."""
    return list(SCHEDULES)


def latent_upscalers() -> list[str]:
    """Upscalers that stay among latents."""
    return list(LATENT_UPSCALERS)
