import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import color, exposure

from sfumato.errors import OutputError
from sfumato.pipeline.source import (
    flatten,
    lab_to_rgb,
    match_colors,
    match_histograms,
    read_picture,
    resize,
    rgb_to_lab,
    source_size,
)
from sfumato.types import ResizeMode


def colours(width: int = 24, height: int = 16, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def ramp(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "HSV", "CMYK", "I", "I;16", "F"])
def test_every_kind_of_picture_becomes_rgb(mode: str) -> None:
    level = 255 if mode == "1" else 200
    deep = Image.fromarray(np.full((5, 9), level * 257, np.uint16))
    image = (deep if mode.startswith("I") else Image.new("L", (9, 5), level)).convert(mode)
    read = read_picture(image)
    assert (read.mode, read.size) == ("RGB", (9, 5))
    assert np.abs(np.asarray(read).astype(int) - level).max() <= (2 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparency_is_kept(mode: str) -> None:
    read = read_picture(Image.new("RGBA", (4, 4), (90, 90, 90, 128)).convert(mode))
    assert read.mode == "RGBA"
    assert read.getpixel((0, 0))[3] == 128  # type: ignore[index]


def test_a_transparent_colour_of_a_palette_is_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png", transparency=0)
    read = read_picture(tmp_path / "x.png")
    assert read.mode == "RGBA"
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30, 0), (200, 100, 50, 255)]


def test_sixteen_bits_in_a_file_are_scaled_to_eight(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535, 32768]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.asarray(read_picture(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 1, 255, 128]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_pictures_stand_upright(tmp_path: Path, orientation: int, file_format: str) -> None:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = ramp(32, 16)
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x"
    stored.save(path, format=file_format, exif=exif, **({} if file_format == "PNG" else {"quality": 95}))
    with Image.open(path) as opened:
        for read in (read_picture(path), read_picture(opened)):
            assert read.size == upright.size
            off = np.abs(np.asarray(read).astype(int) - np.asarray(upright))
            assert off.mean() < 6  # of compression; any other orientation is off by 40 and more


def test_a_broken_exif_block_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp(16, 16).save(path, exif=exif)
    whole = path.read_bytes()
    start = whole.index(b"Exif\0\0") + 6
    for place in range(start, start + 26):
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            read_picture(path)
        except OutputError as error:
            assert "\n" not in str(error)  # noqa: PT017  # most are read as if there were none


def huge(side: int) -> bytes:
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def encoded(file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    colours().save(buffer, format=file_format, **options)
    return buffer.getvalue()


BAD = {
    "zero bytes": (b"", "not a PNG"),
    "not a picture": (b"a letter to a friend", "not a PNG"),
    "truncated png": (encoded("PNG")[:-200], "x.png"),
    "truncated jpeg": (encoded("JPEG")[:-200], "truncated"),
    "50,000 × 50,000": (huge(50_000), "pixels"),
    "gif": (encoded("GIF"), "not a PNG"),
    "animated png": (encoded("PNG", save_all=True, append_images=[colours(seed=1)]), "animated, 2 frames"),
    "animated webp": (encoded("WEBP", save_all=True, append_images=[colours(seed=1)]), "animated, 2 frames"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(OutputError, match=message) as refusal:
        read_picture(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_background_shows_where_a_picture_is_transparent() -> None:
    image = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    image.putpixel((2, 0), (200, 0, 0, 128))
    flat = flatten(image, "#0000ff")
    assert flat.mode == "RGB"
    assert [flat.getpixel((x, 0)) for x in range(3)] == [(200, 0, 0), (0, 0, 255), (100, 0, 127)]


@pytest.mark.parametrize(
    ("size", "expected"), [((512, 768), (512, 768)), ((519, 776), (512, 776)), ((1, 7), (8, 8))]
)
def test_sizes_are_rounded_down_to_latents(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert source_size(Image.new("RGB", size)) == expected


MODES: tuple[ResizeMode, ...] = (
    "Just resize",
    "Crop and resize",
    "Resize and fill",
    "Just resize (latent upscale)",
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("size", [(64, 32), (32, 64), (8, 8), (1, 1), (200, 1), (1, 200)])
def test_every_mode_gives_the_size_that_is_asked(mode: ResizeMode, kind: str, size: tuple[int, int]) -> None:
    resized = resize(ramp(*size).convert(kind), 48, 40, mode)
    assert (resized.size, resized.mode) == ((48, 40), kind)


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_the_right_size_is_left_as_it_is(mode: ResizeMode) -> None:
    assert resize(colours(), 24, 16, mode).tobytes() == colours().tobytes()


def test_cropping_keeps_the_middle() -> None:
    wide = ramp(128, 32)
    middle = wide.crop((48, 0, 80, 32))
    assert np.array_equal(resize(wide, 32, 32, "Crop and resize"), middle)


@pytest.mark.parametrize("turned", [False, True])
def test_filling_draws_the_edges_out(turned: bool) -> None:
    wide = colours(32, 16)
    filled = np.asarray(resize(wide, 32, 40, "Resize and fill"))
    if turned:
        filled = np.asarray(
            resize(wide.transpose(Image.Transpose.TRANSPOSE), 40, 32, "Resize and fill")
        ).transpose(1, 0, 2)
    inside = np.asarray(wide)
    assert np.array_equal(filled[12:28], inside)
    assert (filled[:12] == inside[:1]).all()
    assert (filled[28:] == inside[-1:]).all()


def test_lab_agrees_with_scikit_image() -> None:
    rgb = np.random.default_rng(0).random((40, 50, 3))
    lab = rgb_to_lab(rgb)
    # scikit-image keeps three more digits of the white point: 1e-3 of 100
    np.testing.assert_allclose(lab, color.rgb2lab(rgb), atol=1e-2)
    np.testing.assert_allclose(lab_to_rgb(lab), rgb, atol=1e-4)


def test_histograms_agree_with_scikit_image() -> None:
    rng = np.random.default_rng(0)
    values, reference = rng.normal(size=(20, 30, 3)), rng.gamma(2, size=(17, 11, 3))
    expected = exposure.match_histograms(values, reference, channel_axis=-1)
    np.testing.assert_allclose(match_histograms(values, reference), expected, atol=1e-12)


def test_colours_come_from_the_reference_and_brightness_stays() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(60, 190, (32, 32, 3), dtype=np.uint8))
    blue = np.asarray(image).astype(float) * (0.4, 0.6, 1.2)
    reference = Image.fromarray(blue.clip(0, 255).astype(np.uint8))
    matched = match_colors(image, reference)

    def hue(picture: Image.Image) -> np.ndarray:
        return rgb_to_lab(np.asarray(picture) / 255)[..., 1:].mean((0, 1))

    weights = np.array([0.3, 0.59, 0.11])
    luminosity = [np.asarray(picture) @ weights for picture in (image, matched)]
    assert np.abs(luminosity[0] - luminosity[1]).max() <= 1  # rounding to 8 bits
    assert np.abs(hue(matched) - hue(reference)).max() < 6 < np.abs(hue(image) - hue(reference)).max()


def test_colours_matched_to_themselves_stay() -> None:
    off = np.abs(np.asarray(match_colors(colours(), colours())).astype(int) - np.asarray(colours()))
    assert off.max() <= 1  # rounding to 8 bits
