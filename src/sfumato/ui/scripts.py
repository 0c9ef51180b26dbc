"""The place of scripts in a form: which one, and its own controls, one panel each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from sfumato.app.jobs import Script
from sfumato.pipeline.scripts.axes import axis_names
from sfumato.ui.controls import BOTH
from sfumato.ui.site import Site, Visit
from sfumato.ui.strings import t

NONE = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One script."""

    name: str  # of `app.scripts.SCRIPTS`
    word: str  # its own, below [script]
    build: Callable[[Site, str], list[Any]]  # makes its components in a tab
    arguments: Callable[..., dict[str, Any]]  # from their values
    tabs: tuple[str, ...] = BOTH


def _matrix(site: Site, tab: str) -> list[Any]:
    at_start = gr.Checkbox(label=t("script.matrix_at_start"))
    seeds = gr.Checkbox(label=t("script.matrix_seeds"))
    negative = gr.Checkbox(label=t("script.matrix_negative"))
    words = [(t("script.comma"), ", "), (t("script.space"), " ")]
    separator = gr.Radio(words, value=", ", label=t("script.separator"))
    return [at_start, seeds, negative, separator, _margin()]


def _matrix_arguments(at_start: bool, seeds: bool, negative: bool, separator: str, margin: float) -> Any:
    return {
        "at_start": at_start,
        "different_seeds": seeds,
        "negative": negative,
        "separator": separator,
        "margin": int(margin),
    }


def _prompts(site: Site, tab: str) -> list[Any]:
    text = gr.Textbox(
        label=t("script.prompts_text"), info=t("help.script.prompts_text"), lines=4, max_lines=20,
        elem_id=f"{tab}_script_prompts_text",
    )  # fmt: skip
    choices = [(t(f"script.insert_{each}"), each) for each in ("replace", "start", "end")]
    insert = gr.Radio(choices, value="replace", label=t("script.insert"))
    return [text, insert, gr.Checkbox(label=t("script.iterate_seed"))]


def _prompts_arguments(text: str, insert: str, iterate_seed: bool) -> Any:
    return {"text": text, "insert": insert, "iterate_seed": iterate_seed}


def _plot(site: Site, tab: str) -> list[Any]:
    made: list[Any] = []
    for each in "xyz":
        with gr.Row():
            start = "Seed" if each == "x" else "Nothing"
            made.append(
                gr.Dropdown(
                    list(axis_names()), value=start, label=t(f"script.type_{each}"),
                    elem_id=f"{tab}_script_type_{each}",
                )
            )  # fmt: skip
            info = t("help.script.values") if each == "x" else None
            made.append(
                gr.Textbox(
                    label=t(f"script.values_{each}"), info=info, max_lines=1,
                    elem_id=f"{tab}_script_values_{each}",
                )
            )  # fmt: skip
    with gr.Row():
        made.append(gr.Checkbox(value=True, label=t("script.legend")))
        made.append(gr.Checkbox(label=t("script.keep_random")))
        made.append(gr.Checkbox(label=t("script.cells")))
        made.append(gr.Checkbox(label=t("script.sub_grids")))
    made.append(gr.CheckboxGroup(["x", "y", "z"], label=t("script.vary_seeds")))
    return [*made, _margin()]


def _plot_arguments(*values: Any) -> Any:
    legend, keep_random, cells, sub_grids, vary, margin = values[6:]
    return {
        "axes": [list(values[place : place + 2]) for place in (0, 2, 4)],
        "legend": legend,
        "keep_random": keep_random,
        "cells": cells,
        "sub_grids": sub_grids,
        "vary_seeds": "".join(vary),
        "margin": int(margin),
    }


def _loopback(site: Site, tab: str) -> list[Any]:
    loops = gr.Slider(1, 32, value=4, step=1, label=t("script.loops"))
    final = gr.Slider(0, 1, value=0.5, step=0.01, label=t("script.final_denoising"))
    curves = [(t(f"script.curve_{each.lower()}"), each) for each in ("Aggressive", "Linear", "Lazy")]
    return [loops, final, gr.Radio(curves, value="Linear", label=t("script.curve"))]


def _loopback_arguments(loops: float, final: float, curve: str) -> Any:
    return {"loops": int(loops), "final_denoising_strength": final, "curve": curve}


def _upscale(site: Site, tab: str) -> list[Any]:
    overlap = gr.Slider(0, 256, value=64, step=16, label=t("script.overlap"))
    scale = gr.Slider(1, 4, value=2, step=0.05, label=t("script.scale"))
    pixels = [each for each in site.choices("upscalers") if not each.startswith("Latent")]
    return [overlap, scale, gr.Dropdown(pixels, value="Lanczos", label=t("hires.upscaler"))]


def _upscale_arguments(overlap: float, scale: float, upscaler: str) -> Any:
    return {"overlap": int(overlap), "scale": scale, "upscaler": upscaler}


def _margin() -> Any:
    return gr.Slider(0, 500, value=0, step=2, label=t("script.margin"))


PANELS: tuple[Panel, ...] = (
    Panel(name="prompt matrix", word="matrix", build=_matrix, arguments=_matrix_arguments),
    Panel(name="prompts", word="prompts", build=_prompts, arguments=_prompts_arguments),
    Panel(name="x/y/z plot", word="plot", build=_plot, arguments=_plot_arguments),
    Panel(
        name="loopback", word="loopback", build=_loopback, arguments=_loopback_arguments, tabs=("img2img",)
    ),
    Panel(name="sd upscale", word="upscale", build=_upscale, arguments=_upscale_arguments, tabs=("img2img",)),
)


class Scripts:
    """The choice of a script in a tab, and the panels, of which the chosen one is seen."""

    def __init__(self, site: Site, tab: str) -> None:
        """Make them here."""
        self._panels = [each for each in PANELS if tab in each.tabs]
        self._parts: list[list[Any]] = []
        rows = [(t("choice.none"), NONE), *((t(f"script.{each.word}"), each.name) for each in self._panels)]
        self.choice = gr.Dropdown(
            rows, value=NONE, label=t("script.script"), info=t("help.script.script"), elem_id=f"{tab}_script"
        )
        groups = []
        for panel in self._panels:
            with gr.Group(visible=False, elem_id=f"{tab}_script_{panel.word}") as group:
                self._parts.append(panel.build(site, tab))
            groups.append(group)

        def turn(visit: Visit, name: str) -> list[Any]:
            return [gr.Group(visible=panel.name == name) for panel in self._panels]

        site.on(self.choice.change, turn, [self.choice], groups)

    @property
    def inputs(self) -> list[Any]:
        """What `read` takes the values of."""
        return [self.choice, *(each for part in self._parts for each in part)]

    def read(self, values: Sequence[Any]) -> Script | None:
        """The script that is chosen; None = none."""
        name, place = values[0], 1
        for panel, part in zip(self._panels, self._parts, strict=True):
            if panel.name == name:
                return Script(name=name, arguments=panel.arguments(*values[place : place + len(part)]))
            place += len(part)
        return None
