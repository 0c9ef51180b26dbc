"""Prompt matrix and prompts from files."""

from typing import Any

import numpy as np
import pytest
from tests.pipeline.scripts.conftest import Maker

from sfumato.errors import PromptError, RequestError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.prompt_matrix import Matrix, arrange, run
from sfumato.pipeline.scripts.prompts_file import Reading, read_lines
from sfumato.pipeline.scripts.work import Sheet
from sfumato.text.styles import Style
from sfumato.types import Canvas, Prompt, Request

BASE = Request(prompt=Prompt(text="a cat|night|oil,", negative="blur|noise"), canvas=Canvas(seed=3))
CELL = (64, 64)


def matrix(**options: Any) -> list[Request]:
    return arrange(Matrix(**options), BASE, CELL)


def test_a_matrix_holds_every_combination_of_its_parts() -> None:
    assert [each.prompt.text for each in matrix()] == [
        "a cat",
        "a cat, night",
        "a cat, oil",
        "a cat, night, oil",
    ]
    assert {each.canvas.seed for each in matrix()} == {3}
    assert [each.canvas.seed for each in matrix(different_seeds=True)] == [3, 4, 5, 6]
    assert matrix(at_start=True, separator=" ")[3].prompt.text == "night oil a cat"
    assert [each.prompt.negative for each in matrix(negative=True)] == ["blur", "blur, noise"]
    assert matrix(negative=True)[1].prompt.text == BASE.prompt.text


def test_a_matrix_ends_in_a_sheet(maker: Maker) -> None:
    how = Matrix(different_seeds=True)
    *_, last = run(how, BASE, arrange(how, BASE, CELL), maker)
    assert isinstance(last, Sheet)
    pixels = np.asarray(last.image)[-128:, -128:]  # 2 × 2 pictures, the legend left and above
    colours = [tuple(pixels[y, x]) for y in (0, 64) for x in (0, 64)]
    assert colours == [(seed * 67 % 256, seed * 31 % 256, 128) for seed in (3, 4, 5, 6)]


@pytest.mark.parametrize(
    ("text", "named"), [("a cat", "no |"), ("|".join("abcdefghijklmnopqrstuvwxyz"), "33,554,432")]
)
def test_a_matrix_of_nothing_or_of_too_much_is_refused(text: str, named: str) -> None:
    with pytest.raises(RequestError, match=named.replace("|", r"\|")):
        arrange(Matrix(), Request(prompt=Prompt(text=text)), CELL)


def lines(text: str, base: Request = BASE, **reading: Any) -> list[Request]:
    return read_lines(text, base, Reading(**reading))


def test_lines_are_prompts_or_options() -> None:
    plain, options = lines(
        "# a comment\n\n  a house, --steps  \n"
        '--prompt "a \\"big\\" dog" --negative_prompt "x y" --steps 10 --seed -1 '
        "--cfg_scale 4.5 --width 64 --height 128 --sampler_name 'Euler a' --tiling --n_iter 2 "
        "--sampling.schedule Karras "
        "--subseed 4 --subseed_strength 0.5 --seed_resize_from_w 64 --seed_resize_from_h -1 --sd_model mine "
        "--do_not_save_grid true --outpath_samples /nowhere --restore_faces false\n"
    )
    assert plain.prompt.text == "a house, --steps"
    assert options.prompt == Prompt(text='a "big" dog', negative="x y")
    assert (options.sampling.steps, options.sampling.guidance) == (10, 4.5)
    assert (options.sampling.sampler, options.sampling.schedule) == ("Euler a", "Karras")
    assert options.canvas == Canvas(width=64, height=128, seed=-1, tiling=True, batch_count=2)
    assert (options.variation.seed, options.variation.strength) == (4, 0.5)
    assert (options.variation.from_width, options.variation.from_height) == (64, 0)
    assert options.model.checkpoint == "mine"


def test_own_prompts_go_where_they_are_wanted() -> None:
    base = Request(prompt=Prompt(text="own", negative="bad"))
    text = '--prompt "line" --negative_prompt "worse"\nplain\n--steps 3'
    assert [(each.prompt.text, each.prompt.negative) for each in lines(text, base, insert="start")] == [
        ("own line", "bad worse"),
        ("own plain", "bad"),
        ("own", "bad"),
    ]
    assert [each.prompt.text for each in lines(text, base, insert="end")] == ["line own", "plain own", "own"]
    assert [each.prompt.text for each in lines(text, base)] == ["line", "plain", "own"]


def test_seeds_stay_or_count_on_by_the_pictures_of_a_line() -> None:
    text = "a\n--prompt b --n_iter 3\nc"
    assert [each.canvas.seed for each in lines(text)] == [3, 3, 3]
    assert [each.canvas.seed for each in lines(text, iterate_seed=True)] == [3, 4, 7]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--step 3", "line 2: 'step' .* did you mean steps"),
        ("--steps", "line 2: --steps has no value"),
        ("--steps many", "line 2: steps='many' is not a whole number"),
        ("--steps 0", "line 2: steps=0 is outside"),
        ("--prompt a cat", "line 2: 'cat' is not an option"),
        ('--prompt "a', "line 2: .*quotation"),
        ("--restore_faces", "line 2: restore_faces"),
        ("--resize_mode 9", "line 2: resize_mode=9 is beyond"),
    ],
)
def test_mistakes_are_named_with_their_line(line: str, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        lines(f"a cat\n{line}")


def test_lines_may_name_styles() -> None:
    styles = {"oil": Style(name="oil", prompt="oil")}
    (request,) = read_lines("--prompt cat --styles oil", BASE, Reading(), styles)
    assert request.prompt.text == "cat, oil"
    with pytest.raises(PromptError, match="line 1: there is no style 'ink'"):
        read_lines("--prompt cat --styles ink", BASE, Reading(), styles)


@pytest.mark.parametrize("name", fields.API_NAMES)
def test_every_name_of_the_api_sets_fields_that_there_are(name: str) -> None:
    assert set(fields.API_NAMES[name].fields) <= set(fields.request_fields())


def test_rows_of_json_are_read_strictly() -> None:
    row = {
        "steps": 12,
        "cfg_scale": 5,
        "mask_blur": 8,
        "inpaint_full_res": True,
        "inpainting_fill": 2,
        "resize_mode": 1,
        "inpainting_mask_invert": 1,
        "denoising_strength": 0.4,
        "enable_hr": False,
        "eta": None,
        "override_settings": {"CLIP_stop_at_last_layers": 2, "sd_vae": "Automatic", "randn_source": "CPU"},
    }
    request = fields.from_row(BASE, row, {})
    assert (request.mask.blur_x, request.mask.blur_y, request.mask.invert) == (8, 8, True)
    assert (request.mask.area, request.mask.content) == ("Only masked", "latent noise")
    assert request.source.resize_mode == "Crop and resize"
    assert (request.source.denoising_strength, request.hires.denoising_strength) == (0.4, 0.4)
    assert (request.prompt.clip_skip, request.model.vae, request.canvas.noise_source) == (2, None, "cpu")
    for bad in ({"steps": 1.5}, {"steps": True}, {"prompt": 5}, {"tiling": "perhaps"}, {"steps": [1]}):
        with pytest.raises(RequestError, match="is not"):
            fields.from_row(BASE, bad, {})
