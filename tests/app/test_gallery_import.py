"""Folders of other programs' pictures go into the gallery: what can be read, once; they stay as they are."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.app.codec import Inputs, decode
from sfumato.app.gallery import Gallery
from sfumato.app.gallery_import import Imported, import_folder
from sfumato.app.gallery_table import Filter, Picture
from sfumato.app.store import Store
from sfumato.errors import OutputError

A1111 = (
    "a red apple\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 64x64, Model: anime, Version: v1.10.1"
)
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 12,
            "cfg": 6.5,
            "sampler_name": "euler",
            "scheduler": "karras",
            "denoise": 1,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "photo.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "一个苹果 on a table", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["4", 1]}},
}
INVOKE = {
    "app_version": "4.2.0",
    "generation_mode": "txt2img",
    "positive_prompt": "a green pear",
    "negative_prompt": "",
    "width": 64,
    "height": 64,
    "seed": 9,
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "euler_a",
    "model": {"name": "dream", "hash": "abc"},
}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(tmp_path / "inputs")


def write(path: Path, shade: int, when: float = 1e9, **texts: str) -> Path:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(path, "PNG", pnginfo=info)
    os.utime(path, (when, when))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    write(folder / "txt2img" / "00001.png", 1, 1e9 + 1, parameters=A1111)
    write(folder / "ComfyUI_00001_.png", 2, 1e9 + 2, prompt=json.dumps(COMFY))
    write(folder / "invoke.png", 3, 1e9 + 3, invokeai_metadata=json.dumps(INVOKE))
    write(folder / "plain.png", 4, 1e9 + 4)
    write(folder / "beside.png", 5, 1e9 + 5).with_suffix(".txt").write_text(
        A1111.replace("red", "blue"), "utf-8"
    )
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def run(gallery: Gallery, inputs: Inputs, folder: Path, owner: str = "local") -> list[Imported]:
    return list(import_folder(gallery, inputs, folder, owner=owner))


def only(gallery: Gallery, text: str) -> Picture:
    (found,) = gallery.pages(Filter(text=text))
    return found


def test_pictures_of_every_program_are_found_by_what_they_say(
    gallery: Gallery, inputs: Inputs, folder: Path
) -> None:
    before = tree(folder)
    told = run(gallery, inputs, folder)
    assert [(each.done, each.total, each.outcome, each.note) for each in told] == [
        (place, 5, "new", "") for place in range(1, 6)
    ]
    assert tree(folder) == before
    assert len(tree(gallery.files.outputs)) == 5

    apple = only(gallery, "red apple")
    assert (apple.seed, apple.sampler, apple.model, apple.negative) == (42, "Euler a", "anime", "blurry")
    assert apple.program == "AUTOMATIC1111's web UI v1.10.1"
    assert apple.created == 1e9 + 1
    assert apple.request is not None
    assert decode(apple.request, inputs.path).sampling.steps == 20
    comfy = only(gallery, "苹果")
    assert (comfy.program, comfy.seed, comfy.sampler, comfy.negative) == ("ComfyUI", 7, "Euler", "ugly")
    assert only(gallery, "green pear").program == "InvokeAI 4.2.0"
    assert only(gallery, "blue apple").seed == 42
    (plain,) = [each for each in gallery.pages(Filter()) if not each.program]
    assert (plain.seed, plain.request, plain.prompt) == (None, None, "")
    assert [each.created for each in gallery.pages(Filter())] == [1e9 + place for place in range(5, 0, -1)]


def test_a_second_run_takes_nothing_in_and_new_pictures_alone_are_new(
    gallery: Gallery, inputs: Inputs, folder: Path
) -> None:
    run(gallery, inputs, folder)
    files = tree(gallery.files.outputs)
    gallery.trash(only(gallery, "red apple").id)
    (folder / "invoke.png").rename(folder / "renamed.png")
    (folder / "copy.png").write_bytes((folder / "plain.png").read_bytes())
    write(folder / "more.png", 9, parameters=A1111)
    outcomes = {each.path.name: each.outcome for each in run(gallery, inputs, folder)}
    assert {name for name, outcome in outcomes.items() if outcome == "new"} == {"more.png"}
    assert set(outcomes.values()) == {"new", "known"}
    assert len(tree(gallery.files.outputs)) == len(files) + 1
    assert {each.outcome for each in run(gallery, inputs, gallery.files.outputs)} == {"known"}


def test_a_broken_file_is_told_of_in_one_line_and_the_others_go_on(
    gallery: Gallery, inputs: Inputs, folder: Path
) -> None:
    data = (folder / "txt2img" / "00001.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "secret.png").symlink_to("/etc/passwd")
    (folder / ".hidden.png").write_bytes(data)
    (folder / "notes.md").write_text("a red apple")
    write(folder / "odd.png", 8, invokeai_metadata="{broken")
    told = {each.path.name: each for each in run(gallery, inputs, folder)}
    assert {name for name, each in told.items() if each.outcome == "broken"} == {
        "cut.png",
        "empty.png",
        "text.jpg",
    }
    assert all(each.note and "\n" not in each.note for each in told.values() if each.outcome == "broken")
    assert told["odd.png"].outcome == "new"
    assert "InvokeAI" in told["odd.png"].note
    assert not {"secret.png", ".hidden.png", "notes.md"} & set(told)
    assert len(list(gallery.pages(Filter()))) == 6


def test_names_of_files_are_only_names(gallery: Gallery, inputs: Inputs, tmp_path: Path) -> None:
    names = [
        "=cmd|' !A0.png",
        "a\nb.png",
        "a..png",
        "-rf.png",
        "émoji 🍎.png",
        "$(touch x).png",
        "x" * 200 + ".png",
    ]
    for place, name in enumerate(names):
        write(tmp_path / "odd" / name, 10 + place, parameters=A1111)
    (tmp_path / "odd" / os.fsdecode(b"\xff\xfe.png")).write_bytes(
        (tmp_path / "odd" / names[0]).read_bytes() + b"x"
    )
    assert {each.outcome for each in run(gallery, inputs, tmp_path / "odd")} == {"new"}
    pictures = list(gallery.pages(Filter(text="apple")))
    assert len(pictures) == len(names) + 1
    for picture in pictures:
        assert gallery.path(picture).is_file()
        gallery.trash(picture.id)
        gallery.restore(picture.id)


def test_what_is_inside_the_outputs_stays_where_it_is(gallery: Gallery, inputs: Inputs) -> None:
    outputs = gallery.files.outputs
    write(outputs / "2023" / "a.png", 1, parameters=A1111)
    (outputs / "2023" / "b\\c.png").write_bytes((outputs / "2023" / "a.png").read_bytes() + b"x")
    (outputs / "2023" / os.fsdecode(b"\xff.png")).write_bytes(
        (outputs / "2023" / "a.png").read_bytes() + b"y"
    )
    assert {each.outcome for each in run(gallery, inputs, outputs)} == {"new"}
    pictures = list(gallery.pages(Filter()))
    assert len(pictures) == 3
    assert "2023/a.png" in {each.file for each in pictures}
    assert {each.outcome for each in run(gallery, inputs, outputs, owner="another")} == {"known", "new"}


def test_each_owner_has_a_file_of_its_own(gallery: Gallery, inputs: Inputs, folder: Path) -> None:
    for owner in ("a", "b"):
        assert {each.outcome for each in run(gallery, inputs, folder, owner)} == {"new"}
    (mine,) = gallery.search(Filter(text="red"), owner="a").pictures
    gallery.trash(mine.id)
    gallery.empty_trash("a")
    assert len(gallery.search(Filter(text="red"), owner="b").pictures) == 1


def test_an_import_can_be_stopped_and_gone_on_with(gallery: Gallery, inputs: Inputs, folder: Path) -> None:
    steps = import_folder(gallery, inputs, folder)
    next(steps)
    next(steps)
    steps.close()  # type: ignore[attr-defined]  # a generator is one
    assert [each.outcome for each in run(gallery, inputs, folder)] == ["known"] * 2 + ["new"] * 3


def test_hostile_parameters_are_texts_and_nothing_else(
    gallery: Gallery, inputs: Inputs, tmp_path: Path
) -> None:
    hostile = [
        "<script>alert(1)</script>\nSteps: 1000000000, Seed: -99999999999999999999999, Size: 1x1",
        "a\nSteps: NaN, Sampler: " + "x" * 5000 + ", Seed: ٤٢, Model: " + "m" * 5000,
        "\0\ufffe\nSteps: 20, Seed: 1",
        "=HYPERLINK(1)\nNegative prompt: "
        + "n " * 20000
        + "\nSteps: 20, Sampler: Euler, Seed: 18446744073709551616",
    ]
    for place, text in enumerate(hostile):
        write(tmp_path / "odd" / f"{place}.png", place, parameters=text)
    told = run(gallery, inputs, tmp_path / "odd")
    assert {each.outcome for each in told} == {"new"}
    for picture in gallery.pages(Filter()):
        assert picture.seed is None or 0 <= picture.seed < 2**64
        assert len(picture.model) <= 300
    assert only(gallery, '"script alert 1 script"').request is None


@pytest.mark.parametrize("name", ["nothing", "file.png"])
def test_a_folder_that_is_none_is_refused(
    gallery: Gallery, inputs: Inputs, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(OutputError, match="no such folder"):
        run(gallery, inputs, tmp_path / name)


def test_an_empty_folder_brings_nothing(gallery: Gallery, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "void").mkdir()
    assert run(gallery, inputs, tmp_path / "void") == []


def test_other_machines_have_what_is_imported(
    gallery: Gallery, database: sa.Engine, inputs: Inputs, folder: Path, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    here = Gallery(database, gallery.files.outputs, gallery.files.thumbnails, store)
    run(here, inputs, folder)
    there = Gallery(database, tmp_path / "there", tmp_path / "there" / "thumbnails", store)
    assert len(list(there.pages(Filter()))) == 5
    for picture in there.pages(Filter()):
        assert there.path(picture).read_bytes() == here.path(picture).read_bytes()
