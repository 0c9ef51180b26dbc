"""Whatever a client may get wrong, as one JSON shape: {error, detail, body, errors}. No traces, no paths."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from sfumato.app.jobs import Fault
from sfumato.app.outcome import fault_of
from sfumato.app.settings import Settings, shown
from sfumato.errors import QueueFullError, SfumatoError

log = logging.getLogger(__name__)

STATUSES: Mapping[str, int] = MappingProxyType(  # of an error's class
    {
        "RequestError": 422,
        "WorkLimitError": 413,
        "PromptError": 422,
        "WeightsError": 422,
        "ModelNotFoundError": 404,
        "JobNotFoundError": 404,
        "PictureNotFoundError": 404,
        "OutOfMemoryError": 413,
        "OutputError": 422,  # a picture that was sent cannot be read
        "QueueFullError": 429,
        "ClosingError": 503,
        "QuotaError": 507,
        "ConflictError": 409,
        "StorageError": 503,
    }
)
FAULTS: Mapping[str, int] = MappingProxyType(  # of a failed job's code
    {
        "request": 422,
        "prompt": 422,
        "model_not_found": 404,
        "model_broken": 422,
        "out_of_memory": 413,
        "no_space": 507,
        "quota": 507,
    }
)


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
        super().__init__(FAULTS.get(fault.code, 500), fault.message)
        self.code = fault.code


def add_handlers(app: FastAPI, settings: Settings) -> None:
    """Answer every error in the one shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SfumatoError)
        headers = (
            {"Retry-After": f"{math.ceil(error.retry_after)}"} if isinstance(error, QueueFullError) else {}
        )
        return _answer(status_of(error), type(error).__name__, shown(str(error), settings), headers=headers)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        name = error.code if isinstance(error, FaultError) else "HTTPException"
        return _answer(
            error.status_code, name, shown(str(error.detail), settings), headers=dict(error.headers or {})
        )

    async def misread(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        wrong = [
            {"loc": list(each["loc"]), "msg": str(each["msg"]), "type": each["type"]}
            for each in error.errors()
        ]
        first = wrong[0] if wrong else {"loc": [], "msg": "not understood"}
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _answer(422, "RequestValidationError", f"{where}: {first['msg']}".lstrip(": "), wrong)

    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        return _answer(500, "InternalError", "an unforeseen error; the log has its details")

    app.add_exception_handler(SfumatoError, known)
    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(RequestValidationError, misread)
    app.add_exception_handler(Exception, unforeseen)


def status_of(error: SfumatoError) -> int:
    """The HTTP status of an error: a full disk's, or that of its class or the nearest above it."""
    if fault_of(error).code == "no_space":
        return FAULTS["no_space"]
    return next((STATUSES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in STATUSES), 500)


def _answer(
    status: int,
    error: str,
    detail: str,
    errors: Any = "",
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> JSONResponse:
    content = {"error": error, "detail": detail, "body": "", "errors": errors or detail}
    return SafeJSONResponse(content, status, headers=dict(headers))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
