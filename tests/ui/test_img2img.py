"""The tab img2img: what is painted on a canvas is what the pipeline gets."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio.components.image_editor import EditorData, EditorDataBlobs
from PIL import Image

from sfumato.app.engine import Engine
from sfumato.errors import OutputError, RequestError
from sfumato.pipeline.masks import prepare_mask
from sfumato.pipeline.scripts.fields import with_values
from sfumato.pipeline.source import read_picture
from sfumato.types import Mask, Request
from sfumato.ui import canvases
from sfumato.ui.live import together
from sfumato.ui.making import submit_all
from sfumato.ui.site import Sent, Site, Visit
from sfumato.ui.tabs import compare, img2img
from sfumato.ui.tabs.img2img import Places

VISIT = Visit()
SIZE = (1203, 857)  # larger than the editor's first canvas, no multiple of anything


def noise(channels: int, size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = np.random.default_rng(channels).integers(0, 256, (size[1], size[0], channels), np.uint8)
    return Image.fromarray(pixels)


def known_mask(size: tuple[int, int] = SIZE) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.random.default_rng(7).random((size[1], size[0])) < 0.3


def layer(where: Any, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    pixels = np.zeros((*where.shape, 4), np.uint8)
    pixels[where] = (*colour, 255)
    return Image.fromarray(pixels)


def png(image: Image.Image, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **more)
    return buffer.getvalue()


def built(engine: Engine, make: Callable[[Site], Any]) -> tuple[Site, Any]:
    """What `make` makes on a page; in a running event loop, else Gradio leaves some of its own open."""

    async def build() -> tuple[Site, Any]:
        site = Site(engine=engine)
        with gr.Blocks():
            site.checkpoint_choice = gr.Dropdown()
            site.checkpoint_picked, site.checkpoint_pick = gr.Textbox(), gr.Button()
            return site, make(site)

    return asyncio.run(build())


@pytest.fixture(scope="module")
def places(engine: Engine) -> Places:
    made: Places = built(engine, Places)[1]
    return made


def sent(places: Places, name: str, background: bytes, *layers: bytes) -> Any:
    """What the tab gets of a canvas when a browser sends these files."""
    editor = places.canvas[name]
    editor.blob_storage["one"] = EditorDataBlobs(
        background=background, layers=list(layers), composite=background
    )
    return editor.preprocess(EditorData(id="one"))


def finish(places: Places, request: Request, mode: str, **given: Any) -> list[Request]:
    first = {"files": None, "mask": None, "transparency": 0, "by": False, "scale": 1, "depth": None}
    held = [given.pop(name, None) for name in places.canvas]
    return places.finish(VISIT, request, [mode, *(first | given).values(), *held])


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_mask_of_known_pixels_arrives_equal(places: Places, channels: int, orientation: int) -> None:
    held = noise(channels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_picture(Image.open(io.BytesIO(png(held, exif=exif))))
    where = known_mask(upright.size)
    canvas = sent(places, "inpaint", png(upright), png(layer(where)))
    (request,) = finish(places, Request(), "inpaint", inpaint=canvas)
    source, mask = request.source.image, request.mask.image
    assert isinstance(source, Image.Image)
    assert isinstance(mask, Image.Image)
    assert np.array_equal(np.asarray(source), np.asarray(upright))
    assert np.array_equal(np.asarray(mask), np.where(where, 255, 0))


def test_the_pipeline_reads_the_mask_as_it_was_painted(places: Places) -> None:
    where = known_mask()
    canvas = sent(places, "inpaint", png(noise(3)), png(layer(where)))
    (request,) = finish(places, Request(mask=Mask(blur_x=0, blur_y=0)), "inpaint", inpaint=canvas)
    assert isinstance(request.source.image, Image.Image)
    prepared = prepare_mask(request.mask, request.source.image, *SIZE, "Just resize")
    assert np.array_equal(np.asarray(prepared.mask), np.where(where, 255, 0))


def test_a_mask_that_is_inverted_is_its_exact_complement(places: Places) -> None:
    where, editor = known_mask(), places.canvas["inpaint"]
    canvas = sent(places, "inpaint", png(noise(3)), png(layer(where)))
    for expected in (~where, where):  # once, and back again
        canvas = editor.preprocess(editor.postprocess(canvases.inverted(canvas)))
        (request,) = finish(places, Request(), "inpaint", inpaint=canvas)
        assert np.array_equal(np.asarray(request.mask.image) > 0, expected)
        assert np.array_equal(np.asarray(request.source.image), np.asarray(noise(3)))
    assert canvases.inverted(None) is None


@pytest.mark.parametrize(
    ("painted", "invert", "told"),
    [("nothing", False, True), ("nothing", True, False), ("all", True, True), ("some", False, False)],
)
def test_a_mask_that_leaves_nothing_to_change_is_told_of(
    places: Places, painted: str, invert: bool, told: bool
) -> None:
    where = {"nothing": np.zeros, "all": np.ones}.get(painted, lambda *_: known_mask())(SIZE[::-1], bool)
    canvas = sent(places, "inpaint", png(noise(3)), png(layer(where)))
    made = finish(places, Request(mask=Mask(invert=invert)), "inpaint", inpaint=canvas)
    assert ("whole picture is changed" in img2img.remark(VISIT, made)) == told


def test_without_a_mask_there_is_nothing_to_tell(places: Places) -> None:
    made = finish(places, Request(), "sketch", sketch=sent(places, "sketch", png(noise(3))))
    assert img2img.remark(VISIT, made) == ""


def test_strokes_of_several_layers_are_one_mask(places: Places) -> None:
    one, other = known_mask(), known_mask()[::-1]
    canvas = sent(places, "inpaint", png(noise(3)), png(layer(one)), png(layer(other)))
    (request,) = finish(places, Request(), "inpaint", inpaint=canvas)
    assert np.array_equal(np.asarray(request.mask.image) > 0, one | other)


@pytest.mark.parametrize("transparency", [0, 40, 100])
def test_an_inpaint_sketch_changes_where_colour_was_laid(places: Places, transparency: int) -> None:
    where, below = known_mask(), noise(3)
    canvas = sent(places, "inpaint_sketch", png(below), png(layer(where, (200, 0, 100))))
    (request,) = finish(places, Request(), "inpaint_sketch", inpaint_sketch=canvas, transparency=transparency)
    expected = np.asarray(below, np.float64)
    expected[where] += (1 - transparency / 100) * (np.array([200, 0, 100]) - expected[where])
    assert np.abs(np.asarray(request.source.image) - expected).max() <= 1  # rounding of the blend
    assert np.array_equal(np.asarray(request.mask.image) > 0, where)


def test_a_sketch_has_no_mask(places: Places) -> None:
    where = known_mask()
    canvas = sent(places, "sketch", png(noise(3)), png(layer(where, (200, 0, 100))))
    (request,) = finish(places, Request(), "sketch", sketch=canvas)
    assert request.mask.image is None
    assert (np.asarray(request.source.image)[where] == (200, 0, 100)).all()


def test_pictures_of_a_batch_become_jobs_each(places: Places, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        noise(3, (80 + 16 * number, 64)).save(file)
    made = finish(places, Request(), "batch", files=list(map(str, files)), by=True, scale=2)
    assert [each.source.image for each in made] == files
    assert [(each.canvas.width, each.canvas.height) for each in made] == [(160, 128), (192, 128), (224, 128)]


def test_a_mask_may_be_a_file(places: Places, tmp_path: Path) -> None:
    noise(3).save(tmp_path / "source.png")
    given = {"inpaint_upload": str(tmp_path / "source.png")}
    with pytest.raises(RequestError, match="no mask"):
        finish(places, Request(), "inpaint_upload", **given)
    (request,) = finish(places, Request(), "inpaint_upload", mask=str(tmp_path / "mask.png"), **given)
    assert request.mask.image == tmp_path / "mask.png"


@pytest.mark.parametrize("mode", img2img.MODES)
def test_without_a_picture_it_says_so(places: Places, mode: str) -> None:
    with pytest.raises(RequestError, match="no picture to start from"):
        finish(places, Request(), mode)


def test_a_file_that_is_no_picture_is_refused_in_words(places: Places, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(OutputError):
        finish(places, Request(), "img2img", img2img=str(tmp_path / "a.png"), by=True)


@pytest.mark.parametrize("name", ["img2img", "inpaint"])
def test_a_picture_that_is_sent_brings_its_parameters(engine: Engine, tmp_path: Path, name: str) -> None:
    site, _ = built(engine, img2img.build)
    noise(3).save(tmp_path / "sent.png")
    inlet = site.inlets[name]
    text = "a cat\nSteps: 7, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 128x64"
    values = inlet.fill(VISIT, Sent(image=tmp_path / "sent.png", infotext=text))
    assert len(values) == len(inlet.outputs)
    assert {"a cat", 7, 128} <= {each for each in values if isinstance(each, str | int)}
    assert values[-2] == name
    held = values[-3]["background"] if name == "inpaint" else values[-3]
    assert np.array_equal(np.asarray(held), np.asarray(noise(3)))


def test_before_and_after_lie_over_each_other() -> None:
    before, after = compare.pair(noise(3, (40, 30)), noise(3, (80, 64)))
    assert before.size == after.size == (80, 64)


def test_one_form_of_several_pictures_is_sent_once(engine: Engine) -> None:
    request = with_values(Request(), {"sampling.steps": 1, "canvas.width": 64, "canvas.height": 64})
    others = with_values(request, {"sampling.steps": 2})
    visit = Visit(owner="batch")
    for _ in range(2):
        submit_all(engine, visit, [(request, None)] * 3, "ticket")
    assert len(engine.jobs(owner="batch")) == 3
    submit_all(engine, visit, [(others, None)] * 3, "ticket")  # the answer was lost, and the form changed
    jobs = engine.jobs(owner="batch")
    assert len(jobs) == 6
    assert together(engine, jobs[0]) == list(reversed(jobs[:3]))


def test_settings_of_a_job_come_back_with_its_pictures(engine: Engine, tmp_path: Path) -> None:
    site, _ = built(engine, img2img.build)
    source, mask = tmp_path / "source.png", tmp_path / "mask.png"
    noise(3, (64, 48)).save(source)
    noise(3, (64, 48)).convert("L").save(mask)
    again = site.inlets["img2img_again"]
    changes = {"source.image": source, "mask.image": mask, "prompt.text": "a house", "mask.blur_x": 9}
    filled = again.fill(VISIT, Sent(request=with_values(Request(), changes)))
    shown = {each.elem_id: value for each, value in zip(again.outputs, filled, strict=True)}
    assert shown["img2img_inpaint_upload_image"] == read_picture(source)
    assert shown["img2img_mask_image"] == read_picture(mask)
    assert (shown["img2img_prompt_text"], shown["img2img_mask_blur_x"]) == ("a house", 9)
    assert shown["img2img_mode"] == "inpaint_upload"
    filled = again.fill(VISIT, Sent(request=with_values(Request(), {"source.image": source})))
    shown = {each.elem_id: value for each, value in zip(again.outputs, filled, strict=True)}
    assert shown["img2img_img2img_image"] == read_picture(source)
    assert shown["img2img_mode"] == "img2img"
