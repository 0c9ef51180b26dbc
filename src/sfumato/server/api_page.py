"""The page at /docs: every route, from the OpenAPI document, without a script or a foreign host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sfumato's API</title>
<meta name="viewport" content="width=device-width"><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em }
html { color-scheme: light dark }
h2 { font: 600 1em/1.5 ui-monospace, monospace; margin: 2em 0 0 }
table { border-collapse: collapse; margin: .5em 0 } td { padding: .1em 1.5em .1em 0; vertical-align: top }
td:first-child { font-family: ui-monospace, monospace }
</style></head><body><h1>Sfumato's API</h1>
<p>As a document for programs: <a href="openapi.json">openapi.json</a></p>
"""

router = APIRouter()


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(HEAD + "\n".join(_routes(request.app.openapi())) + "</body></html>")


def _routes(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            yield f"<h2>{method.upper()} {escape(path)}</h2>"
            yield f"<p>{escape(route.get('description', ''))}</p><table>"
            for each in route.get("parameters", ()):
                yield _row(each["name"], each["schema"], each.get("description", ""))
            content = route.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            if "$ref" in schema:
                schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            for name, field in schema.get("properties", {}).items():
                yield _row(name, field, field.get("description", ""))
            yield "</table>"


def _row(name: str, field: Mapping[str, Any], text: str) -> str:
    usual = escape(repr(field["default"])) if "default" in field else ""
    cells = (escape(name), escape(_kind(field)), usual, escape(text))
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _kind(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"])
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    return str(field.get("type") or field.get("$ref", "any").rpartition("/")[2])
