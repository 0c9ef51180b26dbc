"""The tab Extras: what the form says is what the engine is given, one job a picture, shown together."""

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from tests.ui.test_img2img import built, noise

from sfumato.app.engine import Engine
from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import images
from sfumato.pipeline.postprocess import Enlargement
from sfumato.ui.live import now
from sfumato.ui.making import stop
from sfumato.ui.site import Sent, Visit
from sfumato.ui.tabs import compare, extras
from sfumato.ui.tabs.extras import Extras

INFOTEXT = "a cat\nSteps: 7, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 24x16"


@pytest.fixture(scope="module")
def tab(engine: Engine) -> Extras:
    made: Extras = built(engine, Extras)[1]
    return made


def values(tab: Extras, **given: Any) -> list[Any]:
    """What the components hold at first, but for some."""
    start = {name: part.value for name, part in tab.parts.items()} | {"upscaler": "Lanczos", "scale": 2}
    assert set(given) <= set(start)
    return list((start | given).values())


def send(tab: Extras, owner: str, ticket: str = "ticket", **given: Any) -> list[Any]:
    tab._send(Visit(owner=owner, role="user"), ticket, *values(tab, **given))
    return [tab.site.engine.wait(job.id) for job in reversed(tab.site.engine.jobs(owner=owner))]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    return str(images.save(noise(3, (24, 16)), tmp_path, "a", INFOTEXT))


def test_what_the_form_shows_at_first_is_what_extras_does_by_itself(tab: Extras) -> None:
    given = dict(zip(tab.parts, values(tab, scale=tab.parts["scale"].value), strict=True))
    first = Enlargement()
    assert Enlargement(**extras.read(Visit(), given)) == Enlargement(upscaler="Lanczos")
    assert tab.parts["upscaler"].value in (first.upscaler, "Lanczos")  # the latter where its file is missing


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"scale": 3}, (72, 48)),
        ({"scale": 4, "max_side": 48}, (48, 32)),
        ({"by": "to", "width": 64, "height": 64}, (64, 64)),
        ({"by": "to", "width": 64, "height": 64, "crop": False}, (96, 64)),
        ({"second": "Nearest", "second_visibility": 0.5}, (48, 32)),
    ],
)
def test_every_control_arrives(tab: Extras, picture: str, given: dict[str, Any], size: Any) -> None:
    owner = f"control {given}"
    (job,) = send(tab, owner, image=picture, **given)
    assert job.state == "done", job.fault
    assert (job.made[0].width, job.made[0].height) == size
    assert job.made[0].infotext == INFOTEXT
    texts = images.read_texts(tab.site.engine.file(job.made[0]))
    assert texts["parameters"] == INFOTEXT
    assert ("Postprocess upscaler 2: Nearest" in texts["extras"]) == ("second" in given)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"image": None}, "no picture"),
        ({"mode": "batch"}, "no picture"),
        ({"mode": "folder", "folder": []}, "no picture"),
        ({"mode": "batch", "batch": ["a.png"] * 65}, "65 pictures; at most 64"),
        ({"upscale": False}, "Nothing is to be done"),
        ({"upscaler": "None"}, "Nothing is to be done"),
        ({"scale": None}, "scale is empty"),
        ({"scale": 99}, "scale=99"),
        ({"second_visibility": 2}, "second_visibility=2"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_sent(
    tab: Extras, picture: str, given: dict[str, Any], part: str
) -> None:
    with pytest.raises(RequestError, match=part):
        send(tab, "nobody", **({"image": picture} | given))
    assert tab.site.engine.jobs(owner="nobody") == []


def test_a_batch_with_a_file_that_is_no_picture_is_refused_whole(
    tab: Extras, picture: str, tmp_path: Path
) -> None:
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(OutputError):
        send(tab, "nobody", mode="batch", batch=[picture, str(tmp_path / "b.png")])
    assert tab.site.engine.jobs(owner="nobody") == []


def test_a_face_restorer_that_is_missing_is_told_of(tab: Extras, picture: str) -> None:
    (job,) = send(tab, "faces", image=picture, upscale=False, gfpgan=True)
    assert job.state == "failed"
    assert job.fault.code == "model_not_found"
    boxes = tab._find(Visit())[2:]
    assert [box.interactive for box in boxes] == [False, False]


def test_pictures_of_a_batch_are_jobs_each_and_shown_together(
    tab: Extras, picture: str, tmp_path: Path
) -> None:
    files = [picture]
    for number in (1, 2):
        noise(3, (24 + 8 * number, 16)).save(tmp_path / f"{number}.png")
        files.append(str(tmp_path / f"{number}.png"))
    visit = Visit(owner="batch", role="user")
    send(tab, "batch", "before", image=picture)
    for _ in range(2):  # the same form again
        jobs = send(tab, "batch", "three", mode="batch", batch=files)
    assert len(jobs) == 4
    assert {job.kind for job in jobs} == {"extras"}
    rows, infotext, _, job_id, *_ = tab.results._show(visit, "")
    assert [row["image"]["path"] for row in rows] == [f"api/v1/pictures/{job.id}/0" for job in jobs[1:]]
    assert infotext == INFOTEXT
    sent = [tab.results.send(visit, job_id, str(place)) for place in range(3)]
    assert [images.size_of(each.image) for each in sent if each.image] == [(48, 32), (64, 32), (80, 32)]
    with pytest.raises(RequestError, match="no picture"):
        tab.results.send(visit, job_id, "3")


def test_source_and_result_lie_under_one_slider(tab: Extras, picture: str) -> None:
    visit = Visit(owner="slider", role="user")
    assert tab._show(visit, "", "0") == [gr.update(value=None, visible=False), ""]
    (job,) = send(tab, "slider", image=picture, by="to", width=64, height=64)
    slider, done = tab._show(visit, job.id, "0")
    assert slider["visible"]
    assert "Postprocess crop to: 64x64" in done
    before, after = (np.asarray(each, np.int16) for each in slider["value"])
    assert before.shape == (64, 64, 3)
    assert np.abs(before - after).max() <= 2  # the same filter, and rounding of where it is laid


def test_a_cut_result_is_compared_with_what_was_left_of_the_source() -> None:
    before = noise(3, (24, 16)).resize((96, 64), Image.Resampling.NEAREST)
    after = before.crop((16, 0, 80, 64))
    left, right = compare.pair(before, after, "Crop and resize")
    assert np.array_equal(np.asarray(left), np.asarray(right))


def test_interrupt_stops_the_whole_batch(tab: Extras, picture: str) -> None:
    engine, visit = tab.site.engine, Visit(owner="stopped", role="user")
    tab._send(visit, "many", *values(tab, mode="batch", batch=[picture] * 20, scale=8))
    stop(engine, visit, "extras")
    states = [engine.wait(job.id).state for job in engine.jobs(owner="stopped")]
    assert len(states) == 20
    assert "cancelled" in states


def test_what_is_sent_here_keeps_its_parameters(engine: Engine, picture: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
        site, _ = built(engine, extras.build)
        file, mode, _ = site.inlets["extras"].fill(Visit(), Sent(image=Path(picture)))
    assert mode == "single"
    assert Path(file).is_relative_to(tmp_path / "uploads")
    assert Path(file).read_bytes() == Path(picture).read_bytes()


def test_how_far_a_picture_is_is_told_in_words(tab: Extras, picture: str) -> None:
    send(tab, "told", image=picture)
    visit = Visit(owner="told", role="user")
    assert now(tab.site.engine, visit, "extras")["line"].startswith("Done")
    assert now(tab.site.engine, visit, "txt2img")["signature"] == ""
