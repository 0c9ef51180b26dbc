"""/v1/images: the pictures' part of OpenAI's API, for clients that were written for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from PIL import Image, ImageOps
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from sfumato import types
from sfumato.app.jobs import Job
from sfumato.errors import ModelNotFoundError, RequestError
from sfumato.pipeline.source import source_size
from sfumato.server import answers, pictures
from sfumato.server.desk import Desk, Here, Owner
from sfumato.server.errors import FaultError

MAX_PICTURES = 10
FOREIGN = ("dall-e", "gpt-image", "gpt-")  # names that mean: the server's own


class Body(BaseModel):
    """What to make. Fields that Sfumato has nothing for are taken and passed over."""

    prompt: str = Field(max_length=2**18)
    model: str | None = Field(default=None, max_length=200)
    n: int = Field(default=1, ge=1, le=MAX_PICTURES)
    size: str | None = Field(default=None, max_length=20, description="512x768; auto = the checkpoint's own")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    negative_prompt: str = Field(default="", max_length=2**18)
    seed: int = Field(default=-1, ge=-1, le=types.MAX_SEED)
    steps: int = Field(default=20, ge=1, le=types.MAX_STEPS)


class EditBody(Body):
    """What to make of a picture."""

    strength: float = Field(default=0.75, ge=0, le=1, description="0 = the picture, 1 = nothing of it")


router = APIRouter(prefix="/v1", tags=["openai"])
FORM = {"requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object"}}}, "required": True}}


@router.get("/models")
def models(desk: Here) -> dict[str, Any]:
    """The checkpoints."""
    rows = [
        {"id": row["model_name"], "object": "model", "created": 0, "owned_by": "sfumato"}
        for row in desk.catalogue.checkpoints()
    ]
    return {"object": "list", "data": rows}


@router.post("/images/generations")
async def generations(body: Body, request: Request, desk: Here, owner: Owner) -> dict[str, Any]:
    """Pictures from a text."""

    def submit() -> Job:
        wanted = _request(desk, body, _size(body.size))
        return desk.engine.submit(wanted, owner=owner, kind="txt2img")

    return await _answer(desk, body, await run_in_threadpool(submit), request)


@router.post("/images/edits", openapi_extra=FORM)
async def edits(request: Request, desk: Here, owner: Owner) -> dict[str, Any]:
    """Pictures from a picture; where a mask is given, what is transparent in it is made anew."""
    async with request.form(max_files=2, max_fields=30, max_part_size=2**20) as form:
        body = _form(form)
        sent = [await each.read() for each in _files(form, ("image", "image[]"))]
        masks = [await each.read() for each in _files(form, ("mask",))]
    if len(sent) != 1 or len(masks) > 1:
        raise RequestError("send one picture as image, and one mask at most")

    def submit() -> Job:
        image, size = _kept(desk, sent[0], owner)
        mask = _kept(desk, masks[0], owner, _mask)[0] if masks else None
        wanted = _request(desk, body, _size(body.size) or size)
        source = types.Source(image=image, denoising_strength=body.strength)
        wanted = types.Request(
            prompt=wanted.prompt,
            sampling=wanted.sampling,
            canvas=wanted.canvas,
            model=wanted.model,
            source=source,
            mask=types.Mask(image=mask),
        )
        return desk.engine.submit(wanted, owner=owner, kind="img2img")

    return await _answer(desk, body, await run_in_threadpool(submit), request)


def _kept(
    desk: Desk, data: bytes, owner: str, change: Callable[[Image.Image], Image.Image] = lambda image: image
) -> tuple[Path, tuple[int, int]]:
    """Where a picture is kept, changed, and the size of what is made of it."""
    with desk.darkroom.opened(data) as image:
        return desk.engine.keep(change(image), owner), source_size(image)


def _request(desk: Desk, body: Body, size: tuple[int, int] | None) -> types.Request:
    width, height = size or (None, None)
    checkpoint = body.model or None
    if checkpoint is not None:
        try:
            checkpoint = desk.catalogue.name(checkpoint)
        except ModelNotFoundError:
            if not checkpoint.startswith(FOREIGN):
                raise
            checkpoint = None
    return types.Request(
        prompt=types.Prompt(text=body.prompt, negative=body.negative_prompt),
        sampling=types.Sampling(steps=body.steps),
        canvas=types.Canvas(width=width, height=height, seed=body.seed, batch_count=body.n),
        model=types.ModelChoice(checkpoint=checkpoint),
    )


def _size(text: str | None) -> tuple[int, int] | None:
    if text in (None, "", "auto"):
        return None
    width, _, height = (text or "").partition("x")
    if not (width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal()):
        raise RequestError(f"size={text!r} is not of the form 512x768")
    return int(width), int(height)


def _mask(image: Image.Image) -> Image.Image:
    """White where the clients' mask is transparent: that is what is to change."""
    if image.mode != "RGBA":
        raise RequestError("mask: without transparency; what is transparent in it is made anew")
    return ImageOps.invert(image.getchannel("A"))


def _files(form: FormData, names: Sequence[str]) -> list[UploadFile]:
    found = [each for name in names for each in form.getlist(name)]
    if not all(isinstance(each, UploadFile) for each in found):
        raise RequestError(f"{names[0]} has to be a file")
    return [each for each in found if isinstance(each, UploadFile)]


def _form(form: FormData) -> EditBody:
    """The form's texts. Raises RequestValidationError: one is missing, or of another type."""
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    try:
        return EditBody.model_validate(texts)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


async def _answer(desk: Desk, body: Body, job: Job, request: Request) -> dict[str, Any]:
    """The pictures of a job, once it is done. Raises FaultError: it failed."""
    job = await desk.ended(job.id)
    if job.fault is not None:
        raise FaultError(job.fault)
    file_format = {"jpeg": "jpg"}.get(body.output_format, body.output_format)
    if body.response_format == "url":
        base = str(request.base_url).rstrip("/")
        data = [{"url": f"{base}/api/v1/pictures/{job.id}/{made.index}"} for made in job.made]
    else:
        files = [
            await run_in_threadpool(answers.file_bytes, desk.engine, made, file_format) for made in job.made
        ]
        data = [{"b64_json": pictures.write(each)} for each in files]
    return {"created": int(time.time()), "data": data, "output_format": body.output_format}
