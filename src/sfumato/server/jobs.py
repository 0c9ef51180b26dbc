"""/api/v1: jobs as they are: submitted, listed, followed and stopped, with their pictures by number."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, WebSocket
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.websockets import WebSocketDisconnect

from sfumato import types
from sfumato.app.codec import PICTURES, Inputs, encode
from sfumato.app.jobs import HIGHEST, LOWEST, Event, Job, Made, Script, State
from sfumato.app.scripts import SCRIPTS
from sfumato.app.settings import shown
from sfumato.errors import JobNotFoundError, OutputError, QueueFullError, RequestError, SfumatoError
from sfumato.pipeline.scripts.fields import convert, from_row, request_fields, unknown, with_values
from sfumato.server.desk import Desk, Here, Owner
from sfumato.server.errors import problem_of
from sfumato.server.feeds import Feeds
from sfumato.server.files import KINDS, read_inside
from sfumato.text.styles import Style

MAX_REQUEST = 2**20  # characters of a request as JSON
MAX_BATCH = 500
_FOREIGN_PICTURES: Mapping[str, str] = MappingProxyType({"init_image": "source.image", "mask": "mask.image"})

router = APIRouter(prefix="/api/v1", tags=["jobs"])


class ScriptBody(BaseModel):
    """What is done with the request beside making it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=64)
    arguments: dict[str, Any] = Field(default_factory=dict)


class JobBody(BaseModel):
    """One job."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description='by part and field: {"prompt": {"text": "a cat"}}'
    )
    fields: dict[str, Any] = Field(
        default_factory=dict, description="by dotted or AUTOMATIC1111's names, laid over the request"
    )
    script: ScriptBody | None = None
    kind: str | None = Field(default=None, pattern=r"^[\w /.-]{1,64}$", description="its name in lists")
    priority: int = Field(default=0, ge=LOWEST, le=HIGHEST)
    key: str | None = Field(
        default=None, pattern=r"^[\x21-\x7e]{1,200}$", description="the same key gives the same job"
    )


class BatchBody(BaseModel):
    """Many jobs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    jobs: list[JobBody] = Field(min_length=1, max_length=MAX_BATCH)


async def feeds_of(request: Request) -> Feeds:
    """The jobs that are followed."""
    feeds: Feeds = request.app.state.feeds
    return feeds


async def reader_of(request: Request) -> str | None:
    """Whose jobs the caller may see; None = everybody's."""
    return (
        None
        if getattr(request.state, "role", "") == "admin"
        else str(getattr(request.state, "owner", "local"))
    )


Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[\x21-\x7e]{1,200}$")]
Reader = Annotated[str | None, Depends(reader_of)]
AllFeeds = Annotated[Feeds, Depends(feeds_of)]


@router.post("/jobs", status_code=202)
def submit(body: JobBody, desk: Here, owner: Owner, key: Key = None) -> dict[str, Any]:
    """Take a job in; 409 where its key stands for another request, 429 where the queue is full."""
    if key is not None and body.key not in (None, key):
        raise RequestError("key differs from the header Idempotency-Key; give one of them")
    body = body.model_copy(update={"key": key or body.key})
    return _job(desk, _submit(desk, owner, body, _read(desk, body)))


@router.post("/jobs/batch", status_code=202)
def submit_batch(body: BatchBody, desk: Here, owner: Owner) -> dict[str, Any]:
    """Take many jobs in: all are checked first; one that finds no room has an error in its place."""
    requests = [_read(desk, each) for each in body.jobs]
    taken: list[Job | SfumatoError] = []
    for each, request in zip(body.jobs, requests, strict=True):
        try:
            taken.append(_submit(desk, owner, each, request))
        except SfumatoError as error:
            if not taken and isinstance(error, QueueFullError):
                raise
            taken.append(error)
    ids = [each.id for each in taken if isinstance(each, Job)]
    now = {
        each.id: each for each in desk.engine.jobs(ids=ids, limit=MAX_BATCH)
    }  # each after the last came in
    answers = []
    for each_taken in taken:
        if isinstance(each_taken, Job):
            answers.append({"job": _job(desk, now[each_taken.id])})
        else:
            problem = problem_of(each_taken, desk.engine.settings)
            told = {"code": problem.code, "status": problem.status, "message": problem.detail}
            answers.append({"error": told})
    return {"jobs": answers}


@router.get("/jobs")
def listing(
    desk: Here,
    owner: Owner,
    reader: Reader,
    state: Annotated[list[State] | None, Query()] = None,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    of: Annotated[Literal["me", "all"], Query(description="all = everybody's, for admins")] = "me",
) -> dict[str, Any]:
    """A page of jobs, the newest first; `next` is `before` of the page that follows."""
    if of == "all" and reader is not None:
        raise HTTPException(403, "for admins only")
    found = desk.engine.jobs(
        owner=None if of == "all" else owner, states=tuple(state or ()), before=before, limit=limit
    )
    last = found[-1].number if len(found) == limit else None
    return {"jobs": [_job(desk, each) for each in found], "next": last}


@router.get("/jobs/{job_id}")
def job(job_id: str, desk: Here, reader: Reader) -> dict[str, Any]:
    """One job."""
    return _job(desk, desk.engine.job(job_id, reader))


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, desk: Here, reader: Reader) -> dict[str, Any]:
    """End a job at the next step and throw away what is half made; without effect on one that has ended."""
    return _job(desk, desk.engine.cancel(job_id, reader))


@router.post("/jobs/{job_id}/interrupt")
def interrupt(job_id: str, desk: Here, reader: Reader) -> dict[str, Any]:
    """End a running job at the next step and keep its pictures as far as they are; cancel a waiting job."""
    return _job(desk, desk.engine.interrupt(job_id, reader))


@router.post("/jobs/{job_id}/skip")
def skip(job_id: str, desk: Here, reader: Reader) -> dict[str, Any]:
    """Leave a running job's present batch; a waiting job is cancelled."""
    return _job(desk, desk.engine.skip(job_id, reader))


@router.get("/jobs/{job_id}/preview")
def preview(job_id: str, desk: Here, reader: Reader) -> Response:
    """What a running job has so far, a small JPEG."""
    job = desk.engine.job(job_id, reader)
    progress = desk.engine.progress(job.id)
    if progress is None or progress.preview is None:
        raise HTTPException(404, "there is nothing to be seen of this job now")
    return Response(progress.preview, media_type="image/jpeg")


@router.get("/jobs/{job_id}/events")
async def events(
    job_id: str, desk: Here, reader: Reader, feeds: AllFeeds, previews: bool = False
) -> StreamingResponse:
    """What happens to a job until it has ended, as server-sent events: state, progress, picture."""
    feed = feeds.of(await run_in_threadpool(desk.engine.job, job_id, reader))

    async def lines() -> AsyncIterator[bytes]:
        async for event in feed.read():
            if event is None:
                yield b": still here\n\n"
            else:
                told = (event.job, event.progress, event.made)
                yield feed.kept.of((event.kind, previews), told, partial(_line, desk, event, previews))

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.websocket("/jobs/{job_id}/events")
async def socket(job_id: str, socket: WebSocket, previews: bool = False) -> None:
    """The same as messages of JSON: {"event": "progress", …}. What the client sends is not read."""
    desk: Desk = socket.app.state.desk
    feeds: Feeds = socket.app.state.feeds
    admin = getattr(socket.state, "role", "") == "admin"
    reader = None if admin else str(getattr(socket.state, "owner", "local"))
    try:
        feed = feeds.of(await run_in_threadpool(desk.engine.job, job_id, reader))
    except (JobNotFoundError, QueueFullError):
        await socket.close(1008)
        return
    await socket.accept()
    try:
        async for event in feed.read():
            said = (
                {"event": "none"} if event is None else {"event": event.kind, **_event(desk, event, previews)}
            )
            await socket.send_text(json.dumps(said))
        await socket.close()
    except (WebSocketDisconnect, RuntimeError):
        return  # it has gone


@router.get("/pictures/{job_id}/{index}")
def picture(job_id: str, index: int, request: Request, desk: Here, reader: Reader) -> Response:
    """A finished picture's file; grids have numbers below 0."""
    made = _made(desk.engine.job(job_id, reader), index)
    if desk.engine.gallery.is_trashed(made.file):
        raise HTTPException(404, "this picture is in the trash of the gallery")
    tag = f'"{made.sha256}"'
    headers = {"ETag": tag, "Cache-Control": "private, max-age=31536000, immutable"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    name = Path(made.file)
    try:
        desk.engine.file(made)
        data = read_inside(desk.engine.settings.outputs, made.file)
    except OutputError as error:
        raise HTTPException(404, "the file of this picture has vanished") from error
    headers["Content-Disposition"] = f'inline; filename="{name.name}"'
    return Response(data, media_type=KINDS.get(name.suffix, "application/octet-stream"), headers=headers)


@router.post("/inputs", status_code=201, openapi_extra={"requestBody": {"content": {"image/*": {}}}})
async def upload(request: Request, desk: Here, owner: Owner) -> JSONResponse:
    """Keep a picture (PNG, JPEG or WebP, as the body) that requests may start from; its name in them."""
    data = await request.body()

    def keep() -> dict[str, Any]:
        with desk.darkroom.opened(data) as image:
            path = desk.engine.keep(image, owner)
            return {"name": path.name, "width": image.width, "height": image.height}

    return JSONResponse(await run_in_threadpool(keep), 201)


@router.delete("/inputs/{name}", status_code=204)
def discard(name: str, desk: Here, owner: Owner) -> None:
    """Remove a picture that was sent; 409 while a job that has not ended starts from it."""
    desk.engine.discard(name, owner)


@router.get("/space")
def space(desk: Here, owner: Owner) -> dict[str, int | None]:
    """Bytes that the caller's pictures take, and may take; null = no limit."""
    book = desk.engine.space
    return {"used": book.used(owner), "limit": book.limit}


def read_request(body: JobBody, inputs: Inputs, styles: Mapping[str, Style]) -> types.Request:
    """The request that a client describes. Raises RequestError, PromptError: what is wrong with it."""
    if len(json.dumps([body.request, body.fields, body.script and body.script.arguments])) > MAX_REQUEST:
        raise RequestError(f"a request of more than {MAX_REQUEST:,} characters; make it shorter")
    parts = [part.name for part in dataclasses.fields(types.Request)]
    for part in body.request:
        if part not in parts:
            raise unknown(part, parts, "a part of a request")
    given = {f"{part}.{field}": value for part, row in body.request.items() for field, value in row.items()}
    for name in given:
        if name not in request_fields():
            raise unknown(name, request_fields(), "a field")
    given = {name: convert(name, _input(name, value, inputs)) for name, value in given.items()}
    row = {
        name: _input(_FOREIGN_PICTURES.get(name, name), value, inputs) for name, value in body.fields.items()
    }
    settings = row.get("override_settings")
    if isinstance(settings, Mapping):
        row["override_settings"] = {
            name: _input(_FOREIGN_PICTURES.get(name, name), value, inputs) for name, value in settings.items()
        }
    return from_row(with_values(types.Request(), given), row, styles)


def _input(name: str, value: Any, inputs: Inputs) -> Any:
    """A field's value, where it is a picture's name: where that is. Raises RequestError: no such picture."""
    if name not in PICTURES or value is None:
        return value
    if not isinstance(value, str):
        raise RequestError(f"{name}={str(value)[:60]!r} is not a name that /api/v1/inputs gave")
    return inputs.path(value)


def _read(desk: Desk, body: JobBody) -> types.Request:
    if body.script is not None and body.script.name not in SCRIPTS:
        raise unknown(body.script.name, SCRIPTS, "a script")
    return read_request(body, desk.engine.inputs, desk.styles())


def _submit(desk: Desk, owner: str, body: JobBody, request: types.Request) -> Job:
    script = None if body.script is None else Script(name=body.script.name, arguments=body.script.arguments)
    usual = script.name if script else "txt2img" if request.source.image is None else "img2img"
    return desk.engine.submit(
        request,
        owner=owner,
        kind=body.kind or usual,
        priority=body.priority,
        key=body.key,
        script=script,
    )


def _made(job: Job, index: int) -> Made:
    for made in job.made:
        if made.index == index:
            return made
    raise HTTPException(404, "this job has no such picture")


def _job(desk: Desk, job: Job) -> dict[str, Any]:
    """A job as JSON."""
    fault = job.fault
    return {
        **{name: getattr(job, name) for name in ("id", "number", "owner", "kind", "state", "position")},
        **{name: getattr(job, name) for name in ("priority", "key", "created", "started", "finished")},
        "estimate": job.estimate,
        "request": encode(job.request, _name),
        "script": job.script and {"name": job.script.name, "arguments": dict(job.script.arguments)},
        "pictures": [_picture(job, made) for made in job.made],
        "error": fault and {"code": fault.code, "message": shown(fault.message, desk.engine.settings)},
        "interrupted": job.interrupted,
        "timings": dict(job.timings),
    }


def _picture(job: Job, made: Made) -> dict[str, Any]:
    return {
        "index": made.index,
        "url": f"/api/v1/pictures/{job.id}/{made.index}",
        "sha256": made.sha256,
        "width": made.width,
        "height": made.height,
        "seed": made.seed,
        "infotext": made.infotext,
    }


def _event(desk: Desk, event: Event, previews: bool) -> dict[str, Any]:
    """An event as JSON."""
    if event.made is not None:
        return {"job": event.job.id, "picture": _picture(event.job, event.made)}
    progress = event.progress
    if progress is None:
        return {"job": _job(desk, event.job)}
    said: dict[str, Any] = {
        "job": event.job.id,
        **{name: getattr(progress, name) for name in ("share", "step", "steps", "batch", "batches")},
        "seconds_left": _finite(progress.seconds_left),
    }
    if previews and progress.preview is not None:
        said["preview"] = base64.b64encode(progress.preview).decode("ascii")
    return said


def _line(desk: Desk, event: Event, previews: bool) -> bytes:
    """An event as a server-sent one."""
    return f"event: {event.kind}\ndata: {json.dumps(_event(desk, event, previews))}\n\n".encode("ascii")


def _name(picture: types.Picture) -> str:
    assert isinstance(picture, Path), "a job's pictures are files"
    return picture.name


def _finite(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) else None
