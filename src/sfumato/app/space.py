"""What each owner's files take of the disk, and how much they may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from sfumato.app.storage import METADATA, faults
from sfumato.errors import QuotaError

SPACE = sa.Table(
    "sfumato_space",
    METADATA,
    sa.Column("owner", sa.String(200), primary_key=True),
    sa.Column("name", sa.String(1000), primary_key=True),  # of a file: below the outputs, or inputs/…
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Index("sfumato_space_owner", "owner", "bytes"),
    sa.Index("sfumato_space_name", "name"),
)


class Space:
    """A book of files. Every method raises StorageError where the database cannot be used."""

    def __init__(self, database: sa.Engine, limit: int | None) -> None:
        """Keep the book in a database that `storage.connect` has opened.

        Args:
            database: where.
            limit: bytes of one owner; None = as many as there is room for.
        """
        self.database, self.limit = database, limit

    def used(self, owner: str) -> int:
        """Bytes that an owner's files take."""
        with self._begin() as db:
            return _used(db, owner)

    def check(self, owner: str) -> None:
        """See that an owner has room for anything. Raises QuotaError: none."""
        if self.limit is not None and (used := self.used(owner)) >= self.limit:
            raise _full(used, self.limit)

    def take(self, owner: str, name: str, size: int) -> None:
        """Write a file of an owner's down, in place of what had its name.

        Raises QuotaError: it does not fit; nothing is written down.
        """
        dialect = sqlite if self.database.dialect.name == "sqlite" else postgresql
        row = dialect.insert(SPACE).values(owner=owner, name=name, bytes=size)
        with self._begin() as db:
            db.execute(row.on_conflict_do_update(index_elements=["owner", "name"], set_={"bytes": size}))
            if self.limit is not None and (used := _used(db, owner)) > self.limit:
                raise _full(used, self.limit)

    def leave(self, owner: str, name: str) -> bool:
        """Strike a file of an owner's out; whether nobody has it any more."""
        named = SPACE.c.name == name
        with self._begin() as db:
            db.execute(sa.delete(SPACE).where(named, SPACE.c.owner == owner))
            return db.execute(sa.select(SPACE.c.owner).where(named).limit(1)).first() is None

    def holds(self, owner: str, name: str) -> bool:
        """Whether an owner has this file."""
        mine = sa.select(SPACE.c.bytes).where(SPACE.c.owner == owner, SPACE.c.name == name)
        with self._begin() as db:
            return db.execute(mine).first() is not None

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with faults(self.database), self.database.begin() as db:
            yield db


def _used(db: sa.Connection, owner: str) -> int:
    return int(db.scalar(sa.select(sa.func.sum(SPACE.c.bytes)).where(SPACE.c.owner == owner)) or 0)


def _full(used: int, limit: int) -> QuotaError:
    return QuotaError(
        f"your pictures would take {used:,} bytes, {limit:,} are allowed; delete some and empty the trash"
    )
