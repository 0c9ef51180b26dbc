"""Prompts of any length for an encoder of 77 places: rows of 75 tokens between start and end.

Rows are encoded one by one and laid side by side. A full row ends after a comma, if there is one among its
last tokens, so that no phrase is cut; the word BREAK begins a new row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sfumato.errors import PromptError
from sfumato.text.composition import split_parts
from sfumato.text.emphasis import BREAK, Fragment, parse_emphasis
from sfumato.text.grammar import strip_comments
from sfumato.text.limits import MAX_CHUNKS, require_length
from sfumato.text.networks import split_tags
from sfumato.text.schedule import timeline
from sfumato.text.tokenizer import END_ID, START_ID, Tokenizer
from sfumato.types import EmphasisMode

ROW = 75  # tokens of a chunk between start and end
COMMA_ID = 267
_LONGEST_TOKEN = 32  # bytes


class _Token(NamedTuple):
    number: int
    weight: float
    coined: str = ""  # the word whose first vector stands here


_Row = list[_Token]


@dataclass(frozen=True, kw_only=True)
class Coined:
    """A word with vectors of its own, which take the places of its name's tokens."""

    name: str
    ids: tuple[int, ...]  # of its name
    places: int  # how many vectors it has, at most ROW

    @classmethod
    def of(cls, name: str, places: int, tokenizer: Tokenizer) -> "Coined":
        """Coin a word."""
        return cls(name=name, ids=tuple(tokenizer.encode(name)), places=places)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """What the text encoder reads at once."""

    ids: tuple[int, ...]  # 77, start and end included
    weights: tuple[float, ...]  # 77 factors for the encoder's output vectors; 1 for start, end and padding
    coined: tuple[tuple[int, str], ...] = ()  # where coined words begin; their ids there mean nothing


def split(
    text: str,
    tokenizer: Tokenizer,
    *,
    emphasis: EmphasisMode = "Original",
    pad_token: int = END_ID,
    backtrack: int = 20,
    coined: Sequence[Coined] = (),
) -> list[Chunk]:
    """Turn the text of one step into chunks.

    Args:
        text: an entry of a timeline (schedule.py).
        tokenizer: for the words.
        emphasis: "None" takes brackets and BREAK literally; "Ignore" reads them, but all weights are 1.
        pad_token: follows the first end token. SD 1 was trained with END_ID, SD 2 with 0.
        backtrack: how many tokens at a full row's end are searched for a comma to cut after; 0 cuts anywhere.
        coined: words with vectors of their own; of several that fit the longest is meant. One that does not
            fit into a row any more begins the next.

    Returns:
        At least one chunk. Two texts' chunks are made equally many by adding chunks of the empty text.

    Raises:
        PromptError: beyond MAX_CHUNKS or MAX_CHARACTERS (limits.py), or at bad weights (emphasis.py).
    """
    fragments = _fragments(text, emphasis)
    visible = sum(len(word) for word in text.split())
    rows = []
    if visible <= MAX_CHUNKS * ROW * _LONGEST_TOKEN:
        for row in _rows(fragments, tokenizer, backtrack, coined):
            rows.append(_chunk(row, pad_token))
            if len(rows) > MAX_CHUNKS:
                break
    if not 0 < len(rows) <= MAX_CHUNKS:
        raise PromptError(
            f"the prompt fills more than {MAX_CHUNKS} chunks of {ROW} tokens, which is the most; shorten it"
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """For the counter beside a prompt: 12/75."""

    used: int
    limit: int  # places in the chunks needed


def count_tokens(
    prompt: str,
    tokenizer: Tokenizer,
    *,
    negative: bool = False,
    emphasis: EmphasisMode = "Original",
    steps: int = 20,
    backtrack: int = 20,
    coined: Sequence[Coined] = (),
) -> TokenCount:
    """Count a prompt's tokens: of the longest text that editing makes of any of its AND parts.

    Args:
        prompt: as written, comments and network tags included (they do not count).
        tokenizer: for the words.
        negative: whether it is the negative prompt, in which neither tags nor AND are read.
        emphasis: as in `split`.
        steps: of the timeline.
        backtrack: as in `split`.
        coined: as in `split`.

    Returns:
        The tokens used, gaps before a BREAK or after a comma counted, and the next multiple of 75.

    Raises:
        PromptError: as `split`, but for MAX_CHUNKS.
    """
    text = strip_comments(prompt)
    parts = [text] if negative else [part.text for part in split_parts(split_tags(text)[0])]
    texts = {entry.text for part in parts for entry in timeline(part, steps)}
    used = max(_used(_fragments(text, emphasis), tokenizer, backtrack, coined) for text in texts)
    return TokenCount(used=used, limit=-(-max(used, 1) // ROW) * ROW)


def _fragments(text: str, emphasis: EmphasisMode) -> list[Fragment]:
    if emphasis == "None":
        require_length(text)
        return [Fragment(text, 1.0)]
    fragments = parse_emphasis(text)
    if emphasis == "Ignore":
        return [fragment if fragment == BREAK else Fragment(fragment.text, 1.0) for fragment in fragments]
    return fragments


def _used(fragments: list[Fragment], tokenizer: Tokenizer, backtrack: int, coined: Sequence[Coined]) -> int:
    *full, last = _rows(fragments, tokenizer, backtrack, coined)
    return ROW * len(full) + len(last)


def _rows(
    fragments: list[Fragment], tokenizer: Tokenizer, backtrack: int, coined: Sequence[Coined]
) -> Iterator[_Row]:
    """Fill rows with tokens; the last one is yielded even when the only one is empty."""
    row: _Row = []
    begun = False  # a row was yielded
    comma = -1  # place of the row's last comma
    for fragment in fragments:
        if fragment == BREAK:
            yield row
            row, begun, comma = [], True, -1
            continue
        for number, word in _words(tokenizer.encode(fragment.text), coined):
            if word is not None:
                if len(row) + word.places > ROW:
                    yield row
                    row, begun, comma = [], True, -1
                row += (_Token(0, fragment.weight, "" if n else word.name) for n in range(word.places))
                continue
            if len(row) == ROW:
                cut = comma + 1 if comma >= 0 and number != COMMA_ID and ROW - comma <= backtrack else ROW
                yield row[:cut]
                row, begun, comma = row[cut:], True, -1
            if number == COMMA_ID:
                comma = len(row)
            row.append(_Token(number, fragment.weight))
    if row or not begun:
        yield row


def _words(ids: list[int], coined: Sequence[Coined]) -> Iterator[tuple[int, Coined | None]]:
    """The ids one by one, but for those of coined words, each of which comes once and whole."""
    by_first: dict[int, list[Coined]] = {}
    for word in sorted(coined, key=lambda word: -len(word.ids)):
        if word.ids and 0 < word.places <= ROW:
            by_first.setdefault(word.ids[0], []).append(word)
    place = 0
    while place < len(ids):
        here = by_first.get(ids[place], ())
        found = next((word for word in here if tuple(ids[place : place + len(word.ids)]) == word.ids), None)
        yield ids[place], found
        place += len(found.ids) if found else 1


def _chunk(row: _Row, pad_token: int) -> Chunk:
    padding = ROW - len(row)
    ids = [START_ID, *(token.number for token in row), *[END_ID] * (padding + 1)]
    after = ids.index(END_ID) + 1
    ids[after:] = [pad_token] * (len(ids) - after)
    return Chunk(
        ids=tuple(ids),
        weights=(1.0, *(token.weight for token in row), *[1.0] * (padding + 1)),
        coined=tuple((place, token.coined) for place, token in enumerate(row, 1) if token.coined),
    )
