"""How far a caller's job is: asked all the time by everybody, and so answered from memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sfumato.app.jobs import Progress
from sfumato.app.standing import Standing
from sfumato.server import answers, pictures
from sfumato.server.desk import Desk
from sfumato.server.errors import SafeJSONResponse
from sfumato.server.schemas import ProgressAnswer

PATH = "/sdapi/v1/progress"
_QUERIES: Mapping[bytes, bool] = MappingProxyType(  # whether the preview is left out
    {b"": False, b"skip_current_image=false": False, b"skip_current_image=true": True}
)


class Shortcut:
    """Tells how far a job is, where that is at hand; all else is the application's to answer."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        """Stand in front of `app`, behind the guard."""
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith(PATH):
            owner = str(scope.get("state", {}).get("owner", "local"))
            standing = self._desk.engine.standings.known(owner)
            skips = _QUERIES.get(scope["query_string"])
            own = scope["path"].removeprefix(scope.get("root_path", "")) == PATH
            if own and standing is not None and skips is not None:
                await answer(self._desk, owner, standing, skips=skips)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def answer(desk: Desk, owner: str, standing: Standing, *, skips: bool) -> Response:
    """The answer to one who asks.

    Args:
        desk: of the server.
        owner: who asks.
        standing: how the owner stands.
        skips: whether the preview is left out.
    """
    now = None if standing.running is None else desk.engine.progress(standing.running.id)

    def write() -> bytes:
        return bytes(SafeJSONResponse(_told(standing, now, shown=not skips).model_dump()).body)

    body = desk.kept.of(("progress", owner, skips), (standing, now), write)
    return Response(body, media_type="application/json")


def _told(standing: Standing, now: Progress | None, *, shown: bool) -> ProgressAnswer:
    """How far a job is; `shown` = with its preview."""
    job, waiting = standing.running, standing.waiting
    state: dict[str, Any] = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": waiting,
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    }
    if job is None or now is None:
        return ProgressAnswer(
            progress=0.0,
            eta_relative=0.0,
            state=state,
            textinfo=f"In queue: {waiting}" if waiting else None,
        )
    state |= {
        "job": f"Batch {max(now.batch, 1)} out of {max(now.batches, 1)}",
        "job_count": max(now.batches, 1) + waiting,
        "job_timestamp": answers.timestamp(job),
        "job_no": max(now.batch - 1, 0),
        "sampling_step": now.step,
        "sampling_steps": now.steps,
    }
    return ProgressAnswer(
        progress=min(1.0, 0.01 + now.share),
        eta_relative=now.seconds_left or 0.0,
        state=state,
        current_image=pictures.write(now.preview) if shown and now.preview else None,
    )
