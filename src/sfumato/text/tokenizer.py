"""CLIP's byte-pair tokenizer: text to ids of the 49,408-word vocabulary and back.

Source: Radford et al. 2021 (arXiv:2103.00020); vocabulary file of OpenAI's CLIP. The text clean-up and the
splitting into pieces are those of transformers' CLIP tokenizer, whose ids these equal. (Its tables put marks
added since Unicode 9 in no order among others; Python's, here, in today's.)

A text is composed (NFC), its whitespace made single spaces, lower-cased, and cut into pieces: a run of
letters, one digit, an English contraction, or a run of anything else. Each piece becomes bytes, the last one
marked as the end of a word, and neighbours merge, always the pair that was learnt first.

Anything is accepted: control characters are data, and so are lone surrogates, as the three bytes they would
have. Work is linear in the text's length, but for a logarithm within one piece.
"""

import gzip
import heapq
import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

START_ID = 49406
END_ID = 49407
VOCABULARY_SIZE = 49408

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = VOCABULARY_SIZE - 2 * 256 - 2
_REMEMBERED_PIECES = 1 << 16
_LONGEST_REMEMBERED = 64  # characters
_GONE = 0xFFFF  # no id
_LONG_RUN = 32  # combining marks in a row that are put in order here

_SPECIAL = re.compile(r"<\|startoftext\|>|<\|endoftext\|>")
_WHITESPACE = re.compile(r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
# On text whose letters beyond ASCII are all "a", whose digits are "0" and whose other signs are "!".
_PIECE = re.compile(r"(<\|)(startoftext|endoftext)(\|>)|'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^ a-z0-9]+")
_MARKS = re.compile(f"m{{{_LONG_RUN},}}")


class _Vocabulary(NamedTuple):
    bytes_of: tuple[bytes, ...]  # of each id; special tokens have none
    ends_word: tuple[bool, ...]
    byte_ids: tuple[int, ...]  # of a byte inside a word; at its end it is 256 more
    merged: dict[int, int]  # left id << 16 | right id -> id of both; a lower id was learnt earlier


@cache
def _vocabulary() -> _Vocabulary:
    """Read the vocabulary file: one merge a line, in the order in which they were learnt."""
    packed = resources.files("sfumato").joinpath("assets", _FILE).read_bytes()
    lines = gzip.decompress(packed).decode().split("\n")[1 : _MERGES + 1]
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # written as themselves
    order = visible + [number for number in range(256) if number not in visible]
    signs = [
        chr(number if place < len(visible) else 0x100 + place - len(visible))
        for place, number in enumerate(order)
    ]
    ids = {token: number for number, token in enumerate([*signs, *(f"{sign}</w>" for sign in signs)])}
    bytes_of = [bytes([number]) for number in order] * 2
    ends_word = [False] * 256 + [True] * 256
    merged = {}
    for number, line in enumerate(lines, 512):
        left, right = line.split(" ")
        first, second = ids[left], ids[right]
        merged[first << 16 | second] = ids[left + right] = number
        bytes_of.append(bytes_of[first] + bytes_of[second])
        ends_word.append(ends_word[second])
    assert len(merged) == _MERGES
    assert len(bytes_of) == START_ID
    byte_ids = tuple(order.index(number) for number in range(256))
    return _Vocabulary(tuple(bytes_of), tuple(ends_word), byte_ids, merged)


class _Classes(dict[int, str]):
    """A table for `str.translate` that fills itself: ASCII stays, letters become a, digits 0, the rest !."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        if code >= 0x80:
            sign = {"L": "a", "N": "0"}.get(unicodedata.category(sign)[0], "!")
        self[code] = sign
        return sign


class _Marks(dict[int, str]):
    """A table for `str.translate`: m for what decomposes into combining marks alone, a point for the rest."""

    def __missing__(self, code: int) -> str:
        whole = unicodedata.normalize("NFD", chr(code))
        self[code] = "m" if all(unicodedata.combining(sign) for sign in whole) else "."
        return self[code]


class Tokenizer:
    """Text to CLIP ids and back. Instances remember the ids of recent words and may be shared by threads."""

    def __init__(self) -> None:
        self._words = _vocabulary()
        self._classes = _Classes()
        self._marks = _Marks()
        self._short = lru_cache(_REMEMBERED_PIECES)(self._merge)

    @classmethod
    def load(cls) -> "Tokenizer":
        """Make a tokenizer over the vocabulary in the package; the first in a process takes some 0.1 s."""
        return cls()

    def encode(self, text: str) -> list[int]:
        """Turn a text into ids, without start and end.

        Args:
            text: any string. `<|startoftext|>` and `<|endoftext|>` in it become START_ID and END_ID.

        Returns:
            Ids from 0 to 49407, as many as it takes.
        """
        ids: list[int] = []
        done = 0
        for special in _SPECIAL.finditer(text):
            self._encode_plain(text[done : special.start()], ids)
            ids.append(START_ID if "start" in special[0] else END_ID)
            done = special.end()
        self._encode_plain(text[done:], ids)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text, with a space between the pieces it was cut into.

        Args:
            ids: from 0 to 49407; start and end are left out.

        Returns:
            The text in lower case; bytes that are no UTF-8 become U+FFFD.
        """
        out = bytearray()
        for number in ids:
            assert 0 <= number < VOCABULARY_SIZE
            if number < START_ID:
                out += self._words.bytes_of[number]
                out += b" " if self._words.ends_word[number] else b""
        return out.decode("utf-8", "replace").strip()

    def _encode_plain(self, text: str, ids: list[int]) -> None:
        classes = text = self._clean(text)
        if not text.isascii():
            classes = text.translate(self._classes)
        for match in _PIECE.finditer(classes):
            if match[2] is None:
                piece = text[match.start() : match.end()]
                ids += self._short(piece) if len(piece) <= _LONGEST_REMEMBERED else self._merge(piece)
            else:  # a special token's name that lower-casing brought about
                for part in match.groups():
                    ids += self._short(part)

    def _clean(self, text: str) -> str:
        if not text.isascii():
            text = unicodedata.normalize("NFC", self._order_marks(text)).replace("Σ", "σ")  # no final form
        return _WHITESPACE.sub(" ", text).lower()

    def _order_marks(self, text: str) -> str:
        """Put long runs of combining marks in order, for which `unicodedata` takes quadratic time."""
        pieces = []
        done = 0
        for run in _MARKS.finditer(text.translate(self._marks)):
            marks = "".join(unicodedata.normalize("NFD", sign) for sign in text[run.start() : run.end()])
            pieces += [text[done : run.start()], "".join(sorted(marks, key=unicodedata.combining))]
            done = run.end()
        return "".join([*pieces, text[done:]]) if pieces else text

    def _merge(self, piece: str) -> tuple[int, ...]:
        """Merge neighbours of one piece, the earliest-learnt pair first and the leftmost of its kind."""
        merged = self._words.merged
        ids = [self._words.byte_ids[number] for number in piece.encode("utf-8", "surrogatepass")]
        ids[-1] += 256
        size = len(ids)
        ids.append(_GONE)  # so that the neighbours of both ends are none
        before = list(range(-1, size))  # with `following`, a linked list of what is left
        following = list(range(1, size + 1))
        places: dict[int, list[int]] = {}  # of the pairs that make an id
        for place in range(size - 1):
            found = merged.get(ids[place] << 16 | ids[place + 1])
            if found is not None:
                places.setdefault(found, []).append(place)
        waiting = list(places)
        heapq.heapify(waiting)
        while waiting:
            number = heapq.heappop(waiting)  # what comes of it was learnt later, so its list is complete
            for place in sorted(places.pop(number)):
                right = following[place]
                if merged.get(ids[place] << 16 | ids[right]) != number:
                    continue  # one of the two has merged with another neighbour since
                ids[place], ids[right] = number, _GONE
                following[place] = following[right]
                before[following[right]] = place
                for left in (before[place], place):
                    found = merged.get(ids[left] << 16 | ids[following[left]])
                    if found is not None:
                        if found not in places:
                            places[found] = []
                            heapq.heappush(waiting, found)
                        places[found].append(left)
        return tuple(number for number in ids if number != _GONE)
