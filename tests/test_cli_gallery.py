"""`sfumato gallery` on the command line."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from sfumato.cli import run
from sfumato.pipeline import images

TEXT = (
    "{} on a table\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: {}, Size: 32x32"
)


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    for seed, (name, colour) in enumerate(
        {"a red apple": "red", "一个苹果": "blue", "a pear": "black"}.items()
    ):
        image = Image.new("RGB", (32, 32), colour)
        images.save_as(image, tmp_path / "theirs" / f"{seed}.png", TEXT.format(name, seed))
    (tmp_path / "theirs" / "broken.png").write_bytes(b"no")
    return ["--data", str(tmp_path / "data"), "-o", str(tmp_path / "outputs")]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(["gallery", *arguments]) == 0
    return capsys.readouterr().out


def test_pictures_are_imported_found_deleted_and_restored(
    places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gallery", "import", str(tmp_path / "theirs"), *places]) == 0
    told = capsys.readouterr()
    assert told.out == "3 new, 0 known, 1 broken\n"
    assert "broken.png" in told.err
    assert len(told.err.splitlines()) == 1
    assert said(capsys, "import", str(tmp_path / "theirs"), *places) == "0 new, 3 known, 1 broken\n"

    (line,) = said(capsys, "search", "苹果", *places).splitlines()
    name, path, words = line.split("\t")
    assert words == "一个苹果 on a table"
    assert images.open_image(Path(path)).size == (32, 32)
    found = said(capsys, "search", "--sampler", "Euler a", "--size", "32x32", "--json", *places)
    assert [json.loads(each)["seed"] for each in found.splitlines()] == [2, 1, 0]
    assert len(said(capsys, "search", "--since", "2020-01-01", "--limit", "2", *places).splitlines()) == 2
    assert said(capsys, "search", "--until", "2020-01-01", *places) == ""

    first = said(capsys, "similar", str(tmp_path / "theirs" / "1.png"), *places).splitlines()[0]
    assert first.startswith(f"0.000\t{name}\t")
    assert len(said(capsys, "similar", name, *places).splitlines()) == 2

    said(capsys, "tag", name, "--tag", "best", "--rating", "5", *places)
    assert name in said(capsys, "search", "--tag", "best", "--rating", "5", *places)
    said(capsys, "trash", name, *places)
    assert not Path(path).exists()
    assert said(capsys, "search", "苹果", *places) == ""
    assert name in said(capsys, "search", "--state", "trash", *places)
    said(capsys, "restore", name, *places)
    assert Path(path).exists()
    said(capsys, "trash", name, *places)
    assert said(capsys, "empty-trash", *places) == "1 removed\n"
    table = said(capsys, "export", "table", *places)
    assert [row["seed"] for row in csv.DictReader(io.StringIO(table))] == ["2", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nowhere"], "nowhere: no such folder"),
        (["trash", "nothing"], "no picture 'nothing'"),
        (["search", "--state", "gone"], "state='gone' is not one of there, missing, trash"),
        (["search", "--size", "big"], "big"),
        (["export", "--format", "xls"], "form='xls' is not one of csv, jsonl"),
    ],
)
def test_mistakes_are_told_in_one_line(
    places: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["gallery", *arguments, *places]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
