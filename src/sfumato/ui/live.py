"""What happens to a visitor's job right now, as the page asks for it again and again.

The page holds nothing: after a reload, in a second tab or when the server has come back it asks the same and
shows the same.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import psutil
import torch

from sfumato.app.engine import Engine
from sfumato.app.jobs import ENDED, Job, Progress
from sfumato.app.settings import shown
from sfumato.ui.site import Visit

RECENT = 50  # jobs among which a tab looks for its last one
MAX_TOGETHER = 64  # jobs that one form makes
SCRIPT_TABS: Mapping[str, str] = MappingProxyType({"extras": "extras", "walk": "latent"})


def tab_of(job: Job) -> str:
    """The tab that a job belongs to."""
    if job.script is not None and job.script.name in SCRIPT_TABS:
        return SCRIPT_TABS[job.script.name]
    return "txt2img" if job.request.source.image is None else "img2img"


def current(engine: Engine, owner: str, tab: str) -> Job | None:
    """The job that a tab shows: what runs, else what waits longest, else what ended last."""
    pending = [each for each in engine.jobs(owner=owner, states=["queued", "running"], limit=RECENT)
               if tab_of(each) == tab]  # fmt: skip
    if pending:
        return max(pending, key=lambda job: (job.state == "running", job.priority, -job.number))
    ended = engine.jobs(owner=owner, states=ENDED, limit=RECENT)
    return next((each for each in ended if tab_of(each) == tab), None)


def together(engine: Engine, job: Job) -> list[Job]:
    """The jobs of the form that a job came from, in the order of its pictures."""
    form = _form(job)
    if not form:
        return [job]
    near = engine.jobs(owner=job.owner, before=job.number + MAX_TOGETHER, limit=2 * MAX_TOGETHER)
    return sorted((each for each in near if _form(each) == form), key=lambda each: each.number)


def _form(job: Job) -> str:
    """What the keys of a form's jobs have in common: page-<ticket>, page-<ticket>-1, …"""
    page, _, rest = (job.key or "").partition("-")
    return rest.partition("-")[0] if page == "page" else ""


def signature(job: Job | None) -> str:
    """A text that changes when the job has another state or another picture."""
    return "" if job is None else f"{job.id}:{ending(job)}:{len(job.made)}"


def ending(job: Job) -> str:
    """A job's state, with what was kept of one that was interrupted told from what is whole."""
    return "interrupted" if job.interrupted else job.state


def now(engine: Engine, visit: Visit, tab: str, preview: int = 0) -> dict[str, Any]:
    """What a tab shows of its job, as JSON's types.

    Args:
        engine: that makes the jobs.
        visit: who asks.
        tab: for which.
        preview: version of the progress whose picture the page has already.
    """
    job = current(engine, visit.owner, tab)
    told: dict[str, Any] = {"signature": signature(job), "active": False, "line": "", "share": 0.0}
    told |= {"fault": "", "preview": None, "version": 0, "waiting": 0, "lost": visit.say("lost")}
    told["no_infotext"] = visit.say("no_infotext")
    if job is None:
        return told
    if job.fault is not None:
        told["fault"] = f"{shown(job.fault.message, engine.settings)} ({job.fault.code})"
    progress = engine.progress(job.id)
    told["line"] = line(visit, job, progress)
    if job.ended:
        return told
    told |= {"active": True, "waiting": engine.waiting()}
    if job.state == "queued" or progress is None:
        return told
    if progress.preview is not None and progress.version != preview:
        packed = base64.b64encode(progress.preview).decode("ascii")
        told["preview"] = f"data:image/jpeg;base64,{packed}"
    return told | {"share": progress.share, "version": progress.version}


def line(visit: Visit, job: Job, progress: Progress | None) -> str:
    """How a job stands, in one line of words."""
    if job.ended:
        return visit.say(ending(job), seconds=_took(job))
    if job.state == "queued":
        return visit.say("queued", ahead=job.position or 0, left=span(job.estimate))
    if progress is None or not (progress.steps or progress.share):
        return visit.say("starting")
    left = span(progress.seconds_left)
    if not progress.steps:  # tiles of a picture that is enlarged
        return visit.say("extras.running", percent=round(100 * progress.share), left=left)
    return visit.say(
        "running",
        step=progress.step,
        steps=progress.steps,
        batch=progress.batch,
        batches=progress.batches,
        rate=f"{rate(job, progress):.2f}",
        left=left,
        memory=f"{memory() / 2**30:.1f}",
    )


def rate(job: Job, progress: Progress) -> float:
    """Steps a second, on the average of what was done so far."""
    passes = 2 if job.request.hires.enabled else 1
    left = progress.seconds_left
    if not left or not math.isfinite(left):
        return 0.0
    return progress.steps * max(1, progress.batches) * passes * (1 - progress.share) / left


def memory() -> int:
    """Bytes that are in use: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.memory_reserved()
    return int(psutil.Process(os.getpid()).memory_info().rss)


def span(seconds: float | None) -> str:
    """A duration as people read it: 1:05."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _took(job: Job) -> str:
    if job.started is None or job.finished is None:
        return "–"
    return f"{job.finished - job.started:.1f}"
