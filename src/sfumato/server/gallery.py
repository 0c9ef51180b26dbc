"""/api/v1/gallery: pictures found, shown, rated, deleted and brought back, each owner's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sfumato.app.gallery_export import KINDS, Form, as_json, export
from sfumato.app.gallery_import import Imported, import_folder
from sfumato.app.gallery_order import Order
from sfumato.app.gallery_table import MAX_PAGE, MAX_RATING, MAX_TAG, MAX_TAGS, Filter, Picture, State
from sfumato.app.gallery_words import Scope
from sfumato.app.settings import shown
from sfumato.errors import RequestError, SfumatoError
from sfumato.server import pictures
from sfumato.server.desk import Here, Owner
from sfumato.server.files import KINDS as PICTURE_KINDS
from sfumato.server.jobs import Reader
from sfumato.server.schemas import Packed

MAX_NUMBER = 2**63 - 1
TITLE = 120  # characters of what a list calls a picture
FOREVER = "private, max-age=31536000, immutable"

router = APIRouter(prefix="/api/v1/gallery", tags=["gallery"])


class Wanted(BaseModel):
    """What pictures are looked for by."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(
        default="", max_length=2000, description='words, "words in a row", -without, beginning*'
    )
    scope: Scope = "all"
    model: str | None = Field(default=None, max_length=300)
    sampler: str | None = Field(default=None, max_length=100)
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    since: float | None = Field(default=None, allow_inf_nan=False, description="seconds since 1970, UTC")
    until: float | None = Field(default=None, allow_inf_nan=False)
    width: int | None = Field(default=None, ge=1, lt=2**31)
    height: int | None = Field(default=None, ge=1, lt=2**31)
    tag: list[Annotated[str, Field(min_length=1, max_length=MAX_TAG)]] = Field(
        default_factory=list, max_length=MAX_TAGS, description="all of them"
    )
    rating: int | None = Field(default=None, ge=0, le=MAX_RATING, description="at least")
    job: str | None = Field(default=None, max_length=64)
    state: State = "there"

    def filter(self) -> Filter:
        """As the engine takes it."""
        names = ("text", "scope", "model", "sampler", "seed", "since", "until", "width", "height")
        values = {name: getattr(self, name) for name in (*names, "rating", "job", "state")}
        return Filter(**values, tags=self.tag)


class Listed(Wanted):
    """They, in an order, page by page."""

    limit: int = Field(default=50, ge=1, le=MAX_PAGE, description="pictures of a page")
    order: Order = Field(default="newest", description="what comes first")


class Search(Listed):
    """A page of them."""

    before: int | None = Field(default=None, ge=0, le=MAX_NUMBER, description="`more` of the page before")
    brief: bool = Field(default=False, description="only what a list shows of each")


class Exported(Wanted):
    """All of them."""

    form: Form = "jsonl"


class ChangeBody(BaseModel):
    """Tags and rating; what is not given stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tags: list[Annotated[str, Field(max_length=MAX_TAG)]] | None = Field(default=None, max_length=MAX_TAGS)
    rating: int | None = Field(default=None, ge=0, le=MAX_RATING)


class LikeBody(BaseModel):
    """A picture to compare with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: Packed = Field(description="PNG, JPEG or WebP in base64, or a data URI")
    limit: int = Field(default=20, ge=1, le=MAX_PAGE)


class ImportBody(BaseModel):
    """A folder of this machine."""

    model_config = ConfigDict(extra="forbid", strict=True)

    folder: str = Field(max_length=4000, description="absolute")


async def admin(request: Request) -> None:
    """Raises HTTPException: the caller is none."""
    if getattr(request.state, "role", "") != "admin":
        raise HTTPException(403, "for admins only")


@router.get("")
def search(wanted: Annotated[Search, Query()], desk: Here, reader: Reader) -> dict[str, Any]:
    """A page of pictures; `more` is the next page's `before`, null at the end."""
    page = desk.engine.gallery.search(
        wanted.filter(), owner=reader, before=wanted.before, limit=wanted.limit, order=wanted.order
    )
    write = _brief if wanted.brief else _picture
    return {"pictures": [write(each) for each in page.pictures], "more": page.more}


@router.get("/places")
def places(wanted: Annotated[Listed, Query()], desk: Here, reader: Reader) -> dict[str, Any]:
    """How many pictures a search finds; and of its second page, its third, and so on, each one's `before`."""
    found = desk.engine.gallery.places(wanted.filter(), owner=reader, limit=wanted.limit, order=wanted.order)
    return {"total": found.total, "before": found.keys}


@router.get("/values")
def values(desk: Here, reader: Reader) -> dict[str, list[str]]:
    """What the caller's pictures can be found by: models, samplers, tags."""
    return desk.engine.gallery.values(reader)


@router.get("/export", response_class=StreamingResponse)
def exported(wanted: Annotated[Exported, Query()], desk: Here, reader: Reader) -> StreamingResponse:
    """All pictures of a search, as a table (csv) or an object a line (jsonl); files are not in it."""
    lines = export(desk.engine.gallery.pages(wanted.filter(), reader), wanted.form)
    headers = {"Content-Disposition": f'attachment; filename="gallery.{wanted.form}"'}
    return StreamingResponse(lines, media_type=f"{KINDS[wanted.form]}; charset=utf-8", headers=headers)


@router.post("/similar")
def like(body: LikeBody, desk: Here, reader: Reader) -> dict[str, Any]:
    """Pictures that look like one that is sent, the nearest first."""
    with desk.darkroom.opened(pictures.data_of(body.image)) as image:
        return _similar(desk.engine.gallery.like(image, owner=reader, limit=body.limit))


@router.post("/import", dependencies=[Depends(admin)], response_class=StreamingResponse)
def imported(body: ImportBody, desk: Here, owner: Owner) -> StreamingResponse:
    """Take in the pictures of a folder of this machine, for admins: an object a line for each file."""
    folder, engine = Path(body.folder), desk.engine
    if "\0" in body.folder or not folder.is_absolute() or len(folder.resolve().parts) < 3:
        raise RequestError(f"folder={body.folder[:80]!r} is not the absolute path of a folder of pictures")
    steps = import_folder(engine.gallery, engine.inputs, folder, owner=owner)
    first = next(steps, None)  # a folder that is none is refused before the answer begins

    def lines() -> Iterator[str]:
        try:
            for step in chain([] if first is None else [first], steps):
                yield json.dumps(_step(step, folder)) + "\n"
        except SfumatoError as error:
            yield json.dumps({"error": shown(str(error), engine.settings)}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.delete("/trash")
def empty_trash(desk: Here, owner: Owner) -> dict[str, int]:
    """Remove what the caller has in the trash, for good."""
    return {"removed": desk.engine.gallery.empty_trash(owner)}


@router.get("/{picture_id}")
def picture(picture_id: str, desk: Here, reader: Reader) -> dict[str, Any]:
    """One picture."""
    return _picture(desk.engine.gallery.get(picture_id, reader))


@router.patch("/{picture_id}")
def change(picture_id: str, body: ChangeBody, desk: Here, reader: Reader) -> dict[str, Any]:
    """Tag or rate it."""
    return _picture(desk.engine.gallery.change(picture_id, owner=reader, tags=body.tags, rating=body.rating))


@router.delete("/{picture_id}")
def trash(picture_id: str, desk: Here, reader: Reader) -> dict[str, Any]:
    """Put it into the trash."""
    return _picture(desk.engine.gallery.trash(picture_id, reader))


@router.post("/{picture_id}/restore")
def restore(picture_id: str, desk: Here, reader: Reader) -> dict[str, Any]:
    """Take it out of the trash."""
    return _picture(desk.engine.gallery.restore(picture_id, reader))


@router.get("/{picture_id}/similar")
def similar(
    picture_id: str, desk: Here, reader: Reader, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20
) -> dict[str, Any]:
    """Pictures that look like it, the nearest first."""
    return _similar(desk.engine.gallery.similar(picture_id, owner=reader, limit=limit))


@router.get("/{picture_id}/file", response_class=Response)
def file(picture_id: str, request: Request, desk: Here, reader: Reader) -> Response:
    """Its file."""
    gallery = desk.engine.gallery
    found = gallery.get(picture_id, reader)
    suffix = Path(found.file).suffix.lower()
    kind = PICTURE_KINDS.get(suffix, "application/octet-stream")
    return _bytes(request, found.sha256, kind, lambda: gallery.read(found), f"{found.id}{suffix}")


@router.get("/{picture_id}/thumbnail", response_class=Response)
def thumbnail(
    picture_id: str,
    request: Request,
    desk: Here,
    reader: Reader,
    side: Annotated[Literal[128, 256, 512], BeforeValidator(int), Query()] = 256,
) -> Response:
    """It, small, as WebP."""
    gallery = desk.engine.gallery
    found = gallery.get(picture_id, reader)
    tag = f"{found.sha256}-{side}"
    return _bytes(request, tag, "image/webp", lambda: gallery.files.thumbnail(found, side))


def _bytes(request: Request, tag: str, kind: str, read: Callable[[], bytes], name: str = "") -> Response:
    """A file that never changes. Raises HTTPException: 404, it has vanished."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": FOREVER}
    if name:
        headers["Content-Disposition"] = f'inline; filename="{name}"'
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    try:
        return Response(read(), media_type=kind, headers=headers)
    except OSError as error:  # OutputError is one
        raise HTTPException(404, "the file of this picture has vanished") from error


def _picture(found: Picture) -> dict[str, Any]:
    """A picture as JSON."""
    place = f"{router.prefix}/{found.id}"
    return {**as_json(found), "url": f"{place}/file", "thumbnail": f"{place}/thumbnail"}


def _brief(found: Picture) -> dict[str, Any]:
    """What a list shows of a picture."""
    names = ("id", "number", "state", "width", "height", "rating", "tags")
    title = found.prompt[:TITLE] or Path(found.file).name[:TITLE]
    return {name: getattr(found, name) for name in names} | {"title": title}


def _similar(pairs: Sequence[tuple[Picture, float]]) -> dict[str, Any]:
    return {"pictures": [{**_picture(found), "distance": distance} for found, distance in pairs]}


def _step(step: Imported, folder: Path) -> dict[str, Any]:
    """A file of an import as JSON."""
    name = step.path.relative_to(folder).as_posix()
    return {"file": name, **{key: getattr(step, key) for key in ("done", "total", "outcome", "note")}}
