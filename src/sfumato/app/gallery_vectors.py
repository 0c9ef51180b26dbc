"""Similar pictures: each as 64 small numbers, looked up exactly.

Legend: N pictures, D = 64 numbers of each.

A picture is shrunk to 32×32 and each of its channels, Y, Cb and Cr, to its lowest frequencies: the layout of
light and colour (the colour layout descriptor of MPEG-7, ISO/IEC 15938-3, with more of its coefficients). The
transform keeps distances, so that of two vectors is that of the two blurred pictures. One byte a number,
6.4 MB for 100,000 pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

from sfumato.pipeline.source import flatten

SIDE = 32
COUNTS = (36, 14, 14)  # coefficients of Y, Cb and Cr
DIMENSIONS = sum(COUNTS)
GAIN = 4.0  # steps of a byte for 1 of a coefficient; pixels go from -1 to 1
BLOCK = 16384  # pictures compared at once: what fits a cache

Bytes = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int64]
Distances = npt.NDArray[np.float32]


def describe(image: Image.Image) -> bytes:
    """The picture's vector: 64 signed bytes."""
    small = flatten(image, "#ffffff").resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr")
    pixels = np.asarray(small, dtype=np.float64) / 127.5 - 1  # (32,32,3)
    basis = _cosines()
    found = []
    for channel, count in enumerate(COUNTS):
        frequencies = basis @ pixels[:, :, channel] @ basis.T  # (32,32)
        found.append(frequencies[_zigzag(count)])
    vector = np.concatenate(found)  # (64,)
    return np.clip(np.rint(vector * GAIN), -127, 127).astype(np.int8).tobytes()


class Vectors:
    """The vectors of all pictures, in memory, exact."""

    def __init__(self) -> None:
        """None yet."""
        self._lock = threading.Lock()
        self._vectors: Bytes = np.empty((1024, DIMENSIONS), np.int8)  # (N,D), with room
        self._numbers: Numbers = np.empty(1024, np.int64)  # (N,)
        self._owners = np.empty(1024, np.int32)
        self._codes: dict[str, int] = {}
        self._places: dict[int, int] = {}  # by number
        self._last = 0

    @property
    def last(self) -> int:
        """The highest number there is."""
        with self._lock:
            return self._last

    def add(self, rows: Iterable[tuple[int, str, bytes]]) -> None:
        """Take in pictures, by number, owner and vector, in place of what has the number."""
        with self._lock:
            for number, owner, vector in rows:
                place = self._places.setdefault(number, len(self._places))
                if place == len(self._numbers):
                    self._grow()
                self._vectors[place] = np.frombuffer(vector, np.int8)
                self._numbers[place] = number
                self._owners[place] = self._codes.setdefault(owner, len(self._codes))
                self._last = max(self._last, number)

    def nearest(self, vector: bytes, owner: str | None) -> tuple[Numbers, Distances]:
        """All pictures, those most like a vector first; of equal ones the newest.

        Args:
            vector: as `describe` makes it.
            owner: whose; None = everybody's.

        Returns:
            Numbers (N,), and distances (N,): the root mean square of the differences of the blurred pictures'
            channels, which go from -1 to 1.
        """
        with self._lock:
            wanted = np.frombuffer(vector, np.int8).astype(np.float32)  # (D,)
            there = len(self._places)
            squares = np.empty(there, np.float32)  # (N,)
            for start in range(0, there, BLOCK):
                block = self._vectors[start : min(start + BLOCK, there)].astype(np.float32) - wanted
                squares[start : start + len(block)] = np.einsum("nd,nd->n", block, block)
            numbers = self._numbers[:there]
            if owner is not None:
                own = self._owners[:there] == self._codes.get(owner, -1)
                squares, numbers = squares[own], numbers[own]
            order = np.argsort(squares[::-1], kind="stable")
            distances = np.sqrt(squares[::-1][order]) / (GAIN * SIDE)
            return numbers[::-1][order], distances.astype(np.float32)

    def _grow(self) -> None:
        self._vectors = np.concatenate((self._vectors, np.empty_like(self._vectors)))
        self._numbers = np.concatenate((self._numbers, np.empty_like(self._numbers)))
        self._owners = np.concatenate((self._owners, np.empty_like(self._owners)))


def _cosines() -> npt.NDArray[np.float64]:
    """The orthonormal cosine transform (DCT-II) as a matrix (32,32)."""
    frequency, place = np.mgrid[:SIDE, :SIDE]
    basis = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
    basis[0] /= np.sqrt(2)
    return basis  # type: ignore[no-any-return]


def _zigzag(count: int) -> tuple[list[int], list[int]]:
    """Rows and columns of the `count` lowest frequencies."""
    places = sorted(
        ((row, column) for row in range(SIDE) for column in range(SIDE)), key=lambda each: (sum(each), each)
    )[:count]
    return [row for row, _ in places], [column for _, column in places]
