"""Walks as jobs: a moving picture and its contact sheet in the gallery, between prompts or its pictures."""

import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from sfumato.app.engine import Engine
from sfumato.app.gallery_table import Entry, Filter
from sfumato.app.jobs import Job, Script
from sfumato.app.walks import between_pictures, between_prompts
from sfumato.errors import OutputError, PictureNotFoundError, RequestError
from sfumato.pipeline import images
from sfumato.types import Canvas, Prompt, Request, Sampling, Source, Variation

CAT = Request(
    prompt=Prompt(text="a cat", negative="grey"),
    sampling=Sampling(sampler="Euler", steps=2),
    canvas=Canvas(seed=1, width=64, height=64, batch_count=2),
)


def made(engine: Engine, request: Request, script: Script | None = None, owner: str = "anna") -> Job:
    job = engine.wait(engine.submit(request, script=script, owner=owner).id, 600)
    assert (job.state, job.fault) == ("done", None)
    return job


def picture_ids(engine: Engine, *requests: Request) -> list[str]:
    jobs = [made(engine, each) for each in requests]
    pages = [engine.gallery.search(Filter(job=job.id)).pictures for job in jobs]
    return [page[-1].id for page in pages]


@pytest.mark.parametrize("file_format", ["webp", "gif"])
def test_a_walk_between_prompts_is_a_moving_picture_with_its_sheet(engine: Engine, file_format: str) -> None:
    asked = between_prompts(
        CAT, ["a cat", "a red house", "the sea"], frames=2, fps=5.0, file_format=file_format
    )
    job = made(engine, *asked)
    assert [each.index for each in job.made] == [-1, 0]
    sheet, moving = job.made
    path = engine.settings.outputs / moving.file
    assert path.suffix == f".{file_format}"
    with Image.open(path) as image:
        assert (getattr(image, "n_frames", 1), image.size) == (8, (64, 64))  # five, and three back
        image.load()
        assert image.info["duration"] == 200
    assert images.open_image(engine.settings.outputs / sheet.file).size == (sheet.width, sheet.height)
    assert "Walk 3: the sea" in moving.infotext


def test_a_moving_picture_has_a_small_picture_and_can_be_found(engine: Engine) -> None:
    job = made(engine, *between_prompts(CAT, ["a cat", "a bridge"], frames=2, cells=True))
    assert [each.index for each in job.made] == [-1, 0, 1, 2, 3]
    found = {each.file: each for each in engine.gallery.search(Filter(job=job.id)).pictures}
    moving = next(each for file, each in found.items() if file.endswith(".webp"))
    small = Image.open(io.BytesIO(engine.gallery.files.thumbnail(moving, 128)))
    assert small.size == (64, 64)
    first = images.open_image(engine.settings.outputs / job.made[1].file)
    assert images.first_frame(engine.gallery.path(moving)).size == first.size
    with pytest.raises(OutputError, match="animated"):
        images.open_image(engine.gallery.path(moving))


def test_a_walk_between_pictures_goes_from_one_to_the_other(engine: Engine) -> None:
    ids = picture_ids(
        engine, CAT, replace(CAT, prompt=Prompt(text="a house"), canvas=replace(CAT.canvas, seed=9))
    )
    asked, script = between_pictures(engine.gallery, engine.inputs, ids, owner="anna", frames=2, cells=True)
    assert (asked.canvas.batch_size, asked.canvas.batch_count) == (1, 1)
    assert script.arguments["stops"] == [
        {"prompt": "a cat", "negative": "grey", "seed": 1},
        {"prompt": "a house", "negative": "", "seed": 9},
    ]
    job = made(engine, asked, script)
    ends = [images.open_image(engine.settings.outputs / job.made[place].file) for place in (1, 3)]
    for picture_id, end in zip(ids, ends, strict=True):
        own = images.open_image(engine.gallery.path(engine.gallery.get(picture_id)))
        assert own.tobytes() == end.tobytes()


def test_pictures_between_which_nobody_can_walk_are_refused_in_one_line(engine: Engine) -> None:
    large = replace(CAT, canvas=replace(CAT.canvas, width=128))
    from_picture = replace(CAT, source=Source(image=Image.new("RGB", (64, 64)), denoising_strength=0.5))
    between = replace(CAT, variation=Variation(seed=3, strength=0.5))
    cat, wide, drawn, varied = picture_ids(engine, CAT, large, from_picture, between)
    silent = engine.gallery.add(
        Entry(owner="anna", file="x.png", sha256="0" * 64, created=1.0, width=64, height=64, seed=None)
    )[0]
    Image.new("RGB", (64, 64)).save(engine.settings.outputs / "x.png")
    other = engine.gallery.get(cat)
    foreign = engine.gallery.add(
        Entry(
            owner="anna", file="y.png", sha256="1" * 64, created=1.0, width=64, height=64, seed=1,
            model="other", request=other.request,
        )
    )[0]  # fmt: skip
    Image.new("RGB", (64, 64)).save(engine.settings.outputs / "y.png")

    def refused(message: str, *ids: str, owner: str = "anna", **how: Any) -> None:
        with pytest.raises(RequestError, match=message):
            between_pictures(engine.gallery, engine.inputs, ids, owner=owner, **how)

    refused("choose 2 to 4", cat)
    refused("different sizes: 64×64, 128×64; choose", cat, wide)
    refused("different models: tiny, other; choose", cat, foreign)
    refused("was made from another picture", cat, drawn)
    refused("is a variation between two seeds", varied, cat)
    refused("x.png does not say how it was made", cat, silent)
    with pytest.raises(PictureNotFoundError):
        between_pictures(engine.gallery, engine.inputs, [cat, cat], owner="bert")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stops": 3},
        {"stops": [{"prompt": "a"}]},
        {"stops": [{"prompt": "a"}, {"text": "b"}]},
        {"stops": [{"prompt": "a"}, {"prompt": "b", "seed": 2.5}]},
        {"stops": [{"prompt": "a"}, {"prompt": "b"}], "frames": "many"},
        {"stops": [{"prompt": "a"}, {"prompt": "b"}], "fps": "fast"},
        {"stops": [{"prompt": "a"}, {"prompt": "b"}], "file_format": "../x"},
        {"stops": [{"prompt": "a"}, {"prompt": "b"}], "no such": 1},
    ],
)
def test_what_a_client_asks_in_error_is_said_in_one_line(engine: Engine, arguments: dict[str, Any]) -> None:
    job = engine.wait(engine.submit(CAT, script=Script(name="walk", arguments=arguments)).id, 600)
    assert job.state == "failed"
    assert job.fault is not None
    assert job.fault.code == "request"
