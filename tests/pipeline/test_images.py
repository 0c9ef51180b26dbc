import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sd_parsers import ParserManager

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import images, metadata
from sfumato.types import Canvas, Prompt, Request, Sampling


def picture(width: int = 16, height: int = 8, seed: int = 0) -> Image.Image:
    return images.to_image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("file_format", images.FORMATS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.sampled_from(["é", "猫 🐈‍⬛", "a\nb, c: d", "\u202e"]))
def test_parameters_come_back_from_every_format(tmp_path: Path, file_format: str, text: str) -> None:
    request = Request(prompt=Prompt(text=text), canvas=Canvas(width=16, height=8, seed=7))
    path = images.save(picture(), tmp_path, "7", metadata.write(request), file_format)
    found = images.read_infotext(path)
    assert found is not None
    assert metadata.read(found) == request


@pytest.mark.parametrize("file_format", images.FORMATS)
def test_sd_parsers_reads_every_format(tmp_path: Path, file_format: str) -> None:
    request = Request(prompt=Prompt(text="a cat, ü"), sampling=Sampling(schedule="Karras"))
    path = images.save(picture(), tmp_path, "7", metadata.write(request), file_format)
    info = ParserManager().parse(path)
    assert info is not None
    assert [prompt.value for prompt in info.prompts] == ["a cat, ü"]


def test_png_is_lossless(tmp_path: Path) -> None:
    path = images.save(picture(), tmp_path, "7", "x")
    assert images.open_image(path).tobytes() == picture().tobytes()


def test_latin_text_is_plain_and_other_text_international(tmp_path: Path) -> None:
    assert b"tEXtparameters\0caf\xe9" in images.save(picture(), tmp_path, "1", "café").read_bytes()
    assert b"iTXtparameters" in images.save(picture(), tmp_path, "1", "猫").read_bytes()


def test_names_count_up_and_hold_the_label(tmp_path: Path) -> None:
    (tmp_path / "00041-x.webp").touch()
    (tmp_path / "notes.txt").touch()
    paths = [images.save(picture(), tmp_path, label, "", "png") for label in ("7", "../e\nvil", "grid")]
    assert [path.name for path in paths] == ["00042-7.png", "00043-_e_vil.png", "00044-grid.png"]


def test_a_taken_name_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "00001-7.png").write_bytes(b"precious")
    monkeypatch.setattr(images, "_next_number", lambda folder: 1)  # as if another process had just saved
    assert images.save(picture(), tmp_path, "7", "").name == "00002-7.png"
    assert (tmp_path / "00001-7.png").read_bytes() == b"precious"


def test_without_hard_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(images, "_next_number", lambda folder: 1)
    (tmp_path / "00001-7.png").write_bytes(b"precious")
    images.save(picture(), tmp_path, "7", "")
    assert left(tmp_path) == ["00001-7.png", "00002-7.png"]
    assert (tmp_path / "00001-7.png").read_bytes() == b"precious"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("where", ["fsync", "link"])
def test_a_stopped_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, where: str
) -> None:
    def fail(*args: object) -> None:
        raise stop

    monkeypatch.setattr(os, where, fail)
    with pytest.raises((KeyboardInterrupt, OutputError)) as caught:
        images.save(picture(), tmp_path, "7", "")
    assert left(tmp_path) == []
    assert isinstance(caught.value, KeyboardInterrupt) or "no space left" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for check in (images.check_folder, lambda folder: images.save(picture(), folder, "7", "")):
        with pytest.raises(OutputError, match="file"):
            check(tmp_path / "file" / "out")
    images.check_folder(tmp_path / "new" / "out")
    assert left(tmp_path) == ["file"]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    assert images.save(picture(), tmp_path / "new" / "out", "7", "").is_file()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("gif", 8, 8, 0), "png, jpg, webp"),
        (("webp", 16384, 8, 0), "16383"),
        (("jpg", 8, 8, 40_000), "png or webp"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_the_work(
    arguments: tuple[str, int, int, int], named: str
) -> None:
    with pytest.raises(RequestError, match=named):
        images.check_format(*arguments)


def test_the_longest_allowed_text_fits_a_jpg(tmp_path: Path) -> None:
    images.check_format("jpg", 8, 8, images.MAX_TEXT_CHARS)
    images.save(picture(), tmp_path, "7", "x" * (images.MAX_TEXT_CHARS + 2000), "jpg")


def test_a_grid_holds_every_picture_in_reading_order() -> None:
    tiles = [picture(seed=k) for k in range(5)]
    sheet = images.grid(tiles)
    assert sheet.size == (3 * 16, 2 * 8)
    for k, tile in enumerate(tiles):
        x, y = k % 3 * 16, k // 3 * 8
        assert sheet.crop((x, y, x + 16, y + 8)).tobytes() == tile.tobytes()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


@pytest.mark.parametrize("side", [12_000, 50_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(header(side, side), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))
    with pytest.raises(OutputError, match="pixels"):
        images.open_image(path)


def test_text_that_inflates_without_end_is_refused(tmp_path: Path) -> None:
    bomb = b"parameters\0\0" + zlib.compress(b"a" * 2**26, 9)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(header(8, 8), (b"zTXt", bomb), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))
    with pytest.raises(OutputError):
        images.read_infotext(path)


@pytest.mark.parametrize("name", ["gif", "bmp", "tiff"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    picture().save(tmp_path / "x.png", format=name)
    with pytest.raises(OutputError, match="not a PNG, JPEG or WebP"):
        images.read_infotext(tmp_path / "x.png")


@pytest.mark.parametrize("file_format", images.FORMATS)
def test_damaged_files_never_raise_anything_else(tmp_path: Path, file_format: str) -> None:
    whole = images.save(picture(), tmp_path, "7", "some text", file_format).read_bytes()
    path = tmp_path / "broken"
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        for read in (images.read_infotext, images.open_image):
            try:
                read(path)
            except OutputError as error:
                assert "\n" not in str(error)  # noqa: PT017  # most mutations do raise, some do not


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(OutputError, match=str(path)):
            images.read_infotext(path)


def test_comments_of_other_programs_are_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    for data, expected in [
        (b"UNICODE\0" + "a cat".encode("utf-16-le"), "a cat"),
        (b"UNICODE\0" + "a cat".encode("utf-16-be"), "a cat"),
        (b"ASCII\0\0\0a cat", "a cat"),
        (b"", None),
    ]:
        exif.get_ifd(0x8769)[0x9286] = data
        picture().save(tmp_path / "x.jpg", exif=exif)
        assert images.read_infotext(tmp_path / "x.jpg") == expected


def test_text_behind_the_pixels_is_found(tmp_path: Path) -> None:
    rows = zlib.compress(b"\0" * (1 + 8 * 3) * 8)
    path = tmp_path / "x.png"
    path.write_bytes(png(header(8, 8), (b"IDAT", rows), (b"tEXt", b"parameters\0late"), (b"IEND", b"")))
    assert images.read_infotext(path) == "late"
