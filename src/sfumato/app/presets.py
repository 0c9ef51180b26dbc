"""Presets: whole requests under a name, each owner's own. Pictures that they start from are not kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from sfumato.app.codec import decode, encode
from sfumato.app.storage import METADATA, faults
from sfumato.errors import RequestError
from sfumato.types import Request

MAX_NAME = 100  # characters
MAX_PRESETS = 500  # of one owner
MAX_BYTES = 2**18  # of one

PRESETS = sa.Table(
    "sfumato_presets",
    METADATA,
    sa.Column("owner", sa.String(200), primary_key=True),
    sa.Column("name", sa.String(MAX_NAME), primary_key=True),
    sa.Column("request", sa.Text, nullable=False),  # JSON
)


class Presets:
    """Named requests. Every method raises StorageError where the database cannot be used."""

    def __init__(self, database: sa.Engine) -> None:
        """Use a database that `storage.connect` has opened."""
        self._database = database

    def names(self, owner: str) -> list[str]:
        """Of an owner's presets, in the alphabet's order."""
        with self._begin() as db:
            names = db.scalars(sa.select(PRESETS.c.name).where(PRESETS.c.owner == owner))
            return sorted(names, key=lambda name: (name.casefold(), name))

    def get(self, owner: str, name: str) -> Request:
        """The request of this name. Raises RequestError: there is none."""
        with self._begin() as db:
            written = db.scalar(sa.select(PRESETS.c.request).where(*_mine(owner, name)))
        if written is None:
            raise RequestError(f"no preset {name[:MAX_NAME]!r}; choose one of the list")
        return decode(json.loads(written), _no_picture)

    def put(self, owner: str, name: str, request: Request) -> None:
        """Keep a request, in place of what has the name.

        Raises RequestError: a name that is none, a prompt too long, or too many presets.
        """
        name = name.strip()
        if not (0 < len(name) <= MAX_NAME and name.isprintable()):
            raise RequestError(f"a preset's name has 1 to {MAX_NAME} printable characters, not {len(name)}")
        bare = replace(
            request,
            source=replace(request.source, image=None, depth=None),
            mask=replace(request.mask, image=None),
        )
        written = json.dumps(encode(bare, lambda picture: ""), sort_keys=True)
        if len(written) > MAX_BYTES:
            raise RequestError(
                f"a preset of {len(written):,} bytes; at most {MAX_BYTES:,}: shorten the prompt"
            )
        dialect = sqlite if self._database.dialect.name == "sqlite" else postgresql
        row = dialect.insert(PRESETS).values(owner=owner, name=name, request=written)
        row = row.on_conflict_do_update(index_elements=["owner", "name"], set_={"request": written})
        counted = sa.select(sa.func.count()).select_from(PRESETS).where(PRESETS.c.owner == owner)
        with self._begin() as db:
            db.execute(row)
            if (db.scalar(counted) or 0) > MAX_PRESETS:  # the error takes it back
                raise RequestError(f"{MAX_PRESETS} presets are the most; remove one first")

    def remove(self, owner: str, name: str) -> None:
        """Forget a preset, where there is one."""
        with self._begin() as db:
            db.execute(sa.delete(PRESETS).where(*_mine(owner, name)))

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with faults(self._database), self._database.begin() as db:
            yield db


def _mine(owner: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
    return PRESETS.c.owner == owner, PRESETS.c.name == name.strip().replace("\0", "")


def _no_picture(name: str) -> Path:
    raise RequestError(f"a preset has no picture {name[:40]!r}")
