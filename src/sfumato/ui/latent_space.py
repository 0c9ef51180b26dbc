"""What the tab Latent space asks for, as JSON's types: the map of the gallery and the frames of a walk."""

from __future__ import annotations

import time
from typing import Any, cast

from sfumato.app.atlas import By
from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.pipeline.scripts.walk import Walk
from sfumato.ui.live import current
from sfumato.ui.results import address
from sfumato.ui.site import Visit

TAB = "latent"
READS = 1.0  # seconds for which one answer has prompts read
LABEL = 80  # characters


def map_told(engine: Engine, visit: Visit, by: str) -> dict[str, Any]:
    """The map of the visitor's pictures.

    For "meaning" some more prompts are read first; `left` says how many there still are, so that who asks
    again until there are none sees the map grow. Raises RequestError: no such kind of map.
    """
    left = _read(engine, visit.owner) if by == "meaning" else 0
    drawn = engine.atlas.map(cast(By, by), owner=visit.owner)
    return {
        "ids": drawn.ids,
        "labels": [each[:LABEL] for each in drawn.labels],
        "points": drawn.points.astype(float).round(5).tolist(),  # (N,2), -1 to 1
        "shares": [round(each, 4) for each in drawn.shares],
        "total": drawn.total,
        "left": left,
    }


def _read(engine: Engine, owner: str) -> int:
    """Have prompts read for a while; how many are left."""
    until, left = time.monotonic() + READS, 0
    for done, total in engine.atlas.learn(owner=owner):
        left = total - done
        if time.monotonic() >= until:
            break
    return left


def walk_told(engine: Engine, visit: Visit) -> dict[str, Any]:
    """The visitor's present or last walk as far as it has come: its frames by their addresses."""
    job = current(engine, visit.owner, TAB)
    if job is None or not job.made:
        return {"job": "", "stops": [], "leg": 1, "frames": [], "moving": None, "sheet": None}
    assert job.script is not None
    arguments = job.script.arguments
    frames, moving = _parts(job)
    sheet = any(each.index < 0 for each in job.made)
    return {
        "job": job.id,
        "stops": [" ".join(str(each["prompt"]).split())[:LABEL] for each in arguments["stops"]],
        "leg": arguments.get("frames", Walk.frames),
        "frames": [address(job.id, index) for index in frames],
        "moving": None if moving is None else address(job.id, moving),
        "sheet": address(job.id, -1) if sheet else None,
    }


def _parts(job: Job) -> tuple[list[int], int | None]:
    """The places of a walk's frames among its pictures, and that of the moving picture, which comes last."""
    assert job.script is not None
    places = sorted(each.index for each in job.made if each.index >= 0)
    if not job.script.arguments.get("cells"):
        return [], places[0] if places else None
    if job.state == "done" and len(places) > 2:  # of fewer than two frames none is made
        return places[:-1], places[-1]
    return places, None
