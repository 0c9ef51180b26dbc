"""Pictures as files: written whole or not at all, never over another, with their parameters inside.

PNG carries the infotext in the text chunk `parameters` (iTXt where Latin-1 cannot hold it), JPEG and WebP in
the EXIF field UserComment. Reading trusts nothing: three formats only, and sizes checked before decoding.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import secrets
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline.filenames import safe_name

MAX_PIXELS = 2**27  # decoded at most; a header that announces more is refused
MAX_TEXT_CHARS = 30_000  # of infotext in a JPEG, whose EXIF block ends at 64 KiB in UTF-16

_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_MAKE_AND_MODEL = (0x010F, 0x0110)
_UNICODE = b"UNICODE\0"
_READABLE = ("PNG", "JPEG", "WEBP")
_SUFFIXES: Mapping[str, tuple[str, int]] = MappingProxyType(  # name: Pillow's format, longest side in pixels
    {"png": ("PNG", 2**31 - 1), "jpg": ("JPEG", 65500), "webp": ("WEBP", 16383)}
)
FORMATS = tuple(_SUFFIXES)
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")  # of the files that are read
_NUMBERED = re.compile(r"(\d{5,12})[-.]")
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES)


def check_format(file_format: str, width: int, height: int, text_chars: int) -> None:
    """Refuse before any work what the file format could not hold in the end.

    Raises RequestError for an unknown format, a side too long for it, or more text than a JPEG can carry.
    """
    if file_format not in _SUFFIXES:
        raise RequestError(f"format {file_format!r} is not one of {', '.join(FORMATS)}")
    longest = _SUFFIXES[file_format][1]
    if max(width, height) > longest:
        raise RequestError(
            f"{width}×{height} is beyond the {longest} pixels of a {file_format} side; use png"
        )
    if file_format == "jpg" and text_chars > MAX_TEXT_CHARS:
        raise RequestError(
            f"prompts of {text_chars:,} characters do not fit a jpg ({MAX_TEXT_CHARS:,}); use png or webp"
        )


def check_folder(folder: Path) -> None:
    """See, without writing, that pictures can be written into `folder`, which need not exist yet.

    Raises OutputError: no permission, or a file in the way.
    """
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise OutputError(f"{folder}: {existing} is a file; choose another folder with --output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: no permission to write here; choose another folder with --output")


def save(
    image: Image.Image, folder: Path, label: str, infotext: str, file_format: str = "png", extras: str = ""
) -> Path:
    """Write `image` as the next number of `folder`: `00001-LABEL.png`, or `00001.png` where it is empty.

    The folder is made if it is missing. The file appears under its name complete or not at all and replaces
    no other, even when several processes write into one folder. `extras` says what was done to a finished
    picture: a text of its own in a PNG; in a JPEG or WebP it stands only where there is no infotext. Raises
    OutputError: disk full, folder unwritable.
    """
    return save_encoded(
        lambda file: _encode(image, file, infotext, file_format, extras), folder, label, suffix=file_format
    )


def save_as(
    image: Image.Image, path: Path, infotext: str, file_format: str = "png", extras: str = ""
) -> None:
    """Write `image` under this very name, in place of what has it, complete or not at all.

    Raises OutputError: disk full, folder unwritable.
    """
    save_encoded_as(lambda file: _encode(image, file, infotext, file_format, extras), path)


def save_encoded_as(encode: Callable[[BinaryIO], None], path: Path) -> None:
    """Write whatever `encode` puts into a file under this very name; see `save_as`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_temporary(path.parent, encode).replace(path)
    except OSError as error:
        raise _output_error(path.parent, error) from error


def save_encoded(encode: Callable[[BinaryIO], None], folder: Path, label: str, suffix: str) -> Path:
    """Write whatever `encode` puts into a file as the next number of `folder`; see `save`."""
    safe = safe_name(label)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = _next_number(folder)
        temporary = _write_temporary(folder, encode)
        try:
            while True:
                path = folder / f"{number:05d}{'-' if safe else ''}{safe}.{suffix}"
                try:
                    _publish(temporary, path)
                    return path
                except FileExistsError:
                    number += 1
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise _output_error(folder, error) from error


def encoded(image: Image.Image, infotext: str, file_format: str, extras: str = "") -> bytes:
    """`image` as the bytes of a file, with its texts as `save` writes them."""
    buffer = io.BytesIO()
    _encode(image, buffer, infotext, file_format, extras)
    return buffer.getvalue()


def open_image(path: Path | bytes) -> Image.Image:
    """Decode a PNG, JPEG or WebP file (or its bytes), its size checked first, and turn it upright.

    Raises OutputError: no such file, no picture, damaged, animated, more than `MAX_PIXELS`.
    """
    with _reading(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format in ("PNG", "WEBP"):  # in a JPEG a second one is a preview or depth
            raise OutputError(
                f"{_name(path)}: animated, {frames} frames; save the one that is meant as a PNG"
            )
        image.load()
        return ImageOps.exif_transpose(image)


def size_of(path: Path | bytes) -> tuple[int, int]:
    """Width and height, as the header of a picture's file (or its bytes) tells; nothing is decoded.

    Raises OutputError: no such file, no picture, damaged, more than `MAX_PIXELS`.
    """
    with _reading(path) as image:
        return image.width, image.height


def small_webp(image: Image.Image, side: int) -> bytes:
    """A small copy as a WebP file.

    Args:
        image: any; its own pixels are shrunk, too.
        side: the longer one at most, in pixels.
    """
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.convert("RGBA" if image.has_transparency_data else "RGB").save(buffer, format="WEBP", quality=80)
    return buffer.getvalue()


def first_frame(path: Path) -> Image.Image:
    """Decode a picture, or the first one of a moving picture, GIF among them, in RGB or RGBA.

    Raises OutputError: no such file, no picture, damaged, more than `MAX_PIXELS`.
    """
    with _reading(path, (*_READABLE, "GIF")) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGB", "RGBA"):
            return upright
        return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def read_infotext(path: Path) -> str | None:
    """The generation parameters in a picture's file, None if it carries none.

    Raises OutputError: no such file, no picture, damaged, text beyond Pillow's limits.
    """
    return read_texts(path).get("parameters")


def read_texts(path: Path | bytes) -> Mapping[str, str]:
    """Every text in a picture's file (or its bytes), by key: PNG text chunks, or what EXIF has for them.

    A user comment counts as `parameters`. Raises OutputError as `read_infotext` does.
    """
    with _reading(path) as image:
        if "parameters" not in image.info and image.format == "PNG":
            image.load()  # text may stand behind the pixels
        texts = {str(key): str(text) for key, text in image.info.items() if isinstance(text, str)}
        exif = image.getexif()
        comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT)
        fields = [exif.get(tag) for tag in _MAKE_AND_MODEL]
    for field in fields:  # ComfyUI's WebP: "prompt:{…}"
        key, colon, value = field.partition(":") if isinstance(field, str) else ("", "", "")
        if colon and value.startswith("{"):
            texts.setdefault(key, value)
    if "parameters" not in texts and isinstance(comment, bytes):
        text = _comment_text(comment)
        texts |= {} if text is None else {"parameters": text}
    return texts


def to_image(pixels: Any) -> Image.Image:
    """8-bit picture from an (H,W,3) uint8 array."""
    return Image.fromarray(pixels)


def grid(images: Sequence[Image.Image]) -> Image.Image:
    """All pictures of one size in one: round(√n) rows, filled row by row, the rest black."""
    assert images, "a grid of nothing"
    width, height = images[0].size
    rows = max(1, round(math.sqrt(len(images))))
    columns = math.ceil(len(images) / rows)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for place, image in enumerate(images):
        sheet.paste(image, (place % columns * width, place // columns * height))
    return sheet


def _encode(image: Image.Image, file: BinaryIO, infotext: str, file_format: str, extras: str) -> None:
    pillow_format = _SUFFIXES[file_format][0]
    if pillow_format == "PNG":
        text = PngInfo()
        if infotext:
            text.add_text("parameters", infotext)
        if extras:
            text.add_text("extras", extras)
        image.save(file, format="PNG", pnginfo=text)
        return
    exif = Image.Exif()
    infotext = infotext or extras
    if infotext:
        exif.endian = ">"  # the comment is big-endian for every reader only if the block is
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = _UNICODE + infotext.encode("utf-16-be")
    image.save(file, format=pillow_format, quality=92, exif=exif)


def _comment_text(comment: bytes) -> str | None:
    """UserComment as text: UTF-16 of the byte order that gives the fewer exotic characters, or UTF-8."""
    if not comment.startswith(_UNICODE):
        return comment.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace").strip("\0") or None
    data = comment.removeprefix(_UNICODE)
    data = data[: len(data) // 2 * 2]
    big_endian = data[0::2].count(0) >= data[1::2].count(0)
    return data.decode("utf-16-be" if big_endian else "utf-16-le", "replace").removeprefix("\ufeff") or None


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else "the picture that was sent"


@contextmanager
def _reading(source: Path | bytes, formats: tuple[str, ...] = _READABLE) -> Iterator[Image.Image]:
    """Open a picture, its pixels not yet decoded, and turn whatever is wrong with it into OutputError.

    What Pillow warns of (its own limit on pixels, which ours replaces; odd EXIF fields) is passed over.
    """
    path = _name(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = source if isinstance(source, Path) else io.BytesIO(source)
            with Image.open(file, formats=formats) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise OutputError(
                        f"{path}: {width}×{height} is more than the {MAX_PIXELS:,} pixels that are read"
                    )
                yield image
    except OutputError:
        raise
    except UnidentifiedImageError as error:
        raise OutputError(f"{path}: not a PNG, JPEG or WebP picture") from error
    except Image.DecompressionBombError as error:
        raise OutputError(f"{path}: more than the {MAX_PIXELS:,} pixels that are read") from error
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, SyntaxError, KeyError, TypeError, struct.error) as error:
        raise OutputError(f"{path}: the picture is damaged: {error}") from error


def _next_number(folder: Path) -> int:
    with os.scandir(folder) as entries:
        numbers = [int(match[1]) for entry in entries if (match := _NUMBERED.match(entry.name))]
    return max(numbers, default=0) + 1


def _write_temporary(folder: Path, encode: Callable[[BinaryIO], None]) -> Path:
    """A complete, flushed file under a hidden name in `folder`; none is left if anything stops it."""
    path = folder / f".sfumato-{secrets.token_hex(8)}.part"
    with ExitStack() as undo:  # Ctrl-C included: nothing partial is left behind
        undo.callback(path.unlink, missing_ok=True)
        with path.open("xb") as file:
            encode(file)
            file.flush()
            os.fsync(file.fileno())
        undo.pop_all()
    return path


def _publish(temporary: Path, path: Path) -> None:
    """Give the file its name, atomically, unless the name is taken (FileExistsError)."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        path.open("xb").close()  # reserves the name where the file system knows no hard links
        temporary.replace(path)


def _output_error(folder: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(
            f"{folder}: no space left on the disk; free some or choose another folder (--output)"
        )
    return OutputError(
        f"{folder}: cannot write a picture here: {error.strerror or error}; try another --output"
    )
