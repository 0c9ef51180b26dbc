"""What each kind of source says it holds: one set of pictures, packed in every way, is one set."""

import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from sfumato.errors import TrainingError
from sfumato.train.entries import Entry, Finding, Source
from sfumato.train.parquet import ParquetSource
from sfumato.train.sources import open_source

NAMES = ("a.png", "b.jpg", "c.webp")
CAPTIONS = ("a red one", "a green one", "a blue one, ünder the sun")
COLOURS = ("red", "green", "blue")


def encoded(name: str, colour: str, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    kind = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.rpartition(".")[2]]
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


FILES = [encoded(name, colour) for name, colour in zip(NAMES, COLOURS, strict=True)]


def flat(folder: Path) -> Path:
    for name, caption, data in zip(NAMES, CAPTIONS, FILES, strict=True):
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text(caption, "utf-8")
    return folder


def zipped(folder: Path) -> Path:
    path = folder / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("set/.DS_Store", b"")
        for name, caption, data in zip(NAMES, CAPTIONS, FILES, strict=True):
            archive.writestr(f"set/{name}", data)
            archive.writestr(f"set/{Path(name).with_suffix('.txt')}", caption)
    return path


def lines(folder: Path) -> Path:
    rows = []
    for name, caption, data in zip(NAMES, CAPTIONS, FILES, strict=True):
        (folder / name).write_bytes(data)
        rows.append(json.dumps({"file_name": name, "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows), "utf-8")
    return folder


def columns(folder: Path) -> Path:
    for name, data in zip(NAMES, FILES, strict=True):
        (folder / name).write_bytes(data)
    table = pyarrow.table({"image": list(NAMES), "caption": list(CAPTIONS), "other": [1, 2, 3]})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


def embedded(folder: Path) -> Path:
    pictures = [{"bytes": data, "path": name} for name, data in zip(NAMES, FILES, strict=True)]
    parquet.write_table(pyarrow.table({"image": pictures, "text": list(CAPTIONS)}), folder / "1.parquet")
    return folder


def shards(folder: Path) -> Path:
    for number, (name, caption, data) in enumerate(zip(NAMES, CAPTIONS, FILES, strict=True)):
        with tarfile.open(folder / f"{number // 2:05d}.tar", "a") as shard:
            told = json.dumps({"caption": caption, "width": 8}).encode()
            end = ("txt", caption.encode()) if number else ("json", told)
            for member, content in ((name, data), (f"{name[0]}.{end[0]}", end[1])):
                info = tarfile.TarInfo(f"dir/{member}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    return folder


KINDS: list[Callable[[Path], Path]] = [flat, zipped, lines, columns, embedded, shards]


def entries(source: Source) -> list[Entry]:
    found = list(source.entries())
    assert all(isinstance(each, Entry) for each in found), found
    return [each for each in found if isinstance(each, Entry)]


def text(entry: Entry) -> str:
    return entry.caption.decode() if isinstance(entry.caption, bytes) else str(entry.caption)


def findings(path: Path, masks: str | None = None) -> dict[str, str]:
    return {each.name: each.kind for each in open_source(path, masks).entries() if isinstance(each, Finding)}


@pytest.mark.parametrize("pack", KINDS)
def test_every_packing_holds_the_same_pictures_and_captions(
    tmp_path: Path, pack: Callable[[Path], Path]
) -> None:
    source = open_source(pack(tmp_path))
    found = entries(source)
    assert [text(each) for each in found] == list(CAPTIONS)
    assert [source.read(each.address) for each in found] == FILES
    assert [source.read(each.address) for each in found[::-1]] == FILES[::-1]
    assert entries(source) == found  # the same order every time


@pytest.mark.parametrize("pack", KINDS)
def test_stamps_tell_files_apart_and_say_when_they_are_changed(
    tmp_path: Path, pack: Callable[[Path], Path]
) -> None:
    path = pack(tmp_path)
    source = open_source(path)
    before = [source.stamp(each.address) for each in entries(source)]
    assert len(set(before)) == 3
    assert [source.stamp(each.address) for each in entries(source)] == before
    for file in tmp_path.rglob("*"):
        os.utime(file, ns=(0, 0))
    assert not set(before) & {source.stamp(each.address) for each in entries(source)}


def test_folders_of_repeats_give_their_number_and_words(tmp_path: Path) -> None:
    for folder in ("10_sks cat", "3_a_dog", "notes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(FILES[0])
    found = list(open_source(tmp_path).entries())
    assert [(each.words, each.repeats) for each in found if isinstance(each, Entry)] == [
        ("sks cat", 10),
        ("a dog", 3),
    ]
    assert findings(tmp_path) == {"notes/": "other folder"}
    # One level too deep, the commonest mistake, means the same.
    (inner,) = entries(open_source(tmp_path / "10_sks cat"))
    assert (inner.words, inner.repeats) == ("sks cat", 10)


def test_a_zip_of_one_folder_of_repeats_keeps_its_number(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("5_cat/a.png", FILES[0])
    (found,) = entries(open_source(tmp_path / "set.zip"))
    assert (found.words, found.repeats, found.name) == ("cat", 5, "5_cat/a.png")


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    flat(tmp_path)
    for name in ("x.bmp", "y.gif", "alone.txt", "list.csv", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    assert findings(tmp_path) == {
        "x.bmp": "other format",
        "y.gif": "other format",
        "alone.txt": "caption alone",
        "list.csv": "other file",
    }


def test_a_caption_file_of_either_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "A.PNG").write_bytes(FILES[0])
    (tmp_path / "A.caption").write_text("said", "utf-8")
    (found,) = entries(open_source(tmp_path))
    assert text(found) == "said"


def test_masks_lie_in_a_folder_of_theirs(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "10_x").mkdir()
    (tmp_path / "10_x" / "a.png").write_bytes(FILES[0])
    (tmp_path / "masks" / "10_x").mkdir(parents=True)
    for name in ("a.png", "b.png", "10_x/a.png"):
        (tmp_path / "masks" / name).write_bytes(FILES[0])
    found = {
        each.name: each.mask for each in open_source(tmp_path, "masks").entries() if isinstance(each, Entry)
    }
    assert found == {
        "a.png": "masks/a.png",
        "b.jpg": "masks/b.png",
        "c.webp": None,
        "10_x/a.png": "masks/10_x/a.png",
    }
    assert findings(tmp_path, "masks") == {"c.webp": "no mask"}


@pytest.mark.parametrize("pack", [flat, zipped, lines, shards])
def test_masks_that_are_not_there_are_refused(tmp_path: Path, pack: Callable[[Path], Path]) -> None:
    with pytest.raises(TrainingError, match=r"masks|No such file"):
        open_source(pack(tmp_path), "m")


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not an object"),
        (b'{"text": "a"}', "none of"),
        (b'{"file_name": 3}', "none of"),
        (b'{"file_name": "a.png", "text": 3}', "not text"),
        (b'{"file_name": "a.png", "repeats": 0}', "repeats=0"),
        (b'{"file_name": "a.png", "repeats": true}', "repeats=True"),
        (b'{"file_name": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_is_named_and_the_next_is_read(tmp_path: Path, row: bytes, detail: str) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(row + b'\n\n{"image": "b.png", "captions": ["a", "b"]}')
    bad, good = open_source(tmp_path).entries()
    assert isinstance(bad, Finding)
    assert bad.kind == "bad row"
    assert detail in bad.detail
    assert isinstance(good, Entry)
    assert good.caption == "a\nb"


def test_an_endless_line_is_not_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(b"a" * 2**24)
    assert findings(tmp_path) == {"metadata.jsonl": "unreadable"}


@pytest.mark.parametrize("address", ["../out.png", "/etc/hostname", "a/../../out.png", "a\0.png", "pipe"])
def test_a_table_reaches_nothing_outside_and_no_pipe(tmp_path: Path, address: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "out.png").write_bytes(FILES[0])
    os.mkfifo(tmp_path / "set" / "pipe")
    (tmp_path / "set" / "metadata.jsonl").write_text(json.dumps({"file_name": address}), "utf-8")
    with pytest.raises(OSError, match=r"not a (name inside|file)"):
        open_source(tmp_path / "set").read(address)


def test_a_cut_shard_gives_what_is_whole_and_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    path = tmp_path / "00000.tar"
    path.write_bytes(path.read_bytes()[:2600])
    found = list(open_source(tmp_path).entries())
    assert [each.kind for each in found if isinstance(each, Finding)] == ["unreadable"]
    assert [text(each) for each in found if isinstance(each, Entry)][-1] == CAPTIONS[2]


def test_a_sample_without_a_picture_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.addfile(tarfile.TarInfo("0.txt"), io.BytesIO())
    assert findings(tmp_path) == {"a.tar/0": "missing"}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("set.zip", b"no zip", "set.zip cannot be read"),
        ("set.parquet", b"no table", "set.parquet cannot be read"),
        ("set.rar", b"", "give a folder"),
        ("", None, "there is nothing at"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, name: str, content: bytes | None, named: str) -> None:
    path = tmp_path / (name or "missing")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=named):
        open_source(path)


def test_a_broken_member_of_a_zip_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = zipped(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(FILES[0])
    data[at + 20] ^= 255
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(OSError, match="damaged in the zip"):
        source.read("a.png")
    assert source.read("b.jpg") == FILES[1]


def many_lines(folder: Path, count: int) -> Source:
    with (folder / "metadata.jsonl").open("w") as file:
        file.writelines(f'{{"file_name": "{n}.png", "text": "picture {n} of many"}}\n' for n in range(count))
    return open_source(folder)


def many_rows(folder: Path, count: int) -> Source:
    table = pyarrow.table({"image": [f"{n}.png" for n in range(count)], "text": ["of many"] * count})
    parquet.write_table(table, folder / "a.parquet")
    return ParquetSource([folder / "a.parquet"])


def many_members(folder: Path, count: int) -> Source:
    with tarfile.open(folder / "a.tar", "w") as shard:
        for number in range(count // 2):
            shard.addfile(tarfile.TarInfo(f"{number}.png"))
            shard.addfile(tarfile.TarInfo(f"{number}.txt"))
            shard.members = []  # type: ignore[attr-defined]
    return open_source(folder)


@pytest.mark.parametrize("make", [many_lines, many_rows, many_members])
def test_rows_stream(tmp_path: Path, make: Callable[[Path, int], Source]) -> None:
    """Five thousand rows take no more memory than 500 do; held, they would take over 3 MB."""

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        source = make(folder, count)
        tracemalloc.start()
        assert exhaust(source.entries()) >= count // 2
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(5000) < peak(500) + 2**19


def exhaust(iterator: Iterator[object]) -> int:
    return sum(1 for _ in iterator)
