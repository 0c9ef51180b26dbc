import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.scripts.conftest import Maker

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import images
from sfumato.pipeline.scripts import batch
from sfumato.text.styles import Style
from sfumato.types import Canvas, Request, Sampling

BASE = Request(sampling=Sampling(steps=1), canvas=Canvas(seed=7))


def rows(tmp_path: Path, text: str, name: str = "rows.jsonl") -> list[batch.Row]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return batch.read_rows(path, BASE, {"oil": Style(name="oil", prompt="oil")})


def work(given: list[batch.Row], folder: Path, maker: Any, stop: int | None = None) -> list[str]:
    """What a run made, as "row.index:seed" or "row!": saved and recorded as a caller does; may stop early."""
    said: list[str] = []
    manifest = batch.open_manifest(folder)
    for event in batch.run(given, manifest, maker):
        if isinstance(event, batch.Failed):
            manifest.fail(event)
            said.append(f"{event.row.number}!")
        elif isinstance(event, batch.Made):
            path = images.save(event.result.image, folder, "x", event.result.infotext)
            manifest.record(event, path)
            said.append(f"{event.row.number}.{event.index}:{event.result.request.canvas.seed}")
            if len(said) == stop:
                break
    return said


THREE = '{"prompt": "a"}\n\n{"prompt": "b", "n_iter": 3, "seed": 10}\n{"prompt": "c", "styles": ["oil"]}\n'


def test_every_row_is_made_and_recorded(tmp_path: Path, maker: Maker) -> None:
    given = rows(tmp_path, THREE)
    assert work(given, tmp_path / "out", maker) == ["1.0:7", "3.0:10", "3.1:11", "3.2:12", "4.0:7"]
    assert [each.prompt.text for each in maker.asked] == ["a", "b", "c, oil"]
    lines = (tmp_path / "out" / batch.MANIFEST).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(entry["row"], entry["index"], entry["seed"]) for entry in entries] == [
        (1, 0, 7),
        (3, 0, 10),
        (3, 1, 11),
        (3, 2, 12),
        (4, 0, 7),
    ]
    for entry in entries:
        assert images.read_infotext(tmp_path / "out" / entry["path"]) == entry["infotext"]


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_second_run_makes_only_what_is_missing(tmp_path: Path, maker: Maker, stop: int) -> None:
    given, folder = rows(tmp_path, THREE), tmp_path / "out"
    first = work(given, folder, maker, stop)
    second = work(given, folder, Maker())
    assert first + second == ["1.0:7", "3.0:10", "3.1:11", "3.2:12", "4.0:7"]
    assert work(given, folder, maker) == []


def test_a_picture_that_was_removed_is_made_again_with_its_seed(tmp_path: Path, maker: Maker) -> None:
    given, folder = rows(tmp_path, '{"n_iter": 3, "seed": 10}'), tmp_path / "out"
    work(given, folder, maker)
    (folder / "00002-x.png").unlink()
    assert work(given, folder, maker) == ["1.1:11"]


def test_any_picture_that_is_left_gives_the_seeds_of_the_others(tmp_path: Path, maker: Maker) -> None:
    given, folder = rows(tmp_path, '{"n_iter": 4, "seed": -1}'), tmp_path / "out"
    work(given, folder, maker)
    path = folder / batch.MANIFEST
    entry = json.loads(path.read_text().splitlines()[2])
    path.write_text(json.dumps(entry | {"seed": 90}) + "\n")
    assert work(given, folder, maker) == ["1.0:88", "1.1:89", "1.3:91"]
    (folder / entry["path"]).unlink()
    path.write_text(json.dumps(entry | {"seed": 50}) + "\n")
    assert work(given, folder, maker) == ["1.0:48", "1.1:49", "1.2:50", "1.3:51"]


@pytest.mark.parametrize("change", [{"index": "x"}, {"seed": -9}, {"seed": 1.5}, {"path": None}, {"key": 3}])
def test_lines_of_a_manifest_that_make_no_sense_are_passed_over(
    tmp_path: Path, maker: Maker, change: dict[str, Any]
) -> None:
    given, folder = rows(tmp_path, '{"seed": 1}'), tmp_path / "out"
    work(given, folder, maker)
    path = folder / batch.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n[]\n\n")
    assert work(given, folder, maker) == ["1.0:1"]


def test_a_variation_goes_on_by_the_seed_that_counts(tmp_path: Path, maker: Maker) -> None:
    text = '{"n_iter": 3, "seed": 4, "subseed": 20, "subseed_strength": 0.5}'
    (row,) = rows(tmp_path, text)
    manifest = batch.Manifest(tmp_path)
    entry = {"seed": 4, "variation_seed": 20, "path": "rows.jsonl"}
    manifest.entries[row.key, 0] = entry
    seeds = [(place, each.canvas.seed, each.variation.seed) for place, each in batch.missing(row, manifest)]
    assert seeds == [(1, 4, 21), (2, 4, 22)]


def test_drawn_seeds_are_kept(tmp_path: Path, maker: Maker) -> None:
    folder = tmp_path / "out"
    work(rows(tmp_path, '{"n_iter": 3, "seed": 40}'), folder, maker, stop=2)
    manifest = (folder / batch.MANIFEST).read_text()
    drawn = rows(tmp_path, '{"n_iter": 3, "seed": -1}')  # as if 40 had been drawn for it
    (folder / batch.MANIFEST).write_text(
        manifest.replace(json.loads(manifest.splitlines()[0])["key"], drawn[0].key)
    )
    assert work(drawn, folder, maker) == ["1.2:42"]


def test_rows_may_move_and_repeat(tmp_path: Path, maker: Maker) -> None:
    folder = tmp_path / "out"
    work(rows(tmp_path, '{"seed": 1}\n{"seed": 2}'), folder, maker)
    assert work(rows(tmp_path, '{"seed": 3}\n{"seed": 2}\n{"seed": 1}\n{"seed": 1}'), folder, maker) == [
        "1.0:3",
        "4.0:1",
    ]


def test_a_bad_row_is_named_and_the_others_go_on(tmp_path: Path, maker: Maker) -> None:
    text = '{"promt": "a"}\n{broken\n[1]\n{"steps": 0}\n"text"\n{"styles": ["ink"]}\n{"prompt": "fine"}\n'
    given = rows(tmp_path, text)
    assert work(given, tmp_path / "out", maker) == ["1!", "2!", "3!", "4!", "5!", "6!", "7.0:7"]
    errors = [json.loads(line) for line in (tmp_path / "out" / batch.MANIFEST).read_text().splitlines()][:6]
    assert [each["row"] for each in errors] == [1, 2, 3, 4, 5, 6]
    assert "did you mean prompt" in errors[0]["error"]
    assert "JSON" in errors[1]["error"]
    assert "steps=0" in errors[3]["error"]


def test_a_row_that_cannot_be_made_lets_the_next_be(tmp_path: Path, maker: Maker) -> None:
    def failing(request: Request) -> Any:
        if request.prompt.text == "b":
            raise RequestError("not this one")
        yield from maker(request)

    assert work(rows(tmp_path, THREE), tmp_path / "out", failing) == ["1.0:7", "3!", "4.0:7"]


def test_csv_has_names_in_its_first_line(tmp_path: Path, maker: Maker) -> None:
    text = 'prompt,sampling.steps,seed\r\n"a, b",2,\r\nc,,5\r\nd,many,\r\ne,1,2,3\r\n'
    given = rows(tmp_path, text, "rows.csv")
    assert work(given, tmp_path / "out", maker) == ["2.0:7", "3.0:5", "4!", "5!"]
    assert [(each.prompt.text, each.sampling.steps) for each in maker.asked] == [("a, b", 2), ("c", 1)]


def test_a_manifest_cut_short_by_a_crash_is_read_and_continued(tmp_path: Path, maker: Maker) -> None:
    given, folder = rows(tmp_path, THREE), tmp_path / "out"
    work(given, folder, maker, stop=2)
    path = folder / batch.MANIFEST
    path.write_bytes(path.read_bytes()[:-20])
    assert work(given, folder, maker) == ["3.0:10", "3.1:11", "3.2:12", "4.0:7"]
    assert work(given, folder, maker) == []


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("rows.txt", b"{}", "JSON lines or CSV"),
        ("rows.jsonl", b"\n\n", "no rows"),
        ("rows.csv", b"prompt\n", "no rows"),
        ("rows.jsonl", b"\xff", "UTF-8"),
    ],
)
def test_files_that_hold_no_rows_are_refused(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=named):
        batch.read_rows(tmp_path / name, BASE, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none\.csv"):
        batch.read_rows(tmp_path / "none.csv", BASE, {})
