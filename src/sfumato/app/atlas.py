"""A map of the gallery: its pictures in the plane, near what is like them.

By looks (the pictures' vectors), by words (those that the prompts share) or by meaning (the prompts as a text
encoder reads them). The plane is that of the two directions in which the vectors differ most.

Legend: N pictures, D numbers of each.
"""

from __future__ import annotations

import hashlib
import math
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from sfumato.app.gallery_table import PICTURES, VECTORS
from sfumato.app.gallery_vectors import DIMENSIONS, GAIN, SIDE
from sfumato.app.storage import METADATA, faults
from sfumato.errors import PromptError, RequestError
from sfumato.pipeline.shelf import ModelShelf
from sfumato.text.words import words
from sfumato.types import ModelChoice

By = Literal["looks", "words", "meaning"]
MAX_POINTS = 10_000  # of a larger gallery, evenly chosen pictures
LABEL = 120  # characters of a prompt that a point carries
WORD_DIMENSIONS = 256
KEPT = 16  # maps
_ROWS = 1000  # asked for at once

Vectors = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]

PROMPT_VECTORS = sa.Table(
    "sfumato_prompt_vectors",
    METADATA,
    sa.Column("model", sa.String(64), primary_key=True),  # SHA-256 of the checkpoint
    sa.Column("prompt", sa.String(64), primary_key=True),  # SHA-256 of the text
    sa.Column("vector", sa.LargeBinary, nullable=False),  # float16, little-endian
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """Pictures in the plane."""

    ids: tuple[str, ...]
    labels: tuple[str, ...]  # how their prompts begin
    points: Points  # (N,2), the farthest 1 from the middle in x or y; both axes of one scale
    shares: tuple[float, float]  # of the variance that each axis shows, 0 to 1
    total: int  # pictures there are; more than on the map where they are too many, or not learnt yet


class Atlas:
    """Draws maps and keeps them until the gallery changes. May be shared by threads."""

    def __init__(self, database: sa.Engine, shelf: ModelShelf) -> None:
        """Use a gallery's database, and a shelf for the text encoder. Nothing is loaded yet."""
        self._database, self._shelf = database, shelf
        self._maps: OrderedDict[tuple[str, str | None, str], tuple[tuple[Any, ...], Map]] = OrderedDict()
        self._lock = threading.Lock()

    def map(self, by: By = "looks", *, owner: str | None = None, model: str | None = None) -> Map:
        """A map of an owner's pictures, or of everybody's for None.

        Args:
            by: what is near what. "meaning" shows only prompts that have been learnt.
            owner: whose.
            model: for "meaning", the checkpoint whose text encoder reads; None = that of requests that name
                none.

        Raises:
            RequestError: no such kind of map.
            ModelNotFoundError: no such checkpoint.
        """
        if by not in get_args(By):
            raise RequestError(f"by={by!r} is not one of {', '.join(get_args(By))}")
        sha256 = self._models(model).sha256 if by == "meaning" else ""
        key = by, owner, sha256
        with self._lock, self._begin() as db:
            state = self._state(db, owner, sha256)
            if key not in self._maps or self._maps[key][0] != state:
                self._maps[key] = state, self._drawn(db, by, owner, sha256)
            self._maps.move_to_end(key)
            while len(self._maps) > KEPT:
                self._maps.popitem(last=False)
            return self._maps[key][1]

    def learn(self, *, owner: str | None = None, model: str | None = None) -> Iterator[tuple[int, int]]:
        """Have a text encoder read the prompts that it has not read yet; stop iterating to stop.

        Args:
            owner: whose pictures' prompts; None = everybody's.
            model: as for `map`.

        Yields:
            How many prompts are read, and how many there are to read.
        """
        models = self._models(model)
        with self._begin() as db:
            chosen = sa.select(PICTURES.c.prompt).where(*_there(owner)).distinct()
            read = sa.select(PROMPT_VECTORS.c.prompt).where(PROMPT_VECTORS.c.model == models.sha256)
            known = set(db.scalars(read))
            fresh = [text for text in db.scalars(chosen) if _digest(text) not in known]
        yield 0, len(fresh)
        dialect = sqlite if self._database.dialect.name == "sqlite" else postgresql
        for number, text in enumerate(fresh, 1):
            try:
                vector = models.reader.pooled(text)
            except PromptError:  # a text that no encoder reads
                vector = models.reader.pooled("")
            values = {"model": models.sha256, "prompt": _digest(text)}
            values["vector"] = vector.cpu().numpy().astype("<f2").tobytes()
            with self._begin() as db:  # another may have read the same
                db.execute(dialect.insert(PROMPT_VECTORS).values(values).on_conflict_do_nothing())
            yield number, len(fresh)

    def _models(self, model: str | None) -> Any:
        return self._shelf.load(ModelChoice(checkpoint=model))

    def _state(self, db: sa.Connection, owner: str | None, sha256: str) -> tuple[Any, ...]:
        """What changes whenever a map would."""
        row = PICTURES.c
        counted = sa.select(sa.func.count(), sa.func.max(row.number), sa.func.max(row.changed))
        learnt = sa.select(sa.func.count()).where(PROMPT_VECTORS.c.model == sha256)
        return *db.execute(counted.where(*_there(owner))).one(), sha256 and db.scalar(learnt)

    def _drawn(self, db: sa.Connection, by: By, owner: str | None, sha256: str) -> Map:
        numbers = list(
            db.scalars(sa.select(PICTURES.c.number).where(*_there(owner)).order_by(PICTURES.c.number))
        )
        chosen = numbers
        if len(numbers) > MAX_POINTS:
            places = np.linspace(0, len(numbers) - 1, MAX_POINTS).round().astype(int)
            chosen = [numbers[place] for place in places]
        rows = [
            row
            for start in range(0, len(chosen), _ROWS)
            for row in _rows(db, by, chosen[start : start + _ROWS])
        ]
        if by == "meaning":
            read = sa.select(PROMPT_VECTORS.c.prompt, PROMPT_VECTORS.c.vector)
            known = {
                prompt: np.frombuffer(vector, "<f2").astype(np.float64)
                for prompt, vector in db.execute(read.where(PROMPT_VECTORS.c.model == sha256))
            }
            rows = [row for row in rows if _digest(row.prompt) in known]
            vectors = np.array([known[_digest(row.prompt)] for row in rows] or np.zeros((0, 0)))
        elif by == "words":
            vectors = word_vectors([row.prompt for row in rows])
        else:
            joined = np.frombuffer(b"".join(row.vector for row in rows), np.int8)
            vectors = joined.reshape(len(rows), DIMENSIONS).astype(np.float64) / (GAIN * SIDE)
        points, shares = plane(vectors)
        return Map(
            ids=tuple(row.id for row in rows),
            labels=tuple(" ".join(row.prompt.split())[:LABEL] for row in rows),
            points=points,
            shares=shares,
            total=len(numbers),
        )

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with faults(self._database), self._database.begin() as db:
            yield db


def plane(vectors: Vectors) -> tuple[Points, tuple[float, float]]:
    """The plane in which vectors differ most: their first two principal components.

    Source: Pearson 1901, "On lines and planes of closest fit". Signs are such that the largest number of each
    direction is positive.

    Args:
        vectors: (N,D); any N and D.

    Returns:
        Points (N,2), scaled so that the farthest coordinate is 1, and each axis' share of the variance.
    """
    centred = vectors - vectors.mean(0) if len(vectors) else vectors  # (N,D)
    count, dimensions = centred.shape
    if count < 2 or dimensions == 0:
        return np.zeros((count, 2), np.float32), (0.0, 0.0)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # (D,) rising, (D,D)
    axes = directions[:, ::-1][:, :2]  # (D,2), or (1,1)
    largest = axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]
    points = centred @ (axes * np.where(largest < 0, -1, 1))  # (N,2)
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    whole = max(float(variances.sum()), 1e-300)
    first, second = (*np.clip(variances[::-1][:2], 0, None), 0.0)[:2]
    return (points / max(float(np.abs(points).max()), 1e-300)).astype(np.float32), (
        float(first) / whole,
        float(second) / whole,
    )


def word_vectors(texts: Sequence[str]) -> Vectors:
    """Texts as vectors of one length, near where they share words, rare ones above all: (N,WORD_DIMENSIONS).

    Source: Weinberger et al. 2009 (arXiv:0902.2206), equation 3: every word at a place and with a sign of its
    own; weighted by inverse document frequency (Spärck Jones 1972).
    """
    found = {text: set(words(text)) for text in dict.fromkeys(texts)}
    frequency = Counter(word for text in texts for word in found[text])
    place, weight = {}, {}
    for word, count in frequency.items():
        code = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        place[word] = (code >> 1) % WORD_DIMENSIONS
        weight[word] = (1 if code & 1 else -1) * math.log((1 + len(texts)) / count)
    rows = [row for row, own in enumerate(found.values()) for _ in own]
    read = [word for own in found.values() for word in own]
    vectors = np.zeros((len(found), WORD_DIMENSIONS))
    np.add.at(vectors, (rows, [place[word] for word in read]), [weight[word] for word in read])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    order = {text: row for row, text in enumerate(found)}
    return vectors[[order[text] for text in texts]]


def _rows(db: sa.Connection, by: By, numbers: Sequence[int]) -> list[Any]:
    """Pictures by their numbers: id, prompt and, for looks, vector; those without one are left out."""
    columns = [PICTURES.c.id, PICTURES.c.prompt, *([VECTORS.c.vector] if by == "looks" else [])]
    joined = PICTURES.join(VECTORS, VECTORS.c.number == PICTURES.c.number) if by == "looks" else PICTURES
    chosen = sa.select(*columns).select_from(joined).where(PICTURES.c.number.in_(numbers))
    return list(db.execute(chosen.order_by(PICTURES.c.number)))


def _there(owner: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    there = PICTURES.c.state == "there"
    return (there,) if owner is None else (there, PICTURES.c.owner == owner)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
