"""Captions changed all at once: what each edit does, that it is done once, and what stays untouched."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.errors import TrainingError
from sfumato.train.caption_edits import CaptionEdit, edit_captions

TAGS = st.lists(st.sampled_from(["cat", "dog", "a red hat", "x"]), max_size=5)


@pytest.mark.parametrize(
    ("edit", "before", "after"),
    [
        (CaptionEdit(front="sks"), "a cat,on a mat", "sks, a cat,on a mat"),
        (CaptionEdit(front="sks cat, photo"), "sks cat,photo, x", "sks cat,photo, x"),
        (CaptionEdit(back="4k"), "", "4k"),
        (CaptionEdit(exchange={"blurry": ""}), "a, blurry , b", "a, b"),
        (CaptionEdit(exchange={"blurry": ""}), "blurry", ""),
        (CaptionEdit(exchange={"cat": "dog"}), "cat, cats, a cat", "dog, cats, a cat"),
        (CaptionEdit(exchange={"cat": "dog"}, unique=True), "dog, x, cat", "dog, x"),
        (CaptionEdit(exchange={"b": ""}, front="t"), "a, b\nb\nc", "t, a\nt\nt, c"),
        (CaptionEdit(), "  as ,, it is", "  as ,, it is"),
    ],
)
def test_edits(edit: CaptionEdit, before: str, after: str) -> None:
    assert edit.apply(before) == after


@given(tags=TAGS, front=st.sampled_from(["", "sks", "cat, dog"]), unique=st.booleans())
def test_an_edit_done_twice_changes_nothing_more(tags: list[str], front: str, unique: bool) -> None:
    edit = CaptionEdit(exchange={"x": "", "cat": "dog"}, front=front.replace("cat", "y"), unique=unique)
    once = edit.apply(", ".join(tags))
    assert edit.apply(once) == once


def folder_of(tmp_path: Path) -> Path:
    (tmp_path / "2_cat").mkdir()
    for name in ("a.png", "2_cat/b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "a.txt").write_bytes("\ufeffein Bär, blurry".encode())
    (tmp_path / "2_cat" / "b.caption").write_text("blurry", "utf-8")
    (tmp_path / "alone.txt").write_text("blurry", "utf-8")
    return tmp_path


def test_files_change_where_their_captions_do(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    edit = CaptionEdit(exchange={"blurry": "sharp"})
    told = [(each.name, each.before, each.after) for each in edit_captions(folder, edit, write=False)]
    assert told == [("a.png", "ein Bär, blurry", "ein Bär, sharp"), ("2_cat/b.png", "blurry", "sharp")]
    assert (folder / "2_cat" / "b.caption").read_text("utf-8") == "blurry"
    assert [each.name for each in edit_captions(folder, edit, write=True)] == ["a.png", "2_cat/b.png"]
    assert (folder / "a.txt").read_text("utf-8") == "ein Bär, sharp"
    assert (folder / "2_cat" / "b.caption").read_text("utf-8") == "sharp"
    assert not (folder / "2_cat" / "b.txt").exists()
    assert not (folder / "c.txt").exists()
    assert (folder / "alone.txt").read_text("utf-8") == "blurry"
    assert list(edit_captions(folder, edit, write=True)) == []


def test_what_cannot_be_read_stops_it(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "c.txt").write_bytes(b"\xff\xff")
    with pytest.raises(TrainingError, match=r"c\.png cannot be read: not UTF-8"):
        list(edit_captions(tmp_path, CaptionEdit(front="x"), write=True))
    with pytest.raises(TrainingError, match="unpack"):
        list(edit_captions(tmp_path / "none", CaptionEdit(), write=True))


def test_the_command_tells_and_writes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    arguments = ["dataset", "edit", str(folder), "--front", "sks", "--replace", "blurry=sharp"]
    done = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert done.output.splitlines() == [
        "a.png: sks, ein Bär, sharp",
        "c.png: sks",
        "2_cat/b.png: sks, sharp",
    ]
    assert not (folder / "c.txt").exists()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (folder / "c.txt").read_text("utf-8") == "sks"
