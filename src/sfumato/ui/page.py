"""The page: the row of models above, a tab for each thing to do, joined by what is sent about."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import gradio as gr

from sfumato.app.engine import Engine
from sfumato.pipeline.scripts.fields import with_values
from sfumato.types import Request
from sfumato.ui.controls import component, of_tab, shown
from sfumato.ui.first_start import FirstStart
from sfumato.ui.form import tool
from sfumato.ui.site import Site, Visit
from sfumato.ui.strings import t
from sfumato.ui.tabs import (
    compare,
    controlnet,
    extras,
    gallery,
    img2img,
    latent,
    merge,
    png_info,
    queue,
    settings,
    train,
    txt2img,
)

TABS: tuple[tuple[str, ModuleType], ...] = (
    ("txt2img", txt2img),
    ("img2img", img2img),
    ("extras", extras),
    ("png_info", png_info),
    ("gallery", gallery),
    ("queue", queue),
    ("merge", merge),
    ("train", train),
    ("controlnet", controlnet),
    ("compare", compare),
    ("latent", latent),
    ("settings", settings),
)


def build(engine: Engine) -> Any:
    """The page of an engine, a `gr.Blocks` for `mount.open_page`.

    Args:
        engine: that makes the jobs; started and closed by whoever made it.
    """
    site = Site(engine=engine)
    with gr.Blocks(title="Sfumato", analytics_enabled=False, fill_width=True) as blocks:
        first = FirstStart(site)
        site.checkpoint_choice = _quick(site)
        with gr.Tabs(elem_id="tabs") as tabs:
            for name, module in TABS:
                make: Callable[[Site], None] | None = module.build
                if make is not None:  # a tab that is not here yet is not shown
                    with gr.Tab(t(f"tab.{name}"), id=name, elem_id=f"tab_{name}"):
                        make(site)
        first.bind()
        site.wire(tabs)
        for load in site.loads:
            site.on(blocks.load, load.fn, [], load.outputs, postprocess=not load.raw)
    blocks.queue(api_open=False)
    return blocks


def _quick(site: Site) -> Any:
    """The row that is there in every tab."""
    (control,) = of_tab("txt2img", "quick")
    start = shown(with_values(Request(), {control.field: site.checkpoint}), [control], (0, 0))
    with gr.Row(elem_classes=["sf-quick"]):
        choice = component(control, start[control.field], site.choices, "quick")
        again = tool("↻", "refresh", "quick")
    site.checkpoint_picked = gr.Textbox(visible="hidden", show_label=False, elem_id="quick_picked")
    site.checkpoint_pick = gr.Button("…", visible="hidden", elem_id="quick_pick")
    site.on(site.checkpoint_pick.click, lambda visit, name: name, [site.checkpoint_picked], [choice])

    def refresh(visit: Visit, chosen: str) -> Any:
        return gr.Dropdown(choices=site.choices("checkpoints"), value=chosen)

    site.on(again.click, refresh, [choice], [choice])
    return choice
