"""What went wrong, as every answer says it: one table of codes, one writer.

AUTOMATIC1111's clients expect {error, detail, body, errors}; `code` and `request_id` stand beside. OpenAI's
expect {"error": {message, type, param, code}}, below /v1; `request_id` stands in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from starlette.types import Scope

STATUSES: Mapping[str, int] = MappingProxyType(  # of HTTP, by codes: the words programs go by
    {
        # a request, or the job that came of it
        "request": 422,
        "prompt": 422,
        "work_limit": 413,
        "model_not_found": 404,
        "model_broken": 422,
        "job_not_found": 404,
        "picture_not_found": 404,
        "output": 422,  # a picture that was sent cannot be read
        "out_of_memory": 413,
        "queue_full": 429,
        "stopping": 503,
        "quota": 507,
        "no_space": 507,
        "conflict": 409,
        "storage": 503,
        "crashed": 500,
        "internal": 500,
        "error": 500,
        # what HTTP itself, or a field's form, may be wrong with
        "invalid": 422,
        "not_found": 404,
        "method": 405,
        "refused": 400,
        # the guard
        "login": 401,
        "forbidden": 403,
        "host": 403,
        "origin": 403,
        "path": 400,
        "headers": 400,
        "boundary": 400,
        "timeout": 408,
        "too_large": 413,
        "encoding": 415,
        "ranges": 416,
        "rate": 429,
        "connections": 429,
        "busy": 503,
    }
)
_PLAIN: Mapping[int, str] = MappingProxyType(  # codes of answers that only have a status
    {401: "login", 403: "forbidden", 404: "not_found", 405: "method", 422: "invalid", 503: "stopping"}
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why there is no better answer."""

    status: int
    code: str  # of `STATUSES`
    name: str  # of the error's class
    detail: str  # one line, for people
    errors: Any = ""  # by field; "" = the detail
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.code in STATUSES, f"{self.code} is a new code; give it a row"

    def body(self, scope: Scope) -> bytes:
        """The answer to the request of a scope, as JSON."""
        number = str(scope.get("state", {}).get("request_id", ""))
        below = scope["path"].removeprefix(scope.get("root_path", ""))
        told: dict[str, Any] = {
            "error": self.name,
            "detail": self.detail,
            "body": "",
            "errors": self.errors or self.detail,
            "code": self.code,
            "request_id": number,
        }
        if below.startswith("/v1/"):
            kind = "invalid_request_error" if self.status < 500 else "server_error"
            said = {"message": self.detail, "type": kind, "param": None}
            told = {"error": {**said, "code": self.code, "request_id": number}}
        return json.dumps(told).encode("ascii")


def code_of(status: int) -> str:
    """The code of an answer that only has a status."""
    return _PLAIN.get(status, "internal" if status >= 500 else "refused")


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when it is worth coming back."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
