"""Full-text search in both databases. The words come from `text.words`; the databases only look them up.

SQLite: a table of FTS5 with three columns. PostgreSQL: a tsvector of words and places, where the column is a
word's weight. Neither ever parses what a user wrote: words hold nothing but letters and digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSQUERY

from sfumato.text.words import Query, Term, words

Scope = Literal["all", "prompt", "negative"]
COLUMNS = ("prompt", "negative", "rest")
GAP = 5000  # places between two columns' first words in a tsvector, which has 16,383 of them
_WEIGHTS: Mapping[str, str] = MappingProxyType({"prompt": "A", "negative": "B", "all": ""})


class Words(Protocol):
    """An index of words."""

    number: Any  # its column with the pictures' numbers
    table: Any

    def create(self, db: sa.Connection) -> None:
        """Make it, where it is not there."""

    def put(self, db: sa.Connection, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Take in new pictures.

        Args:
            db: the database.
            rows: numbers, each with the texts of `COLUMNS`.
        """

    def remove(self, db: sa.Connection, number: int) -> None:
        """Forget a picture."""

    def matches(self, terms: Sequence[Term], scope: Scope) -> Any:
        """The condition that a row of `table` has all these terms."""


class SqliteWords:
    """FTS5."""

    table: Any = sa.table("sfumato_picture_words", sa.column("rowid"), *map(sa.column, COLUMNS))
    number: Any = table.c.rowid

    def create(self, db: sa.Connection) -> None:
        """Make it, where it is not there."""
        module = f"fts5({', '.join(COLUMNS)}, tokenize='ascii')"
        db.execute(sa.text(f"create virtual table if not exists {self.table.name} using {module}"))

    def put(self, db: sa.Connection, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Take in new pictures."""
        insert = sa.text(
            f"insert or replace into {self.table.name} (rowid, {', '.join(COLUMNS)})"
            " values (:number, :prompt, :negative, :rest)"
        )
        for number, texts in rows:
            joined = {name: " ".join(words(text)) for name, text in zip(COLUMNS, texts, strict=True)}
            db.execute(insert, {"number": number, **joined})

    def remove(self, db: sa.Connection, number: int) -> None:
        """Forget a picture."""
        db.execute(sa.delete(self.table).where(self.number == number))

    def matches(self, terms: Sequence[Term], scope: Scope) -> Any:
        """The condition that a row has all these terms."""
        phrases = " AND ".join(f'"{" ".join(term.words)}"{" *" if term.starts else ""}' for term in terms)
        wanted = phrases if scope == "all" else f"{{{scope}}} : ({phrases})"
        return sa.literal_column(self.table.name).op("match")(wanted)


class PostgresWords:
    """A tsvector in an index of its own (GIN)."""

    table: Any = sa.table("sfumato_picture_words", sa.column("number"), sa.column("words"))
    number: Any = table.c.number

    def create(self, db: sa.Connection) -> None:
        """Make it, where it is not there."""
        name = self.table.name
        for statement in (
            f"create table if not exists {name} (number bigint primary key, words tsvector not null)",
            f"create index if not exists {name}_words on {name} using gin (words) with (fastupdate = off)",
        ):
            db.execute(sa.text(statement))

    def put(self, db: sa.Connection, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Take in new pictures."""
        insert = sa.text(
            f"insert into {self.table.name} (number, words) values (:number, cast(:words as tsvector))"
            " on conflict (number) do update set words = excluded.words"
        )
        for number, texts in rows:
            places = [
                f"'{word}':{column * GAP + place}{weight}"
                for column, (text, weight) in enumerate(zip(texts, "ABC", strict=True))
                for place, word in enumerate(words(text), 1)
            ]
            db.execute(insert, {"number": number, "words": " ".join(places)})

    def remove(self, db: sa.Connection, number: int) -> None:
        """Forget a picture."""
        db.execute(sa.delete(self.table).where(self.number == number))

    def matches(self, terms: Sequence[Term], scope: Scope) -> Any:
        """The condition that a row has all these terms."""
        weight = _WEIGHTS[scope]
        phrases = []
        for term in terms:
            marks = [weight] * (len(term.words) - 1) + [weight + ("*" if term.starts else "")]
            row = [
                f"'{word}'{':' if mark else ''}{mark}" for word, mark in zip(term.words, marks, strict=True)
            ]
            phrases.append(f"({' <-> '.join(row)})")
        return self.table.c.words.op("@@")(sa.cast(" & ".join(phrases), TSQUERY))


def words_of(dialect: str) -> Words:
    """The index of a database, by SQLAlchemy's name of it."""
    return SqliteWords() if dialect == "sqlite" else PostgresWords()


def found(index: Words, query: Query, scope: Scope) -> tuple[Any, Any]:
    """How a query is looked up.

    Returns:
        The condition for rows of `index.table` that have what is wanted, and a selection of the numbers of
        pictures that have what is not; None where there is nothing of the kind.
    """
    wanted = [term for term in query.terms if not term.absent]
    unwanted = [term for term in query.terms if term.absent]
    without = (
        sa.union_all(*(sa.select(index.number).where(index.matches([term], scope)) for term in unwanted))
        if unwanted
        else None
    )
    return (index.matches(wanted, scope) if wanted else None), without
