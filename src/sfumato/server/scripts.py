"""Scripts as the web UI's clients name them: by title, with arguments in the order of its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sfumato.app.jobs import Script
from sfumato.errors import RequestError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.axes import axis_names
from sfumato.pipeline.upscalers import RESAMPLERS
from sfumato.server.schemas import GenerationBody
from sfumato.types import Request

_AXES: tuple[tuple[str, str], ...] = (  # in the order by which clients number them, and where they are
    ("Nothing", "both"),
    ("Seed", "both"),
    ("Var. seed", "both"),
    ("Var. strength", "both"),
    ("Steps", "both"),
    ("Hires steps", "txt2img"),
    ("CFG Scale", "both"),
    ("Image CFG Scale", "img2img"),
    ("Prompt S/R", "both"),
    ("Prompt order", "both"),
    ("Sampler", "both"),
    ("Hires sampler", "txt2img"),
    ("Checkpoint name", "both"),
    ("Negative Guidance minimum sigma", "both"),
    ("Sigma Churn", "both"),
    ("Sigma min", "both"),
    ("Sigma max", "both"),
    ("Sigma noise", "both"),
    ("Schedule type", "both"),
    ("Schedule min sigma", "both"),
    ("Schedule max sigma", "both"),
    ("Schedule rho", "both"),
    ("Beta schedule alpha", "both"),
    ("Beta schedule beta", "both"),
    ("Eta", "both"),
    ("Clip skip", "both"),
    ("Denoising", "both"),
    ("Initial noise multiplier", "both"),
    ("Extra noise", "both"),
    ("Hires upscaler", "txt2img"),
    ("Cond. Image Mask Weight", "img2img"),
    ("VAE", "both"),
    ("Styles", "both"),
    ("UniPC Order", "both"),
    ("Face restore", "both"),
    ("Token merging ratio", "both"),
    ("Token merging ratio high-res", "both"),
    ("Always discard next-to-last sigma", "both"),
    ("SGM noise multiplier", "both"),
    ("Refiner checkpoint", "both"),
    ("Refiner switch at", "both"),
    ("RNG source", "both"),
    ("FP8 mode", "both"),
    ("Size", "both"),
)


RESAMPLING = tuple(RESAMPLERS)  # the upscalers whose numbers are the same everywhere


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One control of a script."""

    label: str
    value: Any = None  # by default
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None
    open: bool = False  # the script knows more choices, or counts them otherwise

    def read(self, given: Any, script: str) -> Any:
        """The value of the default's type. Raises RequestError: of another, or out of range."""
        if given is None or (given == "" and isinstance(self.value, list)):  # as some clients leave it out
            return self.value
        if self.choices is not None and not isinstance(self.value, list):
            return self._choice(given, script)
        kind = type(self.value)
        fits = (
            isinstance(given, bool | int)
            if kind is bool
            else isinstance(given, int | float)
            if kind in (int, float)
            else isinstance(given, kind)
        )
        if not fits:
            raise RequestError(
                f"{script}: {self.label}={str(given)[:40]!r} is not of the form {self.value!r}"
            )
        if kind in (int, float):
            low, high = self.minimum, self.maximum
            if not (low is None or low <= given) or not (high is None or given <= high):
                raise RequestError(f"{script}: {self.label}={given} is outside {low:g} to {high:g}")
        return kind(given) if kind in (bool, int, float) else given

    def _choice(self, given: Any, script: str) -> str | int:
        assert self.choices is not None
        if self.open and isinstance(given, int | str):
            return given
        if isinstance(given, int) and 0 <= given < len(self.choices):
            return self.choices[given]
        for choice in self.choices:
            if str(given).casefold() == choice.casefold():
                return choice
        raise RequestError(
            f"{script}: {self.label}={str(given)[:40]!r} is not one of {', '.join(self.choices)[:400]}"
        )


@dataclass(frozen=True, kw_only=True)
class Title:
    """A script by its title."""

    arguments: tuple[Argument, ...]
    convert: Callable[[Sequence[Any], Request], Script | None]
    txt2img: bool = True
    img2img: bool = True


def _matrix(given: Sequence[Any], request: Request) -> Script:
    at_start, different, kind, separator, margin = given
    arguments = {
        "at_start": at_start,
        "different_seeds": different,
        "negative": kind == "negative",
        "separator": ", " if separator == "comma" else " ",
        "margin": margin,
    }
    return Script(name="prompt matrix", arguments=arguments)


def _prompts(given: Sequence[Any], request: Request) -> Script:
    iterate, same, position, text = given
    drawn = request.canvas.seed < 0 and not same
    arguments = {"text": text, "iterate_seed": iterate or drawn, "insert": position}
    if not request.prompt.text and not request.prompt.negative:
        arguments["insert"] = "replace"
    return Script(name="prompts", arguments=arguments)


def _plot(given: Sequence[Any], request: Request) -> Script:
    axes = []
    numbered = axes_of("txt2img" if request.source.image is None else "img2img")
    for place in (0, 3, 6):
        name, text, several = given[place : place + 3]
        if isinstance(name, int):
            if not 0 <= name < len(numbered):
                raise RequestError(f"x/y/z plot: axis {name} is none of 0 to {len(numbered) - 1}")
            name = numbered[name]
        if name.casefold() not in {each.casefold() for each in axis_names()}:
            raise RequestError(f"x/y/z plot: the axis {name[:60]!r} is not here")
        axes.append([name, text or ",".join(f'"{each}"' for each in several)])
    legend, cells, sub_grids, keep_random, vary_x, vary_y, vary_z, margin, _ = given[9:]
    vary = "".join(letter for letter, wanted in zip("xyz", (vary_x, vary_y, vary_z), strict=True) if wanted)
    arguments = {
        "axes": axes,
        "cells": cells,
        "legend": legend,
        "sub_grids": sub_grids,
        "keep_random": keep_random,
        "vary_seeds": vary,
        "margin": margin,
    }
    return Script(name="x/y/z plot", arguments=arguments)


def _upscale(given: Sequence[Any], request: Request) -> Script:
    _, overlap, upscaler, scale = given
    if isinstance(upscaler, int):
        upscaler = RESAMPLING[upscaler] if 0 <= upscaler < len(RESAMPLING) else str(upscaler)
    return Script(name="sd upscale", arguments={"overlap": overlap, "upscaler": upscaler, "scale": scale})


def _loopback(given: Sequence[Any], request: Request) -> Script:
    loops, final, curve, _ = given
    return Script(
        name="loopback", arguments={"loops": loops, "final_denoising_strength": final, "curve": curve}
    )


def axes_of(kind: str) -> tuple[str, ...]:
    """Names of axes as clients number them, of "txt2img", "img2img", or those of "both"."""
    return tuple(name for name, where in _AXES if kind == "both" or where in ("both", kind))


def _axis(letter: str) -> tuple[Argument, ...]:
    return (
        Argument(label=f"{letter} type", value="Nothing", choices=axes_of("both"), open=True),
        Argument(label=f"{letter} values", value=""),
        Argument(label=f"{letter} values", value=[], choices=()),
    )


_MARGIN = Argument(label="Grid margins (px)", value=0, minimum=0, maximum=500, step=2)
TITLES: Mapping[str, Title] = MappingProxyType(
    {
        "prompt matrix": Title(
            arguments=(
                Argument(label="Put variable parts at start of prompt", value=False),
                Argument(label="Use different seed for each picture", value=False),
                Argument(label="Select prompt", value="positive", choices=("positive", "negative")),
                Argument(label="Select joining char", value="comma", choices=("comma", "space")),
                _MARGIN,
            ),
            convert=_matrix,
        ),
        "prompts from file or textbox": Title(
            arguments=(
                Argument(label="Iterate seed every line", value=False),
                Argument(label="Use same random seed for all lines", value=False),
                Argument(label="Insert prompts at the", value="start", choices=("start", "end")),
                Argument(label="List of prompt inputs", value=""),
            ),
            convert=_prompts,
        ),
        "x/y/z plot": Title(
            arguments=(
                *_axis("X"),
                *_axis("Y"),
                *_axis("Z"),
                Argument(label="Draw legend", value=True),
                Argument(label="Include Sub Images", value=False),
                Argument(label="Include Sub Grids", value=False),
                Argument(label="Keep -1 for seeds", value=False),
                Argument(label="Vary seeds for X", value=False),
                Argument(label="Vary seeds for Y", value=False),
                Argument(label="Vary seeds for Z", value=False),
                _MARGIN,
                Argument(label="Use text inputs instead of dropdowns", value=False),
            ),
            convert=_plot,
        ),
        "loopback": Title(
            arguments=(
                Argument(label="Loops", value=4, minimum=1, maximum=1000, step=1),
                Argument(label="Final denoising strength", value=0.5, minimum=0, maximum=1, step=0.01),
                Argument(
                    label="Denoising strength curve",
                    value="Linear",
                    choices=("Aggressive", "Linear", "Lazy"),
                ),
                Argument(
                    label="Append interrogated prompt at each iteration", value="None", choices=("None",)
                ),
            ),
            convert=_loopback,
            txt2img=False,
        ),
        "outpainting mk2": Title(
            arguments=(
                Argument(label="", value=""),
                Argument(label="Pixels to expand", value=128, minimum=8, maximum=256, step=8),
                Argument(label="Mask blur", value=8, minimum=0, maximum=64, step=1),
                Argument(
                    label="Outpainting direction",
                    value=["left", "right", "up", "down"],
                    choices=("left", "right", "up", "down"),
                ),
                Argument(label="Fall-off exponent", value=1.0, minimum=0, maximum=4, step=0.01),
                Argument(label="Color variation", value=0.05, minimum=0, maximum=1, step=0.01),
            ),
            convert=lambda given, request: None,  # a part of the request: see `outpainted`
            txt2img=False,
        ),
        "sd upscale": Title(
            arguments=(
                Argument(label="", value=""),
                Argument(label="Tile overlap", value=64, minimum=0, maximum=256, step=16),
                Argument(label="Upscaler", value="Lanczos", choices=RESAMPLING, open=True),
                Argument(label="Scale Factor", value=2.0, minimum=1, maximum=8, step=0.05),
            ),
            convert=_upscale,
            txt2img=False,
        ),
    }
)
_SOFT = (
    ("enabled", "Soft inpainting", False),
    ("schedule_bias", "Schedule bias", 1.0),
    ("preservation_strength", "Preservation strength", 0.5),
    ("contrast_boost", "Transition contrast boost", 4.0),
    ("mask_influence", "Mask influence", 0.0),
    ("difference_threshold", "Difference threshold", 0.5),
    ("difference_contrast", "Difference contrast", 2.0),
)
ALWAYS_ON: Mapping[str, tuple[Argument, ...]] = MappingProxyType(
    {
        "soft inpainting": tuple(Argument(label=label, value=value) for _, label, value in _SOFT),
        "refiner": (
            Argument(label="Refiner", value=False),
            Argument(label="Checkpoint", value=""),
            Argument(label="Switch at", value=0.8, minimum=0.01, maximum=1.0, step=0.01),
        ),
        "seed": (
            Argument(label="Seed", value=-1),
            Argument(label="Extra", value=False),
            Argument(label="Variation seed", value=-1),
            Argument(label="Variation strength", value=0.0, minimum=0, maximum=1, step=0.01),
            Argument(label="Resize seed from width", value=0, minimum=0, maximum=2048, step=8),
            Argument(label="Resize seed from height", value=0, minimum=0, maximum=2048, step=8),
        ),
        "sampler": (
            Argument(label="Sampling steps", value=20, minimum=1, maximum=150, step=1),
            Argument(label="Sampling method", value="DPM++ 2M"),
            Argument(label="Schedule type", value="Automatic"),
        ),
        "comments": (),
        "extra options": (),
    }
)
"""Those that take part in every request. All but the first two only repeat fields of the request."""


def script_of(body: GenerationBody, request: Request, *, img2img: bool) -> Script | None:
    """The script that a body names, None for none.

    Args:
        body: what was sent.
        request: what the script starts from.
        img2img: whether it is image to image.

    Raises:
        RequestError: no such script here, an argument of another kind.
    """
    name = (body.script_name or "").strip().casefold()
    if name in ("", "none"):
        return None
    title = TITLES.get(name)
    if title is None or not (title.img2img if img2img else title.txt2img):
        there = [key for key, row in TITLES.items() if (row.img2img if img2img else row.txt2img)]
        raise RequestError(f"script {name[:60]!r} not found; there are {', '.join(there)}")
    return title.convert(read_arguments(name, title.arguments, body.script_args), request)


def outpainted(body: GenerationBody, request: Request) -> Request:
    """The request, its picture continued if the body names the script for that."""
    name = (body.script_name or "").strip().casefold()
    if name != "outpainting mk2":
        return request
    _, pixels, blur, directions, falloff, color = read_arguments(
        name, TITLES[name].arguments, body.script_args
    )
    for each in directions:
        if each not in ("left", "right", "up", "down"):
            raise RequestError(f"{name}: direction {str(each)[:40]!r} is not one of left, right, up, down")
    values = {
        "outpaint.mask_blur": blur,
        "outpaint.falloff": falloff,
        "outpaint.color_variation": color,
        **{f"outpaint.{each}": pixels for each in directions},
    }
    return fields.with_values(request, values)


def always_on(given: Mapping[str, Any], request: Request, checkpoint: Callable[[str], Any]) -> Request:
    """The request with what scripts that are always on say about it.

    Args:
        given: by title: {"args": […]}.
        request: the request.
        checkpoint: the name a shelf knows, of a name that was sent.

    Raises:
        RequestError: no such script, or one that is not always on.
        ModelNotFoundError: no such checkpoint.
    """
    for title, each in given.items():
        name = title.strip().casefold()
        if name not in ALWAYS_ON:
            what = "is not always on" if name in TITLES else "not found"
            raise RequestError(f"always on script {title[:60]!r} {what}; there are {', '.join(ALWAYS_ON)}")
        arguments = each.get("args") if isinstance(each, Mapping) else None
        if not arguments:
            continue
        values = read_arguments(name, ALWAYS_ON[name], arguments)
        if name == "soft inpainting":
            soft = {f"soft.{field}": value for (field, _, _), value in zip(_SOFT, values, strict=True)}
            request = fields.with_values(request, soft)
        elif name == "refiner" and values[0] and values[1] not in ("", "None"):
            request = fields.with_values(
                request,
                {"refiner.checkpoint": checkpoint(values[1]), "refiner.switch_at": values[2]},
            )
    return request


def read_arguments(name: str, arguments: Sequence[Argument], given: Any) -> list[Any]:
    """Arguments by their places; those that are not given have their defaults, those too many are ignored.

    Raises RequestError: one of another kind.
    """
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise RequestError(f"{name}: arguments {str(given)[:40]!r} are not a list")
    sent = [*given, *[None] * len(arguments)]
    return [argument.read(each, name) for argument, each in zip(arguments, sent, strict=False)]
