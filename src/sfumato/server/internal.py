"""Routes beside /sdapi that clients know: how far a task is, what this server is, previews of models."""

from __future__ import annotations

import platform
import zlib
from pathlib import Path
from typing import Any

import psutil
import torch
from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from sfumato import __version__
from sfumato.app.cards import MAX_PREVIEW, PREVIEWS
from sfumato.app.jobs import Job
from sfumato.errors import JobNotFoundError
from sfumato.server import pictures
from sfumato.server.desk import Desk, Here, Owner
from sfumato.server.errors import SafeJSONResponse
from sfumato.server.files import KINDS
from sfumato.server.options import DEFAULTS
from sfumato.weights import store
from sfumato.weights.info import describe

router = APIRouter(tags=["internal"])


class TaskBody(BaseModel):
    """Which task, and which preview of it the client has."""

    model_config = ConfigDict(extra="ignore")

    id_task: str | None = Field(default=None, max_length=200)
    id_live_preview: int | None = -1
    live_preview: bool | None = True


class TaskAnswer(BaseModel):
    """How far it is."""

    active: bool
    queued: bool
    completed: bool
    progress: float | None = None
    eta: float | None = None
    live_preview: str | None = None
    id_live_preview: int | None = None
    textinfo: str | None = None


@router.post("/internal/progress")
def progress(body: TaskBody, desk: Here, owner: Owner) -> TaskAnswer:
    """How far a task of the caller's is, by the name it was given with force_task_id, or a job's own."""
    jobs = _jobs(desk, owner, body.id_task or "")
    if not jobs:
        return TaskAnswer(
            active=False, queued=False, completed=False, id_live_preview=-1, textinfo="Waiting..."
        )
    left = [job for job in jobs if not job.ended]
    if not left:
        return TaskAnswer(active=False, queued=False, completed=True, id_live_preview=-1)
    job = next((job for job in left if job.state == "running"), left[0])
    if job.state == "queued":
        place = (job.position or 0) + 1
        return TaskAnswer(
            active=False,
            queued=True,
            completed=False,
            eta=job.estimate,
            id_live_preview=-1,
            textinfo=f"In queue: {place}/{max(place, desk.engine.waiting())}",
        )
    now = desk.engine.progress(job.id)
    preview = now.preview if now and body.live_preview else None
    number = zlib.crc32(preview) if preview else -1
    fresh = preview is not None and number != body.id_live_preview
    return TaskAnswer(
        active=True,
        queued=False,
        completed=False,
        progress=(len(jobs) - len(left) + (now.share if now else 0.0)) / len(jobs),
        eta=now.seconds_left if now else None,
        live_preview=f"data:image/jpeg;base64,{pictures.write(preview)}" if fresh and preview else None,
        id_live_preview=number,
    )


@router.get("/internal/pending-tasks")
def pending_tasks(desk: Here, owner: Owner) -> dict[str, Any]:
    """The caller's tasks that wait or run."""
    names = desk.tasks(owner)
    jobs = desk.engine.jobs(owner=owner, states=["queued", "running"], limit=1000)
    tasks = list(dict.fromkeys(names.get(job.id, job.id) for job in reversed(jobs)))
    return {"size": len(tasks), "tasks": tasks}


@router.get("/internal/ping")
def ping() -> dict[str, str]:
    """The server is there."""
    return {}


@router.get("/internal/quicksettings-hint")
def quicksettings_hint() -> list[dict[str, str]]:
    """Every setting's name."""
    return [{"name": name, "label": name.replace("_", " ")} for name in DEFAULTS]


@router.get("/internal/sysinfo")
def sysinfo(desk: Here) -> dict[str, Any]:
    """What this server is and runs on; no names of users, hosts, folders or secrets."""
    return {
        "Version": __version__,
        "Platform": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "Torch": torch.__version__,
        "Device": str(desk.engine.shelf.device),
        "Precision": str(desk.engine.shelf.dtype).removeprefix("torch."),
        "CPU": {"count logical": psutil.cpu_count(), "count physical": psutil.cpu_count(logical=False)},
        "RAM": {"total": psutil.virtual_memory().total, "available": psutil.virtual_memory().available},
    }


@router.get("/internal/sysinfo-download")
def sysinfo_download(desk: Here) -> Response:
    """The same as a file."""
    answer = SafeJSONResponse(sysinfo(desk))
    answer.headers["Content-Disposition"] = 'attachment; filename="sysinfo.json"'
    return answer


@router.get("/sd_extra_networks/thumb", response_class=Response)
def thumb(desk: Here, filename: str = "") -> Response:
    """The picture beside a model's file: same name, an ending of pictures."""
    path = _model(desk, filename)
    stem = path.with_suffix("") if path.is_file() else path
    for ending in PREVIEWS:
        preview = stem.with_name(stem.name + ending)
        if preview.is_file() and preview.stat().st_size <= MAX_PREVIEW:
            return Response(preview.read_bytes(), media_type=KINDS[preview.suffix])
    raise HTTPException(404, f"{filename[:80]!r} has no preview")


@router.get("/sd_extra_networks/metadata")
def metadata(desk: Here, page: str = "", item: str = "") -> dict[str, str]:
    """What stands in the header of a model's file."""
    told = describe(_model(desk, item), read_pickles=False).metadata
    return {"metadata": "\n".join(f"{key}: {value}" for key, value in told.items())} if told else {}


def _model(desk: Desk, name: str) -> Path:
    """A model in the folder. Raises ModelNotFoundError: none of that name."""
    return store.find(desk.engine.settings.models, name, paths=False)


def _jobs(desk: Desk, owner: str, task: str) -> list[Job]:
    """The jobs of a task in order; none = there is no such task of the owner's."""
    try:
        return [desk.engine.job(job_id, owner) for job_id in desk.task(owner, task) or (task,)]
    except JobNotFoundError:
        return []
