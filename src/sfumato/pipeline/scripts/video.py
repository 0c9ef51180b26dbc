"""Frames as one moving picture: GIF and WebP by Pillow, MP4 by PyAV where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline.images import save_encoded, save_encoded_as

INSTALL = "pip install 'sfumato[video]'"


def check(file_format: str, fps: float) -> None:
    """Refuse what could not be written in the end.

    Raises RequestError: no such format, MP4 without its library, a speed outside 0.1 to 100 (GIF: 50).
    """
    if file_format not in _ENCODERS:
        raise RequestError(f"format {file_format!r} is not one of {', '.join(_ENCODERS)}")
    if file_format == "mp4" and find_spec("av") is None:
        raise RequestError(f"mp4 needs the library PyAV: {INSTALL}; gif and webp need nothing more")
    most = 50 if file_format == "gif" else 100  # a GIF counts in hundredths of a second
    if not 0.1 <= fps <= most:
        raise RequestError(f"fps={fps:g} is outside 0.1 to {most} frames a second of a {file_format}")


def save(frames: Sequence[Image.Image], fps: float, infotext: str, folder: Path, file_format: str) -> Path:
    """Write frames, which repeat for ever in GIF and WebP, as the next number of a folder.

    Args:
        frames: at least one, all of one size.
        fps: frames a second.
        infotext: goes along as a comment.
        folder: is made if it is missing.
        file_format: "gif", "webp" or "mp4".

    Raises:
        RequestError: see `check`.
        OutputError: the folder cannot be written.
    """
    check(file_format, fps)
    encode = partial(_ENCODERS[file_format], frames, fps, infotext)
    return save_encoded(encode, folder, "frames", file_format)


def save_as(frames: Sequence[Image.Image], fps: float, infotext: str, path: Path, file_format: str) -> None:
    """Write frames under this very name, in place of what has it; see `save`."""
    check(file_format, fps)
    save_encoded_as(partial(_ENCODERS[file_format], frames, fps, infotext), path)


def _gif(frames: Sequence[Image.Image], fps: float, infotext: str, file: BinaryIO) -> None:
    comment = infotext.encode("utf-8")
    first, *others = frames
    first.save(file, "GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0, comment=comment)


def _webp(frames: Sequence[Image.Image], fps: float, infotext: str, file: BinaryIO) -> None:
    first, *others = frames
    exif = Image.Exif()
    exif.endian = ">"  # as for still pictures
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + infotext.encode("utf-16-be")
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=round(1000 / fps),
        loop=0,
        quality=90,
        exif=exif,
    )


def _mp4(frames: Sequence[Image.Image], fps: float, infotext: str, file: BinaryIO) -> None:
    import av

    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = infotext
        stream = container.add_stream("h264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height = (side // 2 * 2 for side in frames[0].size)  # the format halves colours
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "17"}
        for image in frames:
            even = image.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(even)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())


_ENCODERS: Mapping[str, Callable[[Sequence[Image.Image], float, str, BinaryIO], None]] = MappingProxyType(
    {"gif": _gif, "webp": _webp, "mp4": _mp4}
)
