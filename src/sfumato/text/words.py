"""Texts as words for full-text search, the same for documents and queries and for every database.

A word is a run of letters, marks and digits, in one case and one form of each character. Writing without
spaces between words (Chinese, Japanese, Thai …) is taken apart into characters: a word of it is found as
characters in a row, wherever it stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

MAX_WORDS = 4000  # of a text; what follows is not found
MAX_WORD = 100  # characters of a word that count
MAX_TERMS = 32  # of a query
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')


@dataclass(frozen=True, kw_only=True)
class Term:
    """Words that stand in a row."""

    words: tuple[str, ...]
    absent: bool = False  # whether they must not
    starts: bool = False  # whether the last is only a word's beginning


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for: every term."""

    terms: tuple[Term, ...]
    empty: bool  # nothing was asked

    @property
    def wanted(self) -> tuple[Term, ...]:
        """What has to be there."""
        return tuple(term for term in self.terms if not term.absent)

    @property
    def unwanted(self) -> tuple[Term, ...]:
        """What must not."""
        return tuple(term for term in self.terms if term.absent)


def words(text: str) -> list[str]:
    """The words of a text, `MAX_WORDS` at most."""
    found: list[str] = []
    for word in _runs(unicodedata.normalize("NFKC", text[: MAX_WORDS * 20]).casefold()):
        found.append(word[:MAX_WORD])
        if len(found) == MAX_WORDS:
            break
    return found


def query(text: str) -> Query:
    """Read what somebody types: words, "words in a row", -without, beginning*.

    Nothing in it can be wrong: whatever is neither a word nor one of these signs is passed over.
    """
    terms = []
    for sign, phrase, word in _TERM.findall(text):
        given = phrase or word
        found = tuple(words(given))
        if found:
            terms.append(Term(words=found, absent=sign == "-", starts=given.endswith("*")))
        if len(terms) == MAX_TERMS:
            break
    return Query(terms=tuple(terms), empty=not text.strip())


def _runs(text: str) -> Iterator[str]:
    run: list[str] = []
    for character in text:
        kind = unicodedata.category(character)[0]
        alone = kind != "M" and _UNSPACED.match(character) is not None
        if run and (alone or kind not in "LMN"):
            yield "".join(run)
            run = []
        if alone:
            yield character
        elif kind in "LN" or (kind == "M" and run):
            run.append(character)
    if run:
        yield "".join(run)
