"""A data set looked through: every bad file named, and said what becomes of it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sfumato.errors import TrainingError
from sfumato.train.buckets import usual_buckets
from sfumato.train.caches import ByteStore
from sfumato.train.catalogue import Catalogue, Picture
from sfumato.train.dataset import Found, find_pictures
from sfumato.train.entries import WHAT_HAPPENS, Finding
from sfumato.train.picture_config import PicturesConfig
from sfumato.train.pictures import read_colours


def png(seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB", **options: object) -> bytes:
    shape = (size[1], size[0], {"RGB": 3, "RGBA": 4, "L": 1}[mode])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def looked(folder: Path, **fields: object) -> Found:
    config = PicturesConfig.model_validate({"source": folder, "resolution": 64, **fields})
    found = find_pictures(config)
    for _ in found.look():
        pass
    return found


def test_every_bad_file_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("comment", "another file of the same pixels")
    files = {
        "good.png": png(0),
        "good.txt": b"a good one",
        "empty.png": b"",
        "text.png": b"this is no picture at all",
        "cut.png": png(1)[:-300],
        "small.png": png(2, (31, 200)),
        "twin.png": png(0, pnginfo=said),
        "silent.png": png(3),
        "blank.png": png(4),
        "blank.txt": b" \n\n",
        "latin.png": png(5),
        "latin.txt": "Bär".encode("latin-1"),
        "long.png": png(6),
        "long.txt": b"a " * 2**19,
        "bom.png": png(7),
        "bom.txt": b"\xef\xbb\xbfa mark",
        "glass.png": png(8, mode="RGBA"),
        "glass.txt": b"a glass",
        "banner.png": png(9, (600, 64)),
        "banner.txt": b"a banner",
        "alone.txt": b"nothing to say it of",
        "old.bmp": b"BM",
        "huge.png": bytes.fromhex("89504e470d0a1a0a0000000d49484452 0000c350 0000c350 08 00 00 00 00")
        + bytes(40),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = looked(tmp_path)
    assert {each.name: each.kind for each in found.catalogue.findings()} == {
        "alone.txt": "caption alone",
        "banner.png": "much cropped",
        "blank.png": "empty caption",
        "cut.png": "unreadable",
        "empty.png": "empty file",
        "glass.png": "transparent",
        "huge.png": "unreadable",
        "latin.png": "bad caption",
        "long.png": "bad caption",
        "old.bmp": "other format",
        "silent.png": "no caption",
        "small.png": "too small",
        "text.png": "unreadable",
        "twin.png": "duplicate",
    }
    assert {each.name: each.caption for each in found.catalogue.pictures()} == {
        "banner.png": "a banner",
        "blank.png": "",
        "bom.png": "a mark",
        "glass.png": "a glass",
        "good.png": "a good one",
        "silent.png": "",
    }
    assert found.catalogue.left_out == 9
    for each in found.catalogue.findings():
        assert "\n" not in str(each)
        assert str(each).startswith(f"{each.name}: {each.kind}")
        assert str(each).endswith(WHAT_HAPPENS[each.kind])
    assert "pixels of good.png" in str(next(f for f in found.catalogue.findings() if f.kind == "duplicate"))


def test_rows_that_name_no_file_or_one_outside_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    names = ["a.png", "b.png", "../a.png", "x\0"]
    lines = [json.dumps({"file_name": name, "text": "t"}) for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    kinds = [each.kind for each in looked(tmp_path).catalogue.findings()]
    assert kinds == ["missing", "outside", "outside"]


def test_a_caption_that_fills_more_tokens_than_are_read_leaves_its_picture_out(tmp_path: Path) -> None:
    for number, words in enumerate([225, 226, 9000]):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        (tmp_path / f"{number}.txt").write_text("cat " * words, "utf-8")
    found = looked(tmp_path)
    assert [(each.name, each.kind) for each in found.catalogue.findings()] == [
        ("1.png", "long caption"),
        ("2.png", "long caption"),
    ]
    assert "4 rows of 75 tokens, at most 3" in str(next(found.catalogue.findings()))
    with pytest.raises(TrainingError, match="long caption"):
        looked(tmp_path, captions={"suffix": "dog"})


def test_a_full_disk_for_temporary_files_is_said(tmp_path: Path) -> None:
    catalogue = Catalogue(usual_buckets(64))
    catalogue.database.execute("PRAGMA max_page_count = 8")
    finding = Finding(name="a name " * 10_000, kind="missing")
    with pytest.raises(TrainingError, match="make room"):
        catalogue.note(finding)


def test_words_stand_in_for_captions(tmp_path: Path) -> None:
    (tmp_path / "2_sks cat").mkdir()
    (tmp_path / "2_sks cat" / "a.png").write_bytes(png(0))
    (only,) = looked(tmp_path, repeats=3).catalogue.pictures()
    assert (only.caption, only.repeats) == ("sks cat", 6)
    (only,) = looked(tmp_path, prompt="a photo of sks").catalogue.pictures()
    assert only.caption == "a photo of sks"


def test_masks_that_do_not_fit_leave_their_picture_out(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for number, mask in enumerate([png(9, mode="L"), png(9, (64, 32), "L"), b"", b"no picture"]):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        (tmp_path / "m" / f"{number}.png").write_bytes(mask)
    found = looked(tmp_path, masks="m").catalogue
    assert [each.detail for each in found.findings() if each.kind == "bad mask"] == [
        "64×32, the picture is 64×64",
        "empty file: 0 bytes",
        "unreadable: not a PNG, JPEG or WebP picture",
    ]
    assert [each.mask for each in found.pictures()] == ["m/0.png"]


@pytest.mark.parametrize("content", [{}, {"a.txt": b"x"}, {"a.png": b""}, {"sub/a.png": png(0)}])
def test_a_set_without_pictures_is_refused_and_told_what_is_there(
    tmp_path: Path, content: dict[str, bytes]
) -> None:
    for name, data in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TrainingError, match=r"no picture that can be used: ") as refused:
        looked(tmp_path)
    assert all(name.split("/")[0] in str(refused.value) for name in content)


def test_regularisation_pictures_are_found_apart(tmp_path: Path) -> None:
    for folder in ("own", "class"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(0))  # the same pixels, and no duplicate
    found = looked(tmp_path / "own", regularisation=tmp_path / "class", prior_prompt="a dog")
    assert [(each.prior, each.caption) for each in found.catalogue.pictures()] == [
        (False, ""),
        (True, "a dog"),
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(TrainingError, match="none has no picture"):
        looked(tmp_path / "own", regularisation=tmp_path / "none")


def test_hashes_tell_what_has_changed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png(ord(name)))
        (tmp_path / f"{name}.txt").write_text(name, "utf-8")
    before = looked(tmp_path).catalogue.hashes()
    assert before == looked(tmp_path).catalogue.hashes()

    def changed() -> set[str]:
        now = looked(tmp_path).catalogue.hashes()
        return {name for name in before if before[name] != now[name]}

    (tmp_path / "b.txt").write_text("c", "utf-8")
    assert changed() == {"captions"}
    (tmp_path / "b.txt").write_text("b", "utf-8")
    (tmp_path / "b.png").write_bytes(png(99))
    assert changed() == {"pictures"}


def test_names_of_any_bytes_are_found_again(tmp_path: Path) -> None:
    import os

    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(name, "wb") as file:
        file.write(png(0))
    found = looked(tmp_path)
    (only,) = found.catalogue.pictures()
    assert found.colours(only).size == (64, 64)


_MILLION = """
import resource, sys
from sfumato.train.buckets import usual_buckets
from sfumato.train.caches import ByteStore
from sfumato.train.catalogue import Catalogue, Picture
catalogue = Catalogue(usual_buckets(512))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number in range(int(sys.argv[1])):
    catalogue.add(Picture(
        name=f"folder/picture {number}.jpg", address=f"folder/picture {number}.jpg",
        digest=number.to_bytes(16, "little"), width=400 + number % 300, height=500,
        caption=f"a caption of about as many words as the captions of such sets have, number {number}",
    ))
catalogue.hashes()
sizes = catalogue.column("bucket_width")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in Linux's units")
def test_rows_take_the_memory_of_the_pages_that_are_kept() -> None:
    """As objects 30,000 rows would take over 18 MB; a page cache of 2 MiB, numbers and slack take 8."""
    done = subprocess.run(
        [sys.executable, "-c", _MILLION, "30000"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 8 * 2**20


@pytest.mark.parametrize("masks", ["", "m"])
def test_unchanged_files_are_not_decoded_again_and_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masks: str
) -> None:
    folder = tmp_path / "set"
    (folder / "m").mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number, mode="RGBA" if number else "RGB"))
        (folder / "m" / f"{number}.png").write_bytes(png(9 + number, mode="L"))
    (folder / "broken.png").write_bytes(b"x")
    decoded: list[int] = []

    def counting(data: bytes) -> Image.Image:
        decoded.append(len(data))
        return read_colours(data)

    monkeypatch.setattr("sfumato.train.catalogue.read_colours", counting)

    def look() -> tuple[list[Picture], list[Finding]]:
        config = PicturesConfig(source=folder, resolution=64, masks=masks)
        found = find_pictures(config)
        for _ in found.look(seen=ByteStore(tmp_path / "seen", durable=False)):
            pass
        return list(found.catalogue.pictures()), list(found.catalogue.findings())

    first = look()
    assert len(decoded) == 4
    assert look() == first
    assert len(decoded) == 5  # what was broken is looked at again
    (folder / "1.png").write_bytes(png(1, (65, 64), "RGBA"))
    if masks:
        (folder / "m" / "1.png").write_bytes(png(1, (65, 64), "L"))
    changed = look()
    assert len(decoded) == 7
    assert changed[0][1] != first[0][1]
    assert changed[0][::2] == first[0][::2]
    if masks:
        (folder / "m" / "2.png").write_bytes(png(77, (64, 64), "L"))
        assert look()[0][2].mask_digest != first[0][2].mask_digest
        assert len(decoded) == 9


def test_pictures_are_numbered_in_order(tmp_path: Path) -> None:
    catalogue = Catalogue(usual_buckets(64))
    for number in range(5):
        picture = Picture(
            name=str(number), address="x", digest=bytes([number]), width=64, height=64, caption=""
        )
        assert catalogue.add(picture) is None
        assert catalogue.add(picture) == str(number)
    assert [catalogue.picture(row).name for row in range(len(catalogue))] == list("01234")
    assert catalogue.shapes() == {(64, 64): (5, 5)}
