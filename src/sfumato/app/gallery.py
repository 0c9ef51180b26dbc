"""The gallery: every picture with what it was made from, found again by words, by values and by looks.

Pages go by key: a page begins below the last number of the one before, so that the thousandth costs as much
as the first, and nothing is shown twice while pictures come in. An owner's pictures are nobody else's: others
are told that there is no such picture.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from sfumato.app import gallery_order as orders
from sfumato.app.codec import Inputs
from sfumato.app.gallery_files import Elsewhere, PictureFiles
from sfumato.app.gallery_order import Order, Places
from sfumato.app.gallery_table import (
    MAX_PAGE,
    MAX_RATING,
    METADATA,
    PICTURES,
    TAGS,
    VECTORS,
    Entry,
    Filter,
    Page,
    Picture,
    State,
    clean_tags,
    picture_of,
)
from sfumato.app.gallery_vectors import Vectors, describe
from sfumato.app.gallery_words import words_of
from sfumato.app.settings import Settings
from sfumato.app.space import SPACE
from sfumato.app.storage import connect, faults, sqlite_url
from sfumato.app.store import Store
from sfumato.errors import OutputError, PictureNotFoundError, RequestError
from sfumato.text.words import query

LATE = 1000  # numbers that another process may still be writing below the highest one seen


class Gallery:
    """Pictures, indexed in a database."""

    def __init__(
        self, database: sa.Engine, outputs: Path, thumbnails: Path, elsewhere: Elsewhere | None = None
    ) -> None:
        """Use a database, making its tables where they are new.

        Args:
            database: as `database.connect` opens it.
            outputs: the folder that all pictures are in.
            thumbnails: the folder of small pictures.
            elsewhere: what holds the pictures of other machines; None = there are none.

        Raises:
            StorageError: the database cannot be used.
        """
        self._database = database
        self.files = PictureFiles(outputs, thumbnails, elsewhere)
        self._words = words_of(database.dialect.name)
        self._vectors = Vectors()
        self._moving = threading.Lock()  # held while files go into the trash, out of it, or for good
        with self._begin() as db:
            if database.dialect.name == "postgresql":
                db.execute(sa.text("select pg_advisory_xact_lock(7861)"))  # two that start at once
            METADATA.create_all(db)
            self._words.create(db)

    def add(self, *entries: Entry) -> list[str]:
        """Take pictures in, all of them or none; their ids. A file made again keeps its place and marks."""
        with self._begin() as db:
            return [self._add(db, entry) for entry in entries]

    def _add(self, db: sa.Connection, entry: Entry) -> str:
        row = db.execute(
            sa.select(PICTURES.c.number, PICTURES.c.id, PICTURES.c.state).where(PICTURES.c.file == entry.file)
        ).first()
        now, values = time.time(), entry.values()
        if row is None:
            values |= {"id": uuid.uuid4().hex, "owner": entry.owner, "rating": 0}
            values |= {"state": "there", "changed": now}
            key = db.execute(sa.insert(PICTURES).values(values)).inserted_primary_key
            assert key is not None
            number, picture_id = key[0], values["id"]
        else:
            number, picture_id = row.number, row.id
            del values["created"]
            state = "there" if row.state == "missing" else row.state
            change = sa.update(PICTURES).where(PICTURES.c.number == number)
            db.execute(change.values(**values, state=state, changed=now))
            db.execute(sa.delete(VECTORS).where(VECTORS.c.number == number))
        self._words.put(db, [(number, (values["prompt"], values["negative"], entry.rest))])
        if entry.vector:
            vector = {"number": number, "owner": entry.owner, "vector": entry.vector}
            db.execute(sa.insert(VECTORS).values(vector))
        return str(picture_id)

    def knows(self, sha256: str, owner: str) -> bool:
        """Whether an owner has this very file, be it in the trash."""
        wanted = sa.select(PICTURES.c.number).where(PICTURES.c.sha256 == sha256, PICTURES.c.owner == owner)
        with self._begin() as db:
            return db.execute(wanted.limit(1)).first() is not None

    def holds(self, file: str) -> bool:
        """Whether a file of the outputs folder is anybody's picture."""
        wanted = sa.select(PICTURES.c.number).where(PICTURES.c.file == file)
        with self._begin() as db:
            return db.execute(wanted).first() is not None

    def is_trashed(self, file: str) -> bool:
        """Whether a file of the outputs folder is in the trash."""
        wanted = sa.select(PICTURES.c.number).where(PICTURES.c.file == file, PICTURES.c.state == "trash")
        with self._begin() as db:
            return db.execute(wanted).first() is not None

    def ids(self, files: Collection[str]) -> dict[str, str]:
        """Ids of pictures that are there, by their files."""
        row = PICTURES.c
        wanted = sa.select(row.file, row.id).where(row.file.in_(files), row.state == "there")
        with self._begin() as db:
            return {found.file: found.id for found in db.execute(wanted)}

    def get(self, picture_id: str, owner: str | None = None) -> Picture:
        """The picture of this id; one whose file has vanished says so.

        Raises PictureNotFoundError: none, or another owner's.
        """
        with self._begin() as db:
            picture = self._find(db, picture_id, owner)
        if picture.state == "trash":
            return picture
        there = self.files.ready() and self.files.is_there(picture.file)
        return replace(picture, state="there" if there else "missing")

    def search(
        self,
        wanted: Filter,
        *,
        owner: str | None = None,
        before: int | None = None,
        limit: int = 50,
        order: Order = "newest",
    ) -> Page:
        """Pictures, as they were when `check` last looked at their files.

        Args:
            wanted: which.
            owner: whose; None = everybody's.
            before: `more` of the page before.
            limit: how many at most, 1 to `MAX_PAGE`.
            order: what comes first; "newest" = what was taken in last.

        Raises:
            RequestError: a limit out of range, a tag that is none, another order.
        """
        _check_limit(limit)
        if before is not None and not -(2**63) <= before < 2**63:
            raise RequestError(f"before={before} is no number of a picture")
        if self._knows_none(wanted):
            return Page(pictures=(), more=None)
        select, by = self._select(wanted, owner, order, before)
        with self._begin() as db:
            rows = db.execute(select.order_by(*by).limit(limit + 1)).all()
            pictures = tuple(self._pictures(db, rows[:limit]))
        more = orders.key(order, pictures[-1].number, pictures[-1].rating) if len(rows) > limit else None
        return Page(pictures=pictures, more=more)

    def places(
        self, wanted: Filter, *, owner: str | None = None, limit: int = 50, order: Order = "newest"
    ) -> Places:
        """How many pictures `search` finds, and where each of its pages of `limit` begins.

        Raises RequestError: as `search` does.
        """
        _check_limit(limit)
        if self._knows_none(wanted):
            return Places(total=0, keys=())
        select, by = self._select(wanted, owner, order)
        place = sa.func.row_number().over(order_by=by).label("place")
        total = sa.func.count().over().label("total")
        found = select.with_only_columns(PICTURES.c.number, PICTURES.c.rating, place, total).subquery()
        ends = sa.or_(found.c.place % limit == 0, found.c.place == found.c.total)
        with self._begin() as db:
            rows = db.execute(sa.select(found).where(ends).order_by(found.c.place)).all()
        keys = tuple(orders.key(order, row.number, row.rating) for row in rows[:-1])
        return Places(total=rows[-1].total if rows else 0, keys=keys)

    def values(self, owner: str | None = None) -> dict[str, list[str]]:
        """The first `MAX_PAGE` models, samplers and tags that an owner's pictures can be found by."""
        here = [PICTURES.c.state == "there", *([] if owner is None else [PICTURES.c.owner == owner])]
        named = {"models": PICTURES.c.model, "samplers": PICTURES.c.sampler, "tags": TAGS.c.tag}
        found = {}
        with self._begin() as db:
            for name, column in named.items():
                select = sa.select(column).where(*here, column != "").distinct().order_by(column)
                if column.table is TAGS:
                    select = select.join(PICTURES, PICTURES.c.number == TAGS.c.number)
                found[name] = list(db.scalars(select.limit(MAX_PAGE)))
        return found

    def _knows_none(self, wanted: Filter) -> bool:
        """Whether nothing can be found: there is no folder, or the text has no words."""
        asked = query(wanted.text)
        return not self.files.ready() or (not asked.empty and not asked.terms)

    def _select(
        self, wanted: Filter, owner: str | None, order: Order, before: int | None = None
    ) -> tuple[Any, list[Any]]:
        """What is wanted, and what it is ordered by."""
        asked, number = query(wanted.text), PICTURES.c.number
        select = sa.select(PICTURES)
        if asked.terms:
            number = self._words.number
            select = select.select_from(self._words.table).join(PICTURES, PICTURES.c.number == number)
            select = select.where(self._words.matches(asked, wanted.scope))
        if owner is not None:
            select = select.where(PICTURES.c.owner == owner)
        if before is not None:
            select = select.where(orders.behind(order, before, number))
        return select.where(*wanted.conditions()), orders.columns(order, number)

    def similar(
        self, picture_id: str, *, owner: str | None = None, limit: int = 20
    ) -> list[tuple[Picture, float]]:
        """Pictures that look like one, the nearest first, each with its distance (0 = the same).

        Raises PictureNotFoundError: no such picture, or another owner's. RequestError: a limit out of range.
        """
        with self._begin() as db:
            picture = self._find(db, picture_id, owner)
            wanted = sa.select(VECTORS.c.vector).where(VECTORS.c.number == picture.number)
            vector = db.scalar(wanted)
        if vector is None:
            return []
        return self._like(vector, owner, limit, leave=picture.number)

    def like(
        self, image: Image.Image, *, owner: str | None = None, limit: int = 20
    ) -> list[tuple[Picture, float]]:
        """Pictures that look like one that need not be here; see `similar`."""
        return self._like(describe(image), owner, limit, leave=0)

    def _like(self, vector: bytes, owner: str | None, limit: int, leave: int) -> list[tuple[Picture, float]]:
        _check_limit(limit)
        self._refresh()
        numbers, distances = self._vectors.nearest(vector, owner)
        pairs: list[tuple[Picture, float]] = []
        for start in range(0, len(numbers), limit + 1):  # goes on where the nearest are in the trash
            some = numbers[start : start + limit + 1].tolist()
            chosen = sa.select(PICTURES).where(PICTURES.c.number.in_(some), PICTURES.c.state == "there")
            with self._begin() as db:
                found = self._pictures(db, db.execute(chosen).all())
            there = {each.number: each for each in found if each.number != leave}
            for number, distance in zip(some, distances[start:].tolist(), strict=False):
                if number in there:
                    pairs.append((there[number], distance))
            if len(pairs) >= limit:
                break
        return pairs[:limit]

    def _refresh(self) -> None:
        """Read the vectors that have come in."""
        wanted = sa.select(VECTORS).where(VECTORS.c.number > self._vectors.last - LATE)
        with self._begin() as db:
            self._vectors.add(
                (row.number, row.owner, row.vector) for row in db.execute(wanted.order_by(VECTORS.c.number))
            )

    def change(
        self,
        picture_id: str,
        *,
        owner: str | None = None,
        tags: Sequence[str] | None = None,
        rating: int | None = None,
    ) -> Picture:
        """Tag or rate a picture.

        Args:
            picture_id: which.
            owner: whose it has to be; None = anybody's.
            tags: in place of those it has; None = as they are.
            rating: 0 to `MAX_RATING`; None = as it is.

        Raises:
            PictureNotFoundError: none, or another owner's.
            RequestError: a rating out of range, a tag that is none.
        """
        if rating is not None and not 0 <= rating <= MAX_RATING:
            raise RequestError(f"rating={rating} is outside 0 to {MAX_RATING}")
        cleaned = None if tags is None else clean_tags(tags)
        with self._begin() as db:
            number = self._find(db, picture_id, owner).number
            if rating is not None:
                db.execute(sa.update(PICTURES).where(PICTURES.c.number == number).values(rating=rating))
            if cleaned is not None:
                db.execute(sa.delete(TAGS).where(TAGS.c.number == number))
                if cleaned:
                    db.execute(sa.insert(TAGS), [{"tag": tag, "number": number} for tag in cleaned])
            return self._find(db, picture_id, owner)

    def trash(self, picture_id: str, owner: str | None = None) -> Picture:
        """Put a picture into the trash; one that is there stays there.

        Raises PictureNotFoundError: none, or another owner's. OutputError: its file cannot be moved.
        """
        with self._moving:
            with self._begin() as db:
                picture = self._find(db, picture_id, owner)
                self._mark(db, picture.number, "trash")
            try:
                self.files.discard(picture)
            except OutputError:
                with self._begin() as db:
                    self._mark(db, picture.number, picture.state)
                raise
        return replace(picture, state="trash")

    def restore(self, picture_id: str, owner: str | None = None) -> Picture:
        """Take a picture out of the trash; one that is not there stays where it is.

        Raises:
            PictureNotFoundError: none, or another owner's.
            OutputError: its file has vanished, or cannot be moved.
            ConflictError: another file is in its place.
        """
        with self._moving:
            with self._begin() as db:
                picture = self._find(db, picture_id, owner)
            if picture.state != "trash":
                return picture
            self.files.bring_back(picture)
            with self._begin() as db:
                self._mark(db, picture.number, "there")
        return replace(picture, state="there")

    def empty_trash(self, owner: str | None = None) -> int:
        """Remove what is in the trash for good; how many pictures. Raises OutputError: a file stays."""
        chosen = sa.select(PICTURES).where(PICTURES.c.state == "trash").order_by(PICTURES.c.number)
        if owner is not None:
            chosen = chosen.where(PICTURES.c.owner == owner)
        with self._begin() as db:
            pictures = [picture_of(row, ()) for row in db.execute(chosen)]
        return sum(self._destroy(picture) for picture in pictures)

    def _destroy(self, picture: Picture) -> bool:
        """Remove a picture for good, its file first; False if it is in the trash no more."""
        state = sa.select(PICTURES.c.state).where(PICTURES.c.number == picture.number)
        same = sa.select(PICTURES.c.number).where(
            PICTURES.c.sha256 == picture.sha256, PICTURES.c.number != picture.number
        )
        with self._moving:
            with self._begin() as db:
                if db.scalar(state) != "trash":
                    return False
                shared = db.execute(same.limit(1)).first() is not None
            self.files.destroy(picture, shared=shared)
            with self._begin() as db:
                for table in (PICTURES, TAGS, VECTORS):
                    db.execute(sa.delete(table).where(table.c.number == picture.number))
                mine = sa.and_(SPACE.c.owner == picture.owner, SPACE.c.name == picture.file)
                db.execute(sa.delete(SPACE).where(mine))
                self._words.remove(db, picture.number)
        return True

    def check(self) -> Iterator[int]:
        """Mark the pictures whose files have vanished, or are back; how many, for each `MAX_PAGE` looked at.

        Nothing is marked where the outputs folder is not there, nor where pictures may be elsewhere.
        """
        row = PICTURES.c
        last = 0
        while self.files.local():
            some = sa.select(row.number, row.file, row.state).where(row.state != "trash", row.number > last)
            with self._begin() as db:
                rows = db.execute(some.order_by(row.number).limit(MAX_PAGE)).all()
            if not rows:
                return
            last = rows[-1].number
            now: list[State] = ["there" if self.files.is_there(each.file) else "missing" for each in rows]
            changed = [(each, state) for each, state in zip(rows, now, strict=True) if each.state != state]
            if changed and self.files.local():  # a disk that was taken away meanwhile has lost nothing
                with self._begin() as db:
                    for each, state in changed:
                        self._mark(db, each.number, state, before=each.state)
            yield len(changed)

    def path(self, picture: Picture) -> Path:
        """Where a picture's file is. Raises OutputError: it has vanished."""
        return self.files.path(picture)

    def read(self, picture: Picture) -> bytes:
        """The bytes of a picture's file. Raises OutputError: it has vanished."""
        return self.path(picture).read_bytes()

    def pages(self, wanted: Filter, owner: str | None = None) -> Iterator[Picture]:
        """All pictures of a search, read page by page."""
        page = self.search(wanted, owner=owner, limit=MAX_PAGE)
        yield from page.pictures
        while page.more is not None:
            page = self.search(wanted, owner=owner, before=page.more, limit=MAX_PAGE)
            yield from page.pictures

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        """A transaction. Raises StorageError: see `faults`."""
        with faults(self._database), self._database.begin() as db:
            yield db

    def _find(self, db: sa.Connection, picture_id: str, owner: str | None) -> Picture:
        rows = db.execute(sa.select(PICTURES).where(PICTURES.c.id == picture_id[:64].replace("\0", ""))).all()
        if not rows or (owner is not None and rows[0].owner != owner):
            raise PictureNotFoundError(f"no picture {picture_id[:80]!r}")
        return self._pictures(db, rows)[0]

    def _pictures(self, db: sa.Connection, rows: Sequence[Any]) -> list[Picture]:
        tags: dict[int, list[str]] = {row.number: [] for row in rows}
        chosen = sa.select(TAGS).where(TAGS.c.number.in_(list(tags))).order_by(TAGS.c.tag)
        for tag in db.execute(chosen):
            tags[tag.number].append(tag.tag)
        return [picture_of(row, tags[row.number]) for row in rows]

    def _mark(self, db: sa.Connection, number: int, state: State, before: State | None = None) -> None:
        """Give a picture a state; with `before`, only in place of that one."""
        change = sa.update(PICTURES).where(PICTURES.c.number == number)
        if before is not None:
            change = change.where(PICTURES.c.state == before)
        db.execute(change.values(state=state, changed=time.time()))


def _check_limit(limit: int) -> None:
    """Raises RequestError: it is out of range."""
    if not 1 <= limit <= MAX_PAGE:
        raise RequestError(f"limit={limit} is outside 1 to {MAX_PAGE}")


@contextmanager
def open_gallery(settings: Settings) -> Iterator[tuple[Gallery, Inputs]]:
    """The gallery of a data folder without its engine, and where the pictures of its requests are.

    Raises StorageError: the database is damaged, locked or out of reach.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    database = connect(settings.database_url or sqlite_url(settings.data / "jobs.sqlite"))
    try:
        store = None if settings.store is None else Store(settings.store)
        inputs = Inputs(settings.data / "inputs", store)
        yield Gallery(database, settings.outputs, settings.data / "thumbnails", store), inputs
    finally:
        database.dispose()
