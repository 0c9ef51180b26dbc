"""What the page lists and keeps up to date by itself: the visitor's jobs, and downloads of models.

Both are told in the same form, as JSON's types, which `static/rows.js` shows:

    {"groups": [{"title": …, "rows": [{"id": …, "title": …, "line": …, "actions": [[name, word], …], …}]}],
     "empty": what is said where there are none, "active": whether it changes by itself, "lost": …}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from sfumato.app.engine import Engine
from sfumato.app.jobs import ENDED, Job
from sfumato.app.pulls import Pull
from sfumato.app.settings import shown
from sfumato.ui.live import line, tab_of
from sfumato.ui.results import address, in_order
from sfumato.ui.site import Visit
from sfumato.ui.strings import word

SHOWN = 30  # jobs of a group
TITLE = 200  # characters of a prompt
PLAIN = ("txt2img", "img2img")  # tabs whose form takes a job's settings
LIST = """<div class="sf-rows" data-from="ui/{name}" data-do="{name}"></div>"""
CHOSEN = "() => [document.querySelector('.sf-rows[data-do={name}]').dataset.chosen ?? '']"


def jobs(engine: Engine, visit: Visit) -> dict[str, Any]:
    """The visitor's jobs: what runs, what waits, next first, and what has ended, last first."""
    owner = visit.owner
    ids = engine.line.next(owner, SHOWN)
    waiting = engine.jobs(owner=owner, states=["queued"], ids=ids, limit=SHOWN) if ids else []
    waiting.sort(key=lambda job: job.position or 0)
    running = engine.jobs(owner=owner, states=["running"], limit=SHOWN)
    ended = engine.jobs(owner=owner, states=ENDED, limit=SHOWN)
    newest = {job.id: job for job in (*waiting, *running, *ended)}  # some go on while they are read
    titles = {
        "running": [job for job in newest.values() if job.state == "running"],
        "waiting": [job for job in newest.values() if job.state == "queued"],
        "ended": [job for job in newest.values() if job.ended],
    }
    small = _thumbnails(engine, list(newest.values()))
    count = max(len(titles["waiting"]), engine.standings.look(owner).waiting)
    groups = [
        {
            "title": _say(visit, f"group_{name}", count=count),
            "rows": [_job(engine, visit, job, small.get(job.id), first=job is found[0]) for job in found],
        }
        for name, found in titles.items()
        if found
    ]
    return _told(visit, groups, "queue_empty", active=any(not job.ended for job in newest.values()))


def pulls(engine: Engine, visit: Visit) -> dict[str, Any]:
    """Downloads of models; for admins, others are told of none."""
    found = engine.pulls.all() if visit.role == "admin" else []
    rows = [_pull(engine, visit, each) for each in found]
    groups = [{"title": _say(visit, "group_pulls"), "rows": rows}] if rows else []
    return _told(visit, groups, None, active=any(each.state == "running" for each in found))


def _told(visit: Visit, groups: Sequence[Any], empty: str | None, *, active: bool) -> dict[str, Any]:
    said = _say(visit, empty) if empty else ""
    return {"groups": groups, "empty": said, "active": active, "lost": visit.say("lost")}


def _job(engine: Engine, visit: Visit, job: Job, small: str | None, *, first: bool) -> dict[str, Any]:
    progress = engine.progress(job.id)
    fault = job.fault and f"{shown(job.fault.message, engine.settings)} ({job.fault.code})"
    prompt = " ".join(job.request.prompt.text.split())
    return {
        "id": job.id,
        "title": prompt[:TITLE] or _say(visit, "no_prompt"),
        "about": _about(visit, job),
        "created": job.created,
        "line": line(visit, job, progress),
        "fault": fault or "",
        "share": progress.share if job.state == "running" and progress else None,
        "picture": small,
        "link": address(job.id, in_order(job)[0].index) if job.made else None,
        "actions": [(name, _say(visit, f"do_{name}")) for name in _actions(job, first=first)],
    }


def _about(visit: Visit, job: Job) -> str:
    tab = tab_of(job)
    kind = word(f"tab.{tab}", visit.language)
    if job.script is not None:
        pictures = _say(visit, "pictures", count=len(job.made))
        return (
            f"{kind} · {pictures}" if tab == job.script.name else f"{kind} · {job.script.name} · {pictures}"
        )
    canvas = job.request.canvas
    first = in_order(job)[0] if job.made else canvas
    size = f"{first.width}×{first.height}" if first.width and first.height else ""
    pictures = _say(visit, "pictures", count=f"{len(job.made)}/{canvas.batch_size * canvas.batch_count}")
    return " · ".join(filter(None, [kind, size, pictures]))


def _actions(job: Job, *, first: bool) -> list[str]:
    """What can be done with a job, which may be the first of its group."""
    queued = ["cancel"] if first else ["first", "cancel"]
    own = {"running": ["interrupt", "cancel"], "queued": queued}.get(job.state, [])
    tab = tab_of(job)
    return [*(["open"] if job.made else []), *own, *([f"again_{tab}"] if tab in PLAIN else [])]


def _thumbnails(engine: Engine, found: Sequence[Job]) -> Mapping[str, str]:
    """Where there is a small picture of what a job has made, by job."""
    files = {job.id: in_order(job)[0].file for job in found if job.made}
    ids = engine.gallery.ids(list(files.values()))
    return {
        job: f"api/v1/gallery/{ids[file]}/thumbnail?side=128" for job, file in files.items() if file in ids
    }


def _pull(engine: Engine, visit: Visit, pull: Pull) -> dict[str, Any]:
    running = pull.state == "running"
    sizes = {"done": f"{pull.done / 1e6:,.0f}", "total": f"{pull.total / 1e6:,.0f}", "model": pull.model}
    actions = {"running": ["cancel"], "done": ["use"]}.get(pull.state, [])
    return {
        "id": pull.id,
        "title": " / ".join(filter(None, chain([pull.repo], [pull.file]))),
        "about": "",
        "created": None,
        "line": _say(visit, f"pull_{pull.state}", **sizes),
        "fault": shown(pull.fault, engine.settings),
        "share": pull.share if running else None,
        "picture": None,
        "link": None,
        "actions": [(name, _say(visit, f"do_{name}")) for name in actions],
    }


def _say(visit: Visit, key: str, **places: object) -> str:
    return visit.say(f"list.{key}", **places)
