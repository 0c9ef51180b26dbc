from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from tests.pipeline.scripts.conftest import Maker

from sfumato.errors import RequestError, SfumatoError
from sfumato.pipeline import infotext, metadata
from sfumato.pipeline.scripts import axes, fields, xyz
from sfumato.pipeline.scripts.axes import Axis, parse_axis
from sfumato.pipeline.scripts.work import Sheet
from sfumato.text.styles import Style
from sfumato.types import Canvas, Prompt, Request, Result, Sampling

BASE = Request(
    prompt=Prompt(text="a red cat, a big dog"),
    canvas=Canvas(width=64, height=64, seed=5),
    sampling=Sampling(steps=2),
)
EXAMPLES = {  # one value of every kind of field that its range allows
    "canvas.width": "64",
    "canvas.height": "64",
    "prompt.emphasis": "no norm",
    "sampling.guidance_rescale": "0.5",
    "model.prediction": "v",
    "canvas.noise_source": "CPU",
    "source.background": "#102030",
    "solver.unipc_variant": "bh2",
    "solver.unipc_skip": "logSNR",
    "refiner.passes": "both passes",
    "source.resize_mode": "Crop and resize",
    "mask.area": "Only masked",
    "mask.content": "fill",
}


def axis(name: str, text: str, base: Request = BASE) -> Axis:
    return parse_axis(name, text, base)


@pytest.mark.parametrize("field", fields.request_fields())
def test_every_field_is_an_axis(field: str) -> None:
    kind = str(fields.request_fields()[field])
    text = EXAMPLES.get(field) or (
        "true" if "bool" in kind else "1" if "int" in kind or "float" in kind else "x"
    )
    parsed = axis(field, text)
    changed = parsed.apply(BASE, parsed.values[0])
    assert fields.value(changed, field) == parsed.values[0]
    assert fields.with_values(changed, {field: fields.value(BASE, field)}) == BASE


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("Steps", "4,8", ("Steps: 4", "Steps: 8")),
        ("CFG Scale", "1-2 (+0.5)", ("CFG Scale: 1", "CFG Scale: 1.5", "CFG Scale: 2")),
        ("Sampler", "Euler a", ("Euler a",)),
        ("Checkpoint name", "folder/model.safetensors, v1.5", ("model", "v1.5")),
        ("VAE", "Automatic", ("VAE: None",)),
        ("hires.denoising_strength", "0.5", ("hires denoising strength: 0.5",)),
        ("hires.enabled", "true,0", ("hires enabled: yes", "hires enabled: no")),
    ],
)
def test_labels_say_the_value_and_numbers_of_what(name: str, text: str, labels: tuple[str, ...]) -> None:
    assert axis(name, text).labels == labels


@pytest.mark.parametrize("name", axes.NAMES)
def test_the_names_of_the_field_stand_for_fields(name: str) -> None:
    assert axes.NAMES[name] in fields.request_fields()
    assert name in axes.axis_names()


def test_denoising_is_that_of_the_pass_there_is() -> None:
    assert axis("denoising", "0.5").fields == ("hires.denoising_strength",)
    painted = replace(BASE, source=replace(BASE.source, image=__file__))
    assert axis("denoising", "0.5", painted).fields == ("source.denoising_strength",)


def test_search_and_replace_takes_the_first_value_as_what_is_searched() -> None:
    parsed = axis("Prompt S/R", 'red, blue, "green, small"')
    assert [parsed.apply(BASE, each).prompt.text for each in parsed.values] == [
        "a red cat, a big dog",
        "a blue cat, a big dog",
        "a green, small cat, a big dog",
    ]
    with pytest.raises(RequestError, match="'yellow' is in neither prompt"):
        axis("Prompt S/R", "yellow, blue")


def test_order_permutes_words_where_they_stand() -> None:
    parsed = axis("prompt order", "dog, red, cat")
    texts = [parsed.apply(BASE, each).prompt.text for each in parsed.values]
    assert texts == [f"a {a} {b}, a big {c}" for a, b, c in permutations(("dog", "red", "cat"))]
    assert axis("Prompt order", "a").count == 1
    with pytest.raises(RequestError, match="'bird' is not in the prompt"):
        axis("Prompt order", "bird, cat")


def test_order_of_many_words_is_counted_not_written_out() -> None:
    words = [f"w{k}" for k in range(100, 112)]
    base = Request(prompt=Prompt(text=" ".join(words)))
    assert axis("Prompt order", ",".join(words), base).count == 479_001_600


def test_size_sets_both_sides_and_styles_join_prompts() -> None:
    size = axis("Size", "64x32, 128×64")
    assert [size.apply(BASE, each).canvas.width for each in size.values] == [64, 128]
    styles = {"oil": Style(name="oil", prompt="oil of {prompt}", negative="photo")}
    styled = parse_axis("Styles", "None, oil", BASE, styles)
    texts = [styled.apply(BASE, each).prompt for each in styled.values]
    assert [each.text for each in texts] == ["a red cat, a big dog", "oil of a red cat, a big dog"]
    assert [each.negative for each in texts] == ["", "photo"]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("Step", "1", "did you mean Steps"),
        ("Steps", "", "no values"),
        ("Steps", "4, many", "'many' is not a whole number"),
        ("CFG Scale", "x", "'x' is not a number"),
        ("prompt.emphasis", "loud", "No norm"),
        ("canvas.tiling", "maybe", "true or false"),
        ("Size", "64", "512x768"),
        ("Styles", "none such", "no style"),
    ],
)
def test_mistakes_are_named(name: str, text: str, named: str) -> None:
    with pytest.raises(SfumatoError, match=named):
        xyz.arrange(xyz.Plot(x=axis(name, text)), BASE)


def test_a_value_out_of_range_is_refused_before_the_first_picture() -> None:
    with pytest.raises(RequestError, match="steps=1001"):
        xyz.arrange(xyz.Plot(x=axis("Steps", "4, 1001")), BASE)


def test_a_plot_ends_in_a_sheet_that_names_its_axes(maker: Maker) -> None:
    plot = xyz.Plot(x=axis("Seed", "1-3"), y=axis("CFG Scale", "1,2"), legend=False)
    *events, last = xyz.run(xyz.arrange(plot, BASE), maker)
    assert isinstance(last, Sheet)
    results = [event for event in events if isinstance(event, Result)]
    assert len(results) == 6
    sheet = np.asarray(last.image)  # (2*64,3*64,3): rows are y, columns x
    assert sheet.shape == (128, 192, 3)
    for place, result in enumerate(results):
        row, column = divmod(place, 3)
        assert (
            sheet[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] == np.asarray(result.image)
        ).all()
    told = infotext.parse(last.infotext)
    assert [
        told.text(key) for key in ("Script", "X Type", "X Values", "Fixed X Values", "Y Type", "Y Values")
    ] == [
        "X/Y/Z plot",
        "Seed",
        "1-3",
        "1, 2, 3",
        "CFG Scale",
        "1,2",
    ]
    assert metadata.read(last.infotext).canvas.seed == 1  # of the first cell; the rest of it is still read


def test_z_makes_a_sheet_of_sheets(maker: Maker) -> None:
    plot = xyz.Plot(x=axis("Seed", "1-2"), z=axis("Steps", "1-3"), sub_grids=True, legend=False, margin=4)
    sheets = [event for event in xyz.run(xyz.arrange(plot, BASE), maker) if isinstance(event, Sheet)]
    assert [each.label for each in sheets] == ["xyz-1", "xyz-2", "xyz-3", "xyz"]
    assert [each.image.size for each in sheets] == [(132, 64)] * 3 + [(132 * 3 + 8, 64)]


def test_what_is_dear_to_change_changes_least_often(maker: Maker) -> None:
    plot = xyz.Plot(x=axis("Checkpoint name", "a,b"), y=axis("VAE", "None,v"), z=axis("Steps", "1,2"))
    list(xyz.run(xyz.arrange(plot, BASE), maker))
    models = [(each.model.checkpoint, each.model.vae, each.sampling.steps) for each in maker.asked]
    assert models == [(c, v, s) for c in "ab" for v in (None, "v") for s in (1, 2)]


def test_seeds_are_drawn_once_unless_they_shall_stay_random() -> None:
    base = replace(BASE, canvas=replace(BASE.canvas, seed=-1))
    plot = xyz.Plot(x=axis("Steps", "1,2"))
    assert len({each.canvas.seed for each in xyz.arrange(plot, base).requests} - {-1}) == 1
    assert [each.canvas.seed for each in xyz.arrange(replace(plot, keep_random=True), base).requests] == [
        -1,
        -1,
    ]
    drawn = xyz.arrange(xyz.Plot(x=axis("Seed", "-1,-1,4")), base)
    seeds = [each.canvas.seed for each in drawn.requests]
    assert seeds[2] == 4
    assert min(seeds) >= 0
    assert drawn.plot.x.labels[0] == f"Seed: {seeds[0]}"


def test_seeds_vary_along_the_axes_that_are_named() -> None:
    plot = xyz.Plot(x=axis("Steps", "1-3"), y=axis("CFG Scale", "1-2"))

    def seeds(vary: str) -> list[int]:
        return [each.canvas.seed - 5 for each in xyz.arrange(replace(plot, vary_seeds=vary), BASE).requests]

    assert seeds("") == [0] * 6
    assert seeds("x") == [0, 1, 2, 0, 1, 2]
    assert seeds("y") == [0, 0, 0, 1, 1, 1]
    assert seeds("xy") == [0, 1, 2, 3, 4, 5]


def test_a_million_cells_are_refused_with_their_number_and_time() -> None:
    plot = xyz.Plot(x=axis("Seed", "1-1000"), y=axis("Steps", "1-1000"))
    with pytest.raises(
        RequestError, match=r"1,000 × 1,000 = 1,000,000 cells .* 20,000,000 steps, about 23.1 days"
    ):
        xyz.check(plot, (64, 64), steps=20, seconds=0.1)
    with pytest.raises(RequestError, match="1,000,000,000,000 cells"):
        xyz.check(xyz.Plot(x=axis("Seed", "1-1000000000000")), (8, 8), steps=1)
    xyz.check(xyz.Plot(x=axis("Seed", "1-100")), (512, 512), steps=20)


def test_a_step_is_measured_without_making_the_picture(maker: Maker) -> None:
    assert xyz.measure_step(BASE, maker) >= 0
    assert len(maker.asked) == 1


def test_two_axes_cannot_set_one_field_but_several_may_replace_words() -> None:
    with pytest.raises(RequestError, match=r"sampling\.steps"):
        xyz.Plot(x=axis("Steps", "2,3"), y=axis("Steps", "4,5"))
    base = replace(BASE, prompt=replace(BASE.prompt, text="a red cat"))
    xyz.Plot(x=axis("Prompt S/R", "red,blue", base), y=axis("Prompt S/R", "cat,dog", base))
