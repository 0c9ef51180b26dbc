"""What the gallery takes in: a job's pictures, and files that other programs have made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sfumato.app.codec import Inputs, encode
from sfumato.app.gallery_table import Entry
from sfumato.app.gallery_vectors import describe
from sfumato.app.jobs import Job, Made
from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import dialects, images, infotext, metadata
from sfumato.pipeline.dialects import Origin
from sfumato.pipeline.infotext import EXACT_NEGATIVE, EXACT_PROMPT, Infotext
from sfumato.types import MAX_SEED, Picture, Request

MARKS = frozenset(
    ("parameters", "prompt", "sd-metadata", "invokeai_metadata", "Dream", "Comment")
)  # of parameters
MAX_SIDECAR = 2**20  # bytes of a text file beside a picture


def of_job(job: Job, made: Made, image: Image.Image, request: Request | None, inputs: Inputs) -> Entry:
    """A picture that a job has made.

    Args:
        job: that made it.
        made: its file.
        image: the picture.
        request: of this very picture; None = what its infotext tells.
        inputs: where the pictures of requests are.
    """
    info = _parsed(made.infotext)
    prompt, negative = info.prompts()
    return Entry(
        owner=job.owner,
        file=made.file,
        sha256=made.sha256,
        created=time.time(),
        width=made.width,
        height=made.height,
        seed=made.seed,
        model=info.text("Model") or "",
        sampler=info.text("Sampler") or "",
        program=info.text("Version") or "",
        job=job.id,
        prompt=prompt,
        negative=negative,
        infotext=made.infotext,
        rest=_rest(info),
        request=_written(request or _told(info), inputs),
        vector=describe(image),
    )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A file that was read."""

    image: Image.Image
    origin: Origin | None  # None = it does not say how it was made
    note: str  # what could not be read of it; "" = nothing


def read_file(data: bytes, path: Path) -> Reading:
    """A picture and its parameters, from the text file beside it where it carries none.

    Args:
        data: the file's bytes.
        path: where it is.

    Raises:
        OutputError: no picture, damaged, animated, too large.
    """
    image, texts = images.open_image(data), images.read_texts(data)
    try:
        return Reading(image=image, origin=dialects.origin(texts), note="")
    except OutputError as error:
        note = "" if not set(texts) & MARKS else str(error)
    beside = path.with_suffix(".txt")
    try:
        if beside.is_file() and beside.stat().st_size <= MAX_SIDECAR:
            text = beside.read_text("utf-8-sig", errors="replace")
            return Reading(image=image, origin=dialects.origin({"parameters": text}), note="")
    except (OSError, OutputError):
        pass
    return Reading(image=image, origin=None, note=note)


def of_file(reading: Reading, owner: str, file: str, sha256: str, when: float, inputs: Inputs) -> Entry:
    """A file that was read.

    Args:
        reading: what was read.
        owner: whose it becomes.
        file: its name below the outputs folder.
        sha256: of the file.
        when: it was made, in seconds since 1970, UTC.
        inputs: where the pictures of requests are.
    """
    origin = reading.origin
    info = origin.info if origin else _parsed("")
    prompt, negative = info.prompts()
    return Entry(
        owner=owner,
        file=file,
        sha256=sha256,
        created=when,
        width=reading.image.width,
        height=reading.image.height,
        seed=_seed(info.text("Seed") or ""),
        model=info.text("Model") or "",
        sampler=info.text("Sampler") or "",
        program=origin.program if origin else "",
        prompt=prompt,
        negative=negative,
        infotext=origin.text if origin else "",
        rest=_rest(info),
        request=_written(origin.request if origin else None, inputs),
        vector=describe(reading.image),
    )


def _seed(text: str) -> int | None:
    plain = text.isascii() and text.isdecimal() and len(text) <= 20
    return int(text) if plain and int(text) <= MAX_SEED else None


def _parsed(text: str) -> Infotext:
    try:
        return infotext.parse(text)
    except RequestError:  # longer than is read
        return Infotext(prompt=text, negative="", fields={})


def _rest(info: Infotext) -> str:
    """What else there is to be found by."""
    kept = {key: value for key, value in info.fields.items() if key not in (EXACT_PROMPT, EXACT_NEGATIVE)}
    return "\n".join(f"{key} {value}" for key, value in kept.items())


def _told(info: Infotext) -> Request | None:
    try:
        return metadata.request_of(info) if info.fields else None
    except RequestError:
        return None


def _written(request: Request | None, inputs: Inputs) -> dict[str, dict[str, object]] | None:
    if request is None:
        return None

    def name(picture: Picture) -> str:
        kept = isinstance(picture, Path) and picture.parent == inputs.folder
        return picture.name if kept else inputs.keep(picture)  # type: ignore[union-attr]  # a Path, if kept

    return encode(request, name)
