"""`sfumato upscale`, whole: files in, files out, and what each kind of bad file is told."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.cli import run
from sfumato.pipeline.images import read_infotext

PARAMETERS = "a cat\nSteps: 1, Sampler: Euler, CFG scale: 1, Seed: 5, Size: 8x8"


def picture(path: Path, width: int = 12, height: int = 10, mode: str = "RGB", infotext: str = "") -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    text = PngInfo()
    if infotext:
        text.add_text("parameters", infotext)
    Image.fromarray(pixels).convert(mode).save(path, pnginfo=text)
    return path


def header_of(path: Path, side: int) -> Path:
    """A PNG of a few bytes that announces side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


def upscale(*arguments: str | Path) -> int:
    return run(["upscale", *map(str, arguments)])


def test_a_picture_is_enlarged_by_the_packaged_weights(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = picture(home / "cat.png", infotext=PARAMETERS)
    assert upscale(path, "--upscaler", "R-ESRGAN AnimeVideo", "-o", home / "large") == 0
    written = home / "large" / "00001-cat.png"
    assert capsys.readouterr().out == f"{written}\n"
    with Image.open(written) as image:
        assert image.size == (48, 40)
        assert image.info["parameters"] == PARAMETERS
        assert image.info["extras"] == "Postprocess upscale by: 4, Postprocess upscaler: R-ESRGAN AnimeVideo"


@pytest.mark.parametrize("infotext", ["", PARAMETERS])
@pytest.mark.parametrize("file_format", ["jpg", "webp"])
def test_formats_without_text_chunks_keep_the_parameters(file_format: str, infotext: str, home: Path) -> None:
    path = picture(home / "cat.png", mode="RGBA", infotext=infotext)
    assert upscale(path, "--upscaler", "Lanczos", "--scale", 2, "--format", file_format) == 0
    text = read_infotext(home / "outputs" / f"00001-cat.{file_format}")
    assert text == (infotext or "Postprocess upscale by: 2, Postprocess upscaler: Lanczos")


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1", "LA", "RGBA"])
def test_every_kind_of_pixel_is_read(mode: str, home: Path) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    path = home / f"cat.{suffix}"
    if mode == "I;16":
        Image.fromarray(np.full((10, 12), 40_000, np.uint16)).save(path)
    else:
        picture(home / "rgb.png", mode="RGBA")
        with Image.open(home / "rgb.png") as image:
            image.convert(mode).save(path)
        (home / "rgb.png").unlink()
    assert upscale(path, "--upscaler", "Lanczos", "--size", "24x20") == 0
    with Image.open(home / "outputs" / "00001-cat.png") as image:
        assert image.size == (24, 20)
        assert image.mode == ("RGBA" if mode in ("P", "LA", "RGBA") else "RGB")


def test_a_folder_stands_for_its_pictures(home: Path) -> None:
    (home / "in").mkdir()
    for name in ("b.png", "a.png"):
        picture(home / "in" / name)
    (home / "in" / "notes.txt").write_text("no picture")
    assert upscale(home / "in", "--upscaler", "Nearest") == 0
    assert sorted(path.name for path in (home / "outputs").iterdir()) == ["00001-a.png", "00002-b.png"]


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / "bad.png"
    if kind == "text":
        path.write_text("no picture")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        data = picture(path, 64, 64).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif kind == "huge":
        header_of(path, 50_000)
    elif kind == "animated":
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "too large a result":
        picture(path, 3000, 3000)
    return path


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("text", "not a PNG, JPEG or WebP picture"),
        ("empty", "not a PNG, JPEG or WebP picture"),
        ("truncated", "trunc"),
        ("huge", "134,217,728"),
        ("animated", "animated, 2 frames"),
        ("missing", "No such file"),
        ("too large a result", "12000×12000"),
    ],
)
def test_a_bad_file_gets_one_line_and_the_others_go_on(
    kind: str, told: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = bad_file(kind, home), picture(home / "good.png")
    assert upscale(bad, good, "--upscaler", "Lanczos") == 1
    out, err = capsys.readouterr()
    assert out == f"{Path('outputs') / '00001-good.png'}\n"
    assert err.count("\n") == 1
    assert str(bad) in err
    assert told in err


def test_a_single_pixel_can_be_enlarged(home: Path) -> None:
    path = picture(home / "dot.png", 1, 1)
    assert upscale(path, "--upscaler", "R-ESRGAN AnimeVideo", "--scale", 16) == 0
    with Image.open(home / "outputs" / "00001-dot.png") as image:
        assert image.size == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--upscaler", "Lanzcos"], "did you mean Lanczos?"),
        (["--upscaler", "R-ESRGAN 2x+"], "RealESRGAN_x2plus.pth"),
        (["--scale", "0"], "scale=0.0"),
        (["--scale", "2", "--size", "8x8"], "give one or the other"),
        (["--size", "big"], "not of the form"),
        (["--format", "gif"], "'gif' is not one of"),
        (["--upscaler2", "Bicubic"], "no upscaler 'Bicubic'"),
        (["-o", "cat.png"], "is a file"),
    ],
)
def test_what_is_wrong_for_every_picture_is_said_once_and_nothing_is_written(
    arguments: list[str], told: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(home / "cat.png")
    assert upscale("cat.png", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert told in err
    assert [path.name for path in home.iterdir()] == ["cat.png"]


def test_a_checkpoint_in_the_upscalers_place_is_named(
    home: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(home / "cat.png")
    assert upscale("cat.png", "--upscaler", tiny_checkpoint) == 2
    assert "a checkpoint of the family tiny, not an upscaler" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["empty"]])
def test_nothing_to_do_is_said(arguments: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "empty").mkdir()
    assert upscale(*arguments) == 2
    assert "no" in capsys.readouterr().err


def test_the_upscalers_are_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale("--list") == 0
    names = capsys.readouterr().out.splitlines()
    assert names[:3] == ["None", "Lanczos", "Nearest"]
    assert "R-ESRGAN 4x+" in names
