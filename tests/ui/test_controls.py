"""The table of controls: every field has one, and what is shown reads back as what it was."""

from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.app.engine import Engine
from sfumato.errors import RequestError
from sfumato.pipeline import metadata
from sfumato.pipeline.scripts.fields import request_fields, value, with_values
from sfumato.types import Request
from sfumato.ui.controls import CONTROLS, OUTSIDE, Control, component, of_tab, read, shown
from sfumato.ui.form import Form
from sfumato.ui.site import Site
from sfumato.ui.strings import table


def test_every_field_has_a_control_or_a_reason() -> None:
    fields = [each.field for each in CONTROLS]
    assert len(fields) == len(set(fields))
    assert set(fields) | set(OUTSIDE) == set(request_fields())
    assert not set(fields) & set(OUTSIDE)


@pytest.mark.parametrize("control", CONTROLS, ids=lambda each: each.field)
def test_every_control_has_a_label_and_one_line_of_help(control: Control) -> None:
    assert table("en")[control.field]
    text = table("en")[f"help.{control.field}"]
    assert 0 < len(text) <= 130
    assert "\n" not in text


@pytest.mark.parametrize("control", CONTROLS, ids=lambda each: each.field)
def test_every_control_can_show_the_default(control: Control) -> None:
    start = value(Request(), control.field)
    if control.kind == "slider" and start is not None:
        assert control.low <= start <= control.high
        steps = (start - control.low) / control.step
        assert abs(steps - round(steps)) < 1e-6
    if control.kind == "choice" and start is None and control.field != "model.checkpoint":
        assert control.unset


def values_of(control: Control) -> st.SearchStrategy[Any]:
    """What a field may hold, as far as its control can say it."""
    kinds = request_fields()[control.field]
    optional = st.none() if type(None) in get_args(kinds) else st.nothing()
    literal = next((each for each in (kinds, *get_args(kinds)) if get_origin(each) is Literal), None)
    if control.kind == "slider":
        count = round((control.high - control.low) / control.step)
        number = st.integers(0, count).map(lambda place: control.low + place * control.step)
        whole = int in (kinds, *get_args(kinds))
        return number.map(round if whole else lambda each: round(each, 6))
    if control.kind == "check":
        return st.booleans()
    if literal is not None:
        return optional | st.sampled_from(get_args(literal))
    if bool in get_args(kinds):
        return optional | st.booleans()
    if control.kind == "colour":
        return st.just("#12abEF")
    if control.field in ("canvas.seed", "variation.seed"):
        return st.integers(-1, 2**64 - 1)
    if int in (kinds, *get_args(kinds)):
        return st.integers(0, 2**64 - 1)
    if float in get_args(kinds):
        low, high = {"levels.sigma_min": (0.01, 1), "levels.sigma_max": (2, 99)}.get(control.field, (0.1, 1))
        return optional | st.floats(low, high)
    name = st.text(st.characters(codec="utf-8"), min_size=1).filter(
        lambda text: text.strip() == text and text.casefold() != "none"
    )
    return optional | (name if control.kind == "choice" else st.text(st.characters(codec="utf-8")))


REQUESTS = st.fixed_dictionaries({each.field: values_of(each) for each in CONTROLS}).map(
    lambda values: with_values(Request(), values)
)


@given(REQUESTS)
@settings(max_examples=50)
def test_what_is_shown_reads_back_as_what_it_was(request: Request) -> None:
    values = shown(request, CONTROLS, (512, 512))
    assert read(values) == request


@given(REQUESTS)
@settings(max_examples=20)
def test_a_form_that_infotext_fills_reads_back_as_what_the_text_says(request: Request) -> None:
    told = metadata.read(metadata.write(request))
    controls = [each for each in of_tab("txt2img") if told.canvas.width or "canvas." not in each.field]
    form = read(shown(told, controls, (512, 512)))
    for each in controls:
        assert value(form, each.field) == value(told, each.field)


def test_a_size_that_is_left_open_is_shown_as_the_checkpoints_own() -> None:
    values = shown(Request(), CONTROLS, (128, 192))
    assert (values["canvas.width"], values["canvas.height"]) == (128, 192)


@pytest.mark.parametrize(
    ("field", "given", "part"),
    [
        ("sampling.steps", 0, "steps=0 is outside 1"),
        ("sampling.steps", None, "sampling.steps is empty"),
        ("canvas.seed", "abc", "canvas.seed='abc' is not a whole number"),
        ("canvas.seed", " ", "canvas.seed is empty"),
        ("canvas.width", 100, "try 96"),
        ("solver.eta", "2", "eta=2.0 is outside"),
        ("mask.content", "paint", "one of fill"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(field: str, given: Any, part: str) -> None:
    with pytest.raises(RequestError, match=part):
        read({field: given})


def test_a_slider_grows_where_a_text_holds_more(engine: Engine) -> None:
    form = Form(Site(engine=engine), "txt2img")
    form.group("steps")
    (filled,) = form.fill(with_values(Request(), {"sampling.steps": 500}))
    assert (filled["value"], filled["maximum"]) == (500, 500)
    assert form.fill(with_values(Request(), {"sampling.steps": 50})) == [50]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda each: each.field)
def test_every_control_becomes_a_component(engine: Engine, control: Control) -> None:
    start = shown(Request(), [control], (64, 64))[control.field]
    made = component(control, start, Site(engine=engine).choices, "txt2img")
    assert made.preprocess(made.postprocess(start)) == start
