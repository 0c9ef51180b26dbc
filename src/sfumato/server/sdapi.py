"""The routes that make pictures, and those that say how far they are: /sdapi/v1/txt2img and its kin."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Response
from fastapi.concurrency import run_in_threadpool

from sfumato.app.jobs import Job, Script
from sfumato.errors import RequestError, SfumatoError
from sfumato.pipeline.images import FORMATS
from sfumato.pipeline.infotext import parse
from sfumato.server import answers, orders, pictures
from sfumato.server.desk import Desk, Here, Owner
from sfumato.server.errors import FaultError
from sfumato.server.options import checked
from sfumato.server.progress import answer
from sfumato.server.schemas import (
    ExtrasBatchAnswer,
    ExtrasBatchBody,
    ExtrasBody,
    ExtrasSingleAnswer,
    ExtrasSingleBody,
    GenerationAnswer,
    GenerationBody,
    Img2ImgBody,
    InterrogateBody,
    PictureBody,
    PngInfoAnswer,
    ProgressAnswer,
    Txt2ImgBody,
)
from sfumato.types import Request

router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])
MAX_EXTRAS = 256  # pictures of one request


@router.post("/txt2img")
async def txt2img(body: Txt2ImgBody, desk: Here, owner: Owner) -> GenerationAnswer:
    """Make pictures from a prompt; answers when they are made."""
    order = await run_in_threadpool(lambda: orders.txt2img(body, _house(desk, owner)))
    jobs = await _made(desk, owner, order, body, "txt2img")
    return await run_in_threadpool(_answer, desk, owner, jobs, body, body.model_dump())


@router.post("/img2img")
async def img2img(body: Img2ImgBody, desk: Here, owner: Owner) -> GenerationAnswer:
    """Make pictures from pictures; answers when they are made."""
    if not body.init_images:
        raise HTTPException(404, "Init image not found")
    order = await run_in_threadpool(lambda: orders.img2img(_at_hand(desk, body), _house(desk, owner)))
    jobs = await _made(desk, owner, order, body, "img2img")
    echo = body.model_dump()
    if not body.include_init_images:
        echo |= {"init_images": None, "mask": None}
    return await run_in_threadpool(_answer, desk, owner, jobs, body, echo)


@router.post("/extra-single-image")
async def extra_single_image(body: ExtrasSingleBody, desk: Here, owner: Owner) -> ExtrasSingleAnswer:
    """Enlarge a finished picture."""
    job, image = (await _enlarged(desk, owner, body, [body.image]))[0]
    return ExtrasSingleAnswer(html_info=_paragraph(job), image=image)


@router.post("/extra-batch-images")
async def extra_batch_images(body: ExtrasBatchBody, desk: Here, owner: Owner) -> ExtrasBatchAnswer:
    """Enlarge finished pictures."""
    if not 0 < len(body.imageList) <= MAX_EXTRAS:
        raise RequestError(f"imageList: {len(body.imageList)} pictures; expected 1 to {MAX_EXTRAS}")
    made = await _enlarged(desk, owner, body, [each.data for each in body.imageList])
    return ExtrasBatchAnswer(
        html_info="".join(_paragraph(job) for job, _ in made), images=[image for _, image in made]
    )


@router.post("/png-info")
def png_info(body: PictureBody, desk: Here) -> PngInfoAnswer:
    """Read the parameters in a picture."""
    if not body.image.strip():
        return PngInfoAnswer(info="", items={}, parameters={})
    items = desk.darkroom.texts(pictures.data_of(pictures.fetched(body.image, desk.fetch)))
    info = items.get("parameters", "")
    told = parse(info)
    parameters = {"Prompt": told.prompt, "Negative prompt": told.negative, **told.fields} if info else {}
    return PngInfoAnswer(info=info, items=items, parameters=parameters)


@router.post("/interrogate")
def interrogate(body: InterrogateBody) -> dict[str, str]:
    """Describe a picture; there is no model for that here yet."""
    if not body.image.strip():
        raise HTTPException(404, "Image not found")
    if body.model not in ("clip", "deepdanbooru", "deepbooru"):
        raise HTTPException(404, "Model not found")
    raise HTTPException(404, f"no {body.model} model is installed: describing pictures is not possible here")


@router.get("/progress", response_model=ProgressAnswer)
async def progress(desk: Here, owner: Owner, skip_current_image: bool = False) -> Response:
    """How far the caller's running job is."""
    standing = await desk.standing(owner)
    return answer(desk, owner, standing, skips=skip_current_image)


@router.post("/interrupt")
def interrupt(desk: Here, owner: Owner) -> dict[str, str]:
    """End the caller's running job; its answer is what is finished, and what was half made, as it is."""
    job = desk.running(owner)
    if job is not None:
        desk.engine.interrupt(job.id, owner)
    return {}


@router.post("/skip")
def skip(desk: Here, owner: Owner) -> None:
    """End the present batch of the caller's running job."""
    job = desk.running(owner)
    if job is not None:
        desk.engine.skip(job.id, owner)


def _at_hand(desk: Desk, body: Img2ImgBody) -> Img2ImgBody:
    """The request with its pictures in place of their addresses."""
    sources = (body.init_images or [])[: orders.MAX_SOURCES + 1]
    masks = {"mask": body.mask, "latent_mask": body.latent_mask}
    found = {name: pictures.fetched(mask, desk.fetch) for name, mask in masks.items() if mask}
    return body.model_copy(
        update={**found, "init_images": [pictures.fetched(each, desk.fetch) for each in sources]}
    )


def _house(desk: Desk, owner: str) -> orders.House:
    return orders.House(
        options=desk.options.changed(owner),
        styles=desk.styles(),
        restorers=desk.restorers(),
        checkpoint=desk.catalogue.name,
        keep=lambda text, name: desk.keep(pictures.data_of(text, name), owner),
    )


async def _made(desk: Desk, owner: str, order: orders.Order, body: GenerationBody, kind: str) -> list[Job]:
    """Have an order made. Raises FaultError: it failed."""

    ids = await run_in_threadpool(
        _submit, desk, owner, kind, [(each, order.script) for each in order.requests]
    )
    if body.force_task_id:
        desk.name_task(owner, body.force_task_id, ids)
    return await _ended(desk, ids)


def _submit(desk: Desk, owner: str, kind: str, wanted: Sequence[tuple[Request, Script | None]]) -> list[str]:
    """Take all in, or none. Raises QueueFullError: not all find room."""
    ids: list[str] = []
    try:
        for request, script in wanted:
            ids.append(desk.engine.submit(request, owner=owner, kind=kind, script=script).id)
    except SfumatoError:
        for job_id in ids:
            desk.engine.cancel(job_id)
        raise
    return ids


async def _ended(desk: Desk, ids: Sequence[str]) -> list[Job]:
    jobs: list[Job] = []
    for job_id in ids:
        jobs.append(await desk.ended(job_id))
        if jobs[-1].interrupted:  # the whole call was meant
            for later in ids[len(jobs) :]:
                await run_in_threadpool(desk.engine.cancel, later)
    for job in jobs:
        if job.fault is not None:
            raise FaultError(job.fault)
    return jobs


def _answer(
    desk: Desk, owner: str, jobs: Sequence[Job], body: GenerationBody, echo: dict[str, Any]
) -> GenerationAnswer:
    settings = {**desk.options.values(owner), **checked(body.override_settings or {})}
    wanted = answers.Wanted(file_format=_format(settings), send=body.send_images, grid=body.save_images)
    return GenerationAnswer(**answers.generation(jobs, desk.engine, wanted, echo, body.styles or ()))


async def _enlarged(desk: Desk, owner: str, body: ExtrasBody, sent: Sequence[str]) -> list[tuple[Job, str]]:
    """Each picture enlarged, in turn with all other jobs; its job and its base64."""
    file_format = _format(desk.options.values(owner))

    def submit() -> list[str]:
        ready = []
        for text in sent:
            data = pictures.data_of(pictures.fetched(text, desk.fetch))
            infotext = desk.darkroom.texts(data).get("parameters", "")
            ready.append(orders.extras(body, desk.keep(data, owner), infotext))
        return _submit(desk, owner, "extras", [(order.requests[0], order.script) for order in ready])

    jobs = await _ended(desk, await run_in_threadpool(submit))

    def read(job: Job) -> str:
        if not job.made:
            return ""
        return pictures.write(answers.file_bytes(desk.engine, job.made[0], file_format))

    return [(job, await run_in_threadpool(read, job)) for job in jobs]


def _format(settings: dict[str, Any]) -> str:
    """The file format of an answer. Raises RequestError: none that is written here."""
    file_format = str(settings["samples_format"]).lower().replace("jpeg", "jpg")
    if file_format not in FORMATS:
        raise RequestError(f"samples_format={file_format[:40]!r} is not one of {', '.join(FORMATS)}")
    return file_format


def _paragraph(job: Job) -> str:
    """What was done to a picture, as the web UI says it."""
    arguments = job.script.arguments if job.script else {}
    size = f"{job.made[0].width}x{job.made[0].height}" if job.made else "stopped"
    return f"<p>{html.escape(str(arguments.get('upscaler', '')))}: {size}</p>"
