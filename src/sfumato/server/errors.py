"""Whatever a client may get wrong becomes a problem, and that an answer. No traces, no paths."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from sfumato.app.jobs import Fault
from sfumato.app.outcome import fault_of
from sfumato.app.settings import Settings, shown
from sfumato.errors import QueueFullError, SfumatoError
from sfumato.server.problems import STATUSES, Problem, code_of, retry_after

log = logging.getLogger(__name__)


class SafeJSONResponse(JSONResponse):
    """JSON of whatever a client has sent: half characters are escaped, numbers JSON has not become null."""

    def render(self, content: Any) -> bytes:
        """The answer's bytes."""
        try:
            return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
        except ValueError:
            return json.dumps(_finite(content), separators=(",", ":")).encode("ascii")


class FaultError(HTTPException):
    """A job that failed, as an answer."""

    def __init__(self, fault: Fault) -> None:
        ours = fault.code in ("output", "timeout")  # what it made could not be written, it made no step
        super().__init__(500 if ours else STATUSES[fault.code], fault.message)
        self.code = fault.code


def add_handlers(app: FastAPI, settings: Settings) -> None:
    """Answer every error in the one shape."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, SfumatoError)
        return _answer(request, problem_of(error, settings))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        problem = Problem(
            status=error.status_code,
            code=error.code if isinstance(error, FaultError) else code_of(error.status_code),
            name=error.code if isinstance(error, FaultError) else "HTTPException",
            detail=shown(str(error.detail), settings),
            headers=dict(error.headers or {}),
        )
        return _answer(request, problem)

    async def misread(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        wrong = [
            {"loc": list(each["loc"]), "msg": str(each["msg"]), "type": each["type"]}
            for each in error.errors()
        ]
        first = wrong[0] if wrong else {"loc": [], "msg": "not understood"}
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        detail = f"{where}: {first['msg']}".lstrip(": ")
        if first["loc"] == ["body"] and "json" not in request.headers.get("content-type", ""):
            detail = "the body is not read as JSON; send Content-Type: application/json"
        problem = Problem(
            status=422, code="invalid", name="RequestValidationError", detail=detail, errors=wrong
        )
        return _answer(request, problem)

    async def unforeseen(request: Request, error: Exception) -> Response:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        detail = "an unforeseen error; the log has its details"
        return _answer(request, Problem(status=500, code="internal", name="InternalError", detail=detail))

    app.add_exception_handler(SfumatoError, known)
    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(RequestValidationError, misread)
    app.add_exception_handler(Exception, unforeseen)


def problem_of(error: SfumatoError, settings: Settings) -> Problem:
    """An error of our tree, without the places of this machine."""
    code = fault_of(error).code
    return Problem(
        status=STATUSES[code],
        code=code,
        name=type(error).__name__,
        detail=shown(str(error), settings),
        headers=retry_after(error.retry_after) if isinstance(error, QueueFullError) else {},
    )


def _answer(request: Request, problem: Problem) -> Response:
    headers = {**problem.headers, "Content-Type": "application/json"}
    return Response(problem.body(request.scope), problem.status, headers)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
