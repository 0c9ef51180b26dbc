"""Pictures in JSON: base64 or data URIs in, base64 out; addresses only where a server fetches them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

from sfumato.errors import RequestError

MAX_TEXT = 128 * 2**20  # characters of one picture
_URL = re.compile(r"\s*(https?|ftp|file)://", re.IGNORECASE)


def fetched(text: str, fetch: Callable[[str], bytes] | None) -> str:
    """A field with the picture in place of its address, where `fetch` is given; else as it is.

    Raises RequestError: nothing is there, or it is not fetched; see `fetch.Fetcher`.
    """
    return write(fetch(text.strip())) if fetch is not None and _URL.match(text) else text


def data_of(text: str, name: str = "image") -> bytes:
    """The bytes of a field.

    Args:
        text: base64, or a data URI.
        name: of the field, for errors.

    Raises:
        RequestError: an address, no base64, or too long.
    """
    if _URL.match(text):
        raise RequestError(f"{name}: addresses are not fetched; send the picture itself, as base64")
    if len(text) > MAX_TEXT:
        raise RequestError(f"{name}: {len(text):,} characters; at most {MAX_TEXT:,} are read")
    if text.lstrip()[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            raise RequestError(f"{name}: a data URI that is not of the form data:image/png;base64,…")
    packed = "".join(text.split())
    if not packed:
        raise RequestError(f"{name}: empty; expected a picture as base64")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{name}: not base64: {error}") from error


def write(data: bytes) -> str:
    """A file's bytes as base64."""
    return base64.b64encode(data).decode("ascii")
