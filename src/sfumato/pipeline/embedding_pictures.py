"""Embeddings inside pictures, as the field's most used interface passes them on.

The vectors stand as JSON in the PNG text `sd-ti-embedding`, in base64; or, where a site has stripped that,
in the pixels: a border left and right, one black column away from the picture, whose low four bits in all
three channels, unmasked by a sequence of pseudo-random numbers, are the low and the high halves of the bytes
of the same JSON, packed by zlib.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.pipeline import images
from sfumato.weights.adapters.embeddings import MOST_BYTES, Embedding, embedding_of
from sfumato.weights.files import file_sha256

TEXT = "sd-ti-embedding"
_TENSOR = "TORCHTENSOR"
_MULTIPLIER, _INCREMENT, _MODULUS = 1664525, 1013904223, 2**32

Bytes = NDArray[np.uint8]


def read_embedding_picture(path: Path) -> Embedding:
    """Read the embedding in a picture's text or pixels. It may have a name of its own.

    Raises:
        OutputError: no picture, or damaged.
        UnknownModelError: it carries none.
        WeightsError: what it carries is broken.
    """
    text = images.read_texts(path).get(TEXT)
    if text is not None:
        try:
            raw = base64.b64decode(text, validate=False)
        except (binascii.Error, ValueError) as error:
            raise WeightsError(f"{path}: its embedding is not base64; get the file again") from error
    else:
        pixels = np.array(images.open_image(path).convert("RGB"), np.uint8)
        packed = _hidden(pixels)
        if packed is None:
            raise UnknownModelError(f"{path}: carries no embedding")
        raw = _unpacked(packed, path)
    return _understood(raw, path)


def _understood(raw: bytes, path: Path) -> Embedding:
    try:
        data = json.loads(raw)
        stored = data["string_to_param"].items()
        tensors = {f"string_to_param.{token}": torch.tensor(value[_TENSOR]) for token, value in stored}
    except (ValueError, RuntimeError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: its embedding is damaged; get the file again") from error
    facts: Mapping[str, Any] = data
    name = data.get("name")
    name = name if isinstance(name, str) and name else path.stem
    return embedding_of(name, path, tensors, facts, file_sha256(path))


def _hidden(pixels: Bytes) -> bytes | None:
    """The packed bytes in a picture's borders (H,W,3); None = there are none."""
    lit: NDArray[np.bool_] = np.all(pixels > 0, axis=2)
    if not lit.any():
        return None
    (rows,), (columns,) = np.nonzero(np.any(lit, axis=1)), np.nonzero(np.any(lit, axis=0))
    inside = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    (black,) = np.nonzero(inside.sum((0, 2)) == 0)
    if len(black) < 2:
        return None
    low, high = inside[:, : black[0]], inside[:, black[-1] + 1 :]
    if low.shape != high.shape or not low.size:
        return None
    low, high = (each.ravel() ^ _mask(each.size) for each in (low, high))
    return bytes((high << 4 | low).tobytes())


def _mask(count: int) -> Bytes:
    """The low four bits of the pseudo-random sequence with which the borders are masked."""
    numbers = np.empty(count, np.uint8)
    seed = 0
    for place in range(count):
        seed = (_MULTIPLIER * seed + _INCREMENT) % _MODULUS
        numbers[place] = seed % 255 & 0x0F
    return numbers


def _unpacked(packed: bytes, path: Path) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        raw = unpacking.decompress(packed, MOST_BYTES)
    except zlib.error:
        raise UnknownModelError(f"{path}: carries no embedding") from None
    if not unpacking.eof:
        raise WeightsError(f"{path}: its embedding is cut short; get the file again")
    return raw
