"""Controls without effect: the table names fields there are, and says what the pipeline does."""

import asyncio
import json
import re
from typing import Any

import gradio as gr
import pytest

from sfumato.app.engine import Engine
from sfumato.diffusion.samplers import SAMPLERS
from sfumato.pipeline.scripts.fields import with_values
from sfumato.types import Request
from sfumato.ui.controls import CONTROLS, of_tab, shown
from sfumato.ui.effects import INPUTS, TIES, depends, tie, usable
from sfumato.ui.form import Form
from sfumato.ui.site import Site

FIELDS = {each.field for each in CONTROLS}


def judged(field: str, channels: int | None = 4, **given: Any) -> bool:
    values = {name.replace("__", "."): value for name, value in given.items()}
    return usable(field, shown(with_values(Request(), values), CONTROLS, (64, 64)), channels)


def test_the_table_names_fields_that_have_controls_each_once() -> None:
    tied = [field for each in TIES for field in each.fields]
    assert len(tied) == len(set(tied))
    assert {*tied, *INPUTS, *(field for each in TIES for field in each.without)} <= FIELDS


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("mask.padding", {"mask__area": "Only masked"}),
        ("hires.scale", {"hires__enabled": True}),
        ("soft.schedule_bias", {"soft__enabled": True}),
        ("outpaint.falloff", {"outpaint__up": 8}),
        ("variation.seed", {"variation__strength": 0.1}),
        ("refiner.switch_at", {"refiner__checkpoint": "other"}),
        ("refiner.passes", {"refiner__checkpoint": "other", "hires__enabled": True}),
        ("solver.s_churn", {"sampling__sampler": "Euler"}),
        ("solver.unipc_skip", {"sampling__sampler": "UniPC"}),
        ("levels.beta_alpha", {"sampling__schedule": "Beta"}),
    ],
)
def test_a_control_counts_when_what_it_belongs_to_is_chosen(field: str, changes: dict[str, Any]) -> None:
    assert not judged(field)
    assert judged(field, **changes)
    for name in changes if len(changes) > 1 else ():
        assert not judged(field, **{name: changes[name]})


def test_guidance_of_one_leaves_its_finer_choices_without_effect() -> None:
    assert judged("sampling.guidance_rescale")
    assert not judged("sampling.guidance_rescale", sampling__guidance=1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_offered_what_it_takes(name: str) -> None:
    for field in ("eta", "s_churn", "s_noise", "unipc_order"):
        assert judged(f"solver.{field}", sampling__sampler=name) == (field in SAMPLERS[name].takes)
    assert judged("sampling.schedule", sampling__sampler=name) == (not SAMPLERS[name].own_levels)


def test_what_is_not_known_may_count() -> None:
    values = shown(with_values(Request(), {"sampling.sampler": "k_euler"}), CONTROLS, (64, 64))
    assert usable("solver.unipc_order", values, None)
    assert all(usable(field, {}, None) for field in INPUTS)
    assert [usable(field, {}, 4) for field in INPUTS] == [False, False]
    assert all(usable(field, {}, channels) for field, channels in INPUTS.items())


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_browser_is_told_the_same(engine: Engine, tab: str) -> None:
    """The lists in each event's script are those of the table, in the order of its inputs."""

    async def build() -> tuple[Form, list[Any]]:
        with gr.Blocks() as blocks:
            site = Site(engine=engine, checkpoint_choice=gr.Dropdown())
            form = Form(site, tab)
            for each in of_tab(tab):
                form.make(each)
            tie(form)
        return form, [fn for fn in blocks.fns.values() if fn.js]

    form, events = asyncio.run(build())
    names = {made._id: field for field, made in form.components.items()}
    told = set()
    for event in events:
        found = re.search(r"const off = (.*)\.(every|some)\(", str(event.js))
        assert found
        lists = dict(zip([names[each._id] for each in event.inputs], json.loads(found[1]), strict=True))
        for output in event.outputs:
            field = names[output._id]
            (row,) = (each for each in TIES if field in each.fields)
            assert lists == {key: list(held) for key, held in row.without.items() if key in form.components}
            assert (found[2] == "every") == row.every
            told.add(field)
    assert told == {field for field in form.components if depends(field) and field not in INPUTS}


def test_a_form_that_is_filled_judges_anew(engine: Engine) -> None:
    form = Form(Site(engine=engine), "img2img")
    form.group("inpaint")
    names = list(form.components)
    assert form["mask.padding"].interactive is False
    filled = dict(zip(names, form.fill(with_values(Request(), {"mask.area": "Only masked"})), strict=True))
    assert filled["mask.padding"]["interactive"]
    assert filled["mask.padding"]["value"] == 32
    assert filled["mask.area"] == "Only masked"
