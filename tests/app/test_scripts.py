"""Jobs that run a script: made in the queue, with what they should keep, and with no file of this machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job, Script
from sfumato.pipeline.images import read_texts
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Sampling, Source

TEXT = Request(
    prompt=Prompt(text="a cat|red"), sampling=Sampling(steps=2), canvas=Canvas(seed=1, width=32, height=32)
)
PICTURE = replace(TEXT, source=Source(image=Image.new("RGB", (40, 32), "red"), denoising_strength=0.5))
NOTHING = ["Nothing", ""]


def made(engine: Engine, request: Request, name: str, **arguments: Any) -> Job:
    return engine.wait(engine.submit(request, script=Script(name=name, arguments=arguments)).id, 600)


@pytest.mark.parametrize(
    ("name", "request_", "arguments", "indices", "size"),
    [
        ("prompt matrix", TEXT, {}, [-1, 0, 1], (32, 32)),
        (
            "prompts",
            TEXT,
            {"text": "a dog\n--prompt cat --n_iter 2", "iterate_seed": True},
            [0, 1, 2],
            (32, 32),
        ),
        (
            "x/y/z plot",
            TEXT,
            {"axes": [["Steps", "1,2"], NOTHING, ["Seed", "3,4"]], "cells": True, "sub_grids": True},
            [-3, -2, -1, 0, 1, 2, 3],
            (32, 32),
        ),
        ("x/y/z plot", TEXT, {"axes": [["Steps", "1,2"], NOTHING, NOTHING], "cells": False}, [-1], None),
        ("loopback", PICTURE, {"loops": 3}, [0, 1, 2], (32, 32)),
        ("sd upscale", PICTURE, {"scale": 2, "overlap": 8}, [0], (80, 64)),
        ("extras", PICTURE, {"upscaler": "Lanczos", "scale": 2}, [0], (80, 64)),
    ],
    ids=["matrix", "prompts", "plot with cells", "plot", "loopback", "sd upscale", "extras"],
)
def test_a_script_keeps_its_pictures_and_its_grids(
    engine: Engine,
    name: str,
    request_: Request,
    arguments: dict[str, Any],
    indices: list[int],
    size: tuple[int, int] | None,
) -> None:
    job = made(engine, request_, name, **arguments)
    assert (job.state, job.fault) == ("done", None)
    assert [each.index for each in job.made] == indices
    for each in job.made:
        assert (engine.settings.outputs / each.file).is_file()
        if each.index >= 0 and size:
            assert (each.width, each.height) == size
    assert len({each.seed for each in job.made if each.index >= 0}) >= (2 if name == "prompts" else 0)


def test_extras_keeps_the_infotext_and_says_what_was_done(engine: Engine) -> None:
    job = made(
        engine,
        PICTURE,
        "extras",
        upscaler="Lanczos",
        scale=2,
        infotext="a cat\nSteps: 1, Seed: 2, CFG scale: 3",
    )
    texts = read_texts(engine.settings.outputs / job.made[0].file)
    assert texts["parameters"].startswith("a cat")
    assert "Postprocess upscaler: Lanczos" in texts["extras"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("no such", {}),
        ("loopback", {"loops": 0}),
        ("loopback", {"unheard of": 1}),
        ("prompt matrix", {"margin": -1}),
        ("prompts", {"text": ""}),
        ("prompts", {"text": "--prompt a --init_image /etc/passwd"}),
        ("prompts", {"text": "--prompt a --mask.image /etc/passwd"}),
        ("x/y/z plot", {"axes": [["source.image", "/etc/passwd"], NOTHING, NOTHING], "cells": True}),
        ("x/y/z plot", {"axes": [["Steps", "1-1000"], ["Seed", "1-10000"], NOTHING], "cells": True}),
    ],
)
def test_what_a_script_refuses_is_said_in_one_line(
    engine: Engine, name: str, arguments: dict[str, Any]
) -> None:
    job = made(engine, PICTURE, name, **arguments)
    assert job.state == "failed"
    assert job.fault is not None
    assert job.fault.code == "request"
    assert "\n" not in job.fault.message


@pytest.mark.parametrize("name", ["/etc/passwd", "../tiny", "{checkpoint}"])
def test_requests_name_no_files_of_this_machine(engine: Engine, tiny_checkpoint: Path, name: str) -> None:
    choice = ModelChoice(checkpoint=name.format(checkpoint=tiny_checkpoint))
    job = engine.wait(engine.submit(replace(TEXT, model=choice)).id, 600)
    assert job.fault is not None
    assert job.fault.code == "model_not_found"


def test_skip_goes_on_with_the_next_batch(engine: Engine) -> None:
    request = replace(TEXT, sampling=Sampling(steps=300), canvas=replace(TEXT.canvas, batch_count=2))
    job = engine.submit(request)
    for event in engine.watch(job.id, every=0):
        if event.kind == "progress" and event.progress and event.progress.step:
            break
    engine.skip(job.id)
    ended = engine.wait(job.id, 600)
    assert ended.state == "done"
    assert [each.index for each in ended.made] == [1]


def test_faces_are_restored_in_finished_pictures(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a restorer that turns colours around: the real networks are held in tests of `pipeline.faces`."""
    monkeypatch.setattr(engine.shelf.upscalers, "load_face_restorer", lambda name: name)
    monkeypatch.setattr(
        "sfumato.app.scripts.restore_faces", lambda image, network, weight: ImageOps.invert(image)
    )
    plain, restored = engine.wait(engine.submit(TEXT).id, 60), made(engine, TEXT, "faces", restorer="GFPGAN")
    first, second = (Image.open(engine.settings.outputs / job.made[0].file) for job in (plain, restored))
    assert ImageOps.invert(first).tobytes() == second.tobytes()
    assert "Face restoration: GFPGAN" in second.info["parameters"]
