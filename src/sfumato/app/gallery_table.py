"""The tables of the gallery, and its nouns: a picture, what pictures are looked for by, a page of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from sfumato.app.gallery_words import Scope
from sfumato.errors import RequestError

State = Literal["there", "missing", "trash"]
STATES: tuple[State, ...] = get_args(State)
MAX_RATING = 5
MAX_TAGS = 100  # of a picture
MAX_TAG = 60  # characters
MAX_PAGE = 500  # pictures

METADATA = sa.MetaData()
PICTURES = sa.Table(
    "sfumato_pictures",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", sa.String(32), unique=True, nullable=False),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column(
        "file", sa.String(1000), unique=True, nullable=False
    ),  # below the outputs, also while in the trash
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("changed", sa.Float, nullable=False),  # when the state did
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("seed", sa.String(20), nullable=False),  # up to 2^64 - 1, which no integer column holds
    sa.Column("model", sa.String(300), nullable=False),
    sa.Column("sampler", sa.String(100), nullable=False),
    sa.Column("program", sa.String(100), nullable=False),
    sa.Column("job", sa.String(64), nullable=False),
    sa.Column("rating", sa.SmallInteger, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("negative", sa.Text, nullable=False),
    sa.Column("infotext", sa.Text, nullable=False),
    sa.Column("request", sa.Text),  # JSON
    sa.Index("sfumato_pictures_state", "state", "number"),
    sa.Index("sfumato_pictures_owner", "owner", "state", "number"),
    sa.Index("sfumato_pictures_sha256", "sha256", "owner"),
    sa.Index("sfumato_pictures_model", "model", "state", "number"),
    sa.Index("sfumato_pictures_sampler", "sampler", "state", "number"),
    sa.Index("sfumato_pictures_seed", "seed", "state", "number"),
    sa.Index("sfumato_pictures_created", "created"),
    sa.Index("sfumato_pictures_size", "width", "height", "state", "number"),
    sa.Index("sfumato_pictures_rating", "rating", "state", "number"),
    sqlite_autoincrement=True,
)
TAGS = sa.Table(
    "sfumato_picture_tags",
    METADATA,
    sa.Column("tag", sa.String(MAX_TAG), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, index=True),
)
VECTORS = sa.Table(
    "sfumato_picture_vectors",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("owner", sa.String(200), nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of the gallery."""

    id: str
    number: int  # rises with every picture taken in
    owner: str
    file: str  # below the outputs folder, with forward slashes; where it belongs, while it is in the trash
    sha256: str
    state: State
    created: float  # seconds since 1970, UTC
    width: int
    height: int
    seed: int | None  # None = it does not say
    model: str
    sampler: str
    program: str  # that made it; "" where it does not say
    job: str  # that made it; "" = imported
    rating: int  # 0 = none, to MAX_RATING
    tags: tuple[str, ...]
    prompt: str
    negative: str
    infotext: str
    request: Mapping[str, Any] | None  # as `codec.encode` writes it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture to be taken in."""

    owner: str
    file: str
    sha256: str
    created: float
    width: int
    height: int
    seed: int | None
    model: str = ""
    sampler: str = ""
    program: str = ""
    job: str = ""
    prompt: str = ""
    negative: str = ""
    infotext: str = ""
    rest: str = ""  # of its text, to be found
    request: Mapping[str, Any] | None = None
    vector: bytes = b""  # see `gallery_vectors.describe`

    def values(self) -> dict[str, Any]:
        """What its row holds."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "created": self.created,
            "width": self.width,
            "height": self.height,
            "seed": "" if self.seed is None else str(self.seed),
            "model": storable(self.model)[:300],
            "sampler": storable(self.sampler)[:100],
            "program": storable(self.program)[:100],
            "job": self.job,
            "prompt": storable(self.prompt),
            "negative": storable(self.negative),
            "infotext": storable(self.infotext),
            "request": None if self.request is None else json.dumps(self.request, sort_keys=True),
        }


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What pictures are looked for by. None, "" and () = whatever it is."""

    text: str = ""  # see `text.words.query`
    scope: Scope = "all"  # in which texts
    model: str | None = None
    sampler: str | None = None
    seed: int | None = None
    since: float | None = None  # seconds since 1970, UTC; this moment, too
    until: float | None = None  # not this moment
    width: int | None = None
    height: int | None = None
    tags: Sequence[str] = ()  # all of them
    rating: int | None = None  # at least
    job: str | None = None
    state: State = "there"

    def __post_init__(self) -> None:
        if self.scope not in get_args(Scope):
            raise RequestError(f"scope={self.scope!r} is not one of {', '.join(get_args(Scope))}")
        if self.state not in STATES:
            raise RequestError(f"state={self.state!r} is not one of {', '.join(STATES)}")
        for name in ("width", "height", "rating"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**31:
                raise RequestError(f"{name}={value} is outside 0 to 2^31 - 1")
        if len(self.tags) > MAX_TAGS:
            raise RequestError(f"{len(self.tags)} tags; at most {MAX_TAGS} are looked for at once")

    def conditions(self) -> list[Any]:
        """For rows of `PICTURES`, but for the text's."""
        row = PICTURES.c
        equal = {
            "model": self.model,
            "sampler": self.sampler,
            "seed": None if self.seed is None else str(self.seed),
            "width": self.width,
            "height": self.height,
            "job": self.job,
            "state": self.state,
        }
        found: list[Any] = []
        for name, value in equal.items():
            if value is not None:
                found.append(row[name] == (storable(value) if isinstance(value, str) else value))
        if self.since is not None:
            found.append(row.created >= self.since)
        if self.until is not None:
            found.append(row.created < self.until)
        if self.rating is not None:
            found.append(row.rating >= self.rating)
        for tag in clean_tags(self.tags):
            found.append(row.number.in_(sa.select(TAGS.c.number).where(TAGS.c.tag == tag)))
        return found


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some pictures of a search."""

    pictures: tuple[Picture, ...]
    more: int | None  # what the next page is asked for with; None = there is none


def picture_of(row: Any, tags: Sequence[str]) -> Picture:
    """A row as a picture."""
    values = {column.name: getattr(row, column.name) for column in PICTURES.c if column.name != "changed"}
    return Picture(
        **values
        | {
            "seed": int(row.seed) if row.seed else None,
            "request": None if row.request is None else json.loads(row.request),
            "tags": tuple(tags),
        }
    )


def clean_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags without space around them, each once, in order.

    Raises RequestError: an empty one, a long one, too many.
    """
    cleaned = {" ".join(storable(tag).split()) for tag in tags}
    for tag in cleaned:
        if not 1 <= len(tag) <= MAX_TAG:
            raise RequestError(f"tag {tag[:80]!r} has {len(tag)} characters; expected 1 to {MAX_TAG}")
    if len(cleaned) > MAX_TAGS:
        raise RequestError(f"{len(cleaned)} tags; a picture has {MAX_TAGS} at most")
    return tuple(sorted(cleaned))


def storable(text: str) -> str:
    """The text without what databases do not hold: NUL, and halves of characters."""
    return text.replace("\0", "\ufffd").encode("utf-8", "surrogatepass").decode("utf-8", "replace")
