"""The panels of scripts: what they say is what the scripts take."""

import asyncio
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from sfumato.app.engine import Engine
from sfumato.app.jobs import Script
from sfumato.app.scripts import SCRIPTS, Bench, make_script
from sfumato.types import Canvas, Prompt, Request, Sampling, Source
from sfumato.ui.scripts import PANELS, Panel, Scripts
from sfumato.ui.site import Site

VALUES = {"x/y/z plot": {1: "1,2"}, "prompts": {0: "a cat\na dog"}}  # what is not there at first, by place


@pytest.mark.parametrize("panel", PANELS, ids=lambda each: each.name)
def test_every_panel_says_what_its_script_takes(engine: Engine, panel: Panel) -> None:
    assert panel.name in SCRIPTS
    site = Site(engine=engine)

    async def built() -> list[Any]:  # where no loop runs, Gradio leaves one open
        with gr.Blocks():
            return panel.build(site, panel.tabs[0])

    values = [each.value for each in asyncio.run(built())]
    for place, value in VALUES.get(panel.name, {}).items():
        values[place] = value
    values = [[] if each is None else each for each in values]
    request = Request(
        prompt=Prompt(text="a|b"), canvas=Canvas(width=64, height=64, seed=1), sampling=Sampling(steps=1)
    )
    if panel.tabs == ("img2img",):
        source = Source(image=Image.new("RGB", (256, 256)))
        canvas = Canvas(width=128, height=128)
        request = Request(sampling=Sampling(steps=1), source=source, canvas=canvas)
    script = Script(name=panel.name, arguments=panel.arguments(*values))
    events = make_script(script, request, Bench(shelf=engine.shelf))
    assert next(iter(events)) is not None


def test_the_chosen_script_is_read_from_its_own_values() -> None:
    scripts = object.__new__(Scripts)
    scripts._panels = [each for each in PANELS if "txt2img" in each.tabs]
    scripts._parts = [[None] * 5, [None] * 3, [None] * 12]
    values = [False, True, False, ", ", 4, "a\nb", "end", True, *[None] * 12]
    assert scripts.read(["", *values]) is None
    matrix, prompts = scripts.read(["prompt matrix", *values]), scripts.read(["prompts", *values])
    assert matrix is not None
    assert matrix.arguments["margin"] == 4
    assert prompts is not None
    assert prompts.arguments == {"text": "a\nb", "insert": "end", "iterate_seed": True}
