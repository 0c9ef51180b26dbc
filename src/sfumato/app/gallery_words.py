"""Full-text search in both databases. The words come from `text.words`; the databases only look them up.

SQLite: a table of FTS5 with three columns. PostgreSQL: a tsvector of words and places, where the column is a
word's weight. Neither ever parses what a user wrote: words hold nothing but letters and digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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

    def matches(self, query: Query, scope: Scope) -> Any:
        """The condition that a row of `table` has what is wanted and not what is unwanted."""


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

    def matches(self, query: Query, scope: Scope) -> Any:
        """The condition that a row has what is wanted and not what is unwanted."""
        if not query.wanted:  # FTS5 takes away from something only
            there = replace(query, terms=tuple(replace(term, absent=False) for term in query.terms))
            each = (replace(there, terms=(term,)) for term in there.terms)
            found = [sa.select(self.number).where(self.matches(one, scope)) for one in each]
            return self.number.not_in(sa.union_all(*found))
        text = " AND ".join(map(_phrase, query.wanted))
        if query.unwanted:
            text = f"({text}) NOT ({' OR '.join(map(_phrase, query.unwanted))})"
        if scope != "all":
            text = f"{{{scope}}} : ({text})"
        return sa.literal_column(self.table.name).op("match")(text)


def _phrase(term: Term) -> str:
    return f'"{" ".join(term.words)}"{" *" if term.starts else ""}'


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

    def matches(self, query: Query, scope: Scope) -> Any:
        """The condition that a row has what is wanted and not what is unwanted."""
        rows = [f"{'!' if term.absent else ''}({_row(term, _WEIGHTS[scope])})" for term in query.terms]
        return self.table.c.words.op("@@")(sa.cast(" & ".join(rows), TSQUERY))


def _row(term: Term, weight: str) -> str:
    marks = [weight] * (len(term.words) - 1) + [weight + ("*" if term.starts else "")]
    pairs = zip(term.words, marks, strict=True)
    return " <-> ".join(f"'{word}'{':' if mark else ''}{mark}" for word, mark in pairs)


def words_of(dialect: str) -> Words:
    """The index of a database, by SQLAlchemy's name of it."""
    return SqliteWords() if dialect == "sqlite" else PostgresWords()
