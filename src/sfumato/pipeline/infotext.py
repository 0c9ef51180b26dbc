"""The text that pictures carry ("infotext"): three blocks, taken apart and put together. Believes nothing.

    a photo of a cat, (fluffy:1.2)
    Negative prompt: blurry
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512, Model: …

Where the plain layout cannot carry a prompt (leading blanks, control characters, a line that begins like the
negative prompt), the exact strings follow as two more parameters that other readers pass over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sfumato.errors import RequestError

MAX_CHARS = 16 * 2**20  # longer text is refused unread
EXACT_PROMPT, EXACT_NEGATIVE = "Exact prompt", "Exact negative prompt"

_NEGATIVE = "Negative prompt:"
_QUOTED = re.compile(r'"(?:\\.|[^\\"])++"(?=,|\Z)')
_SIZE = re.compile(r"(\d+)x(\d+)")
_NEEDS_QUOTES = re.compile(r'[,:\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|^[\s"]|\s$')


@dataclass(frozen=True, kw_only=True)
class Infotext:
    """Parsed parameters, before anything is believed of them."""

    prompt: str
    negative: str
    fields: Mapping[str, str]  # keys as written; a size WxH stands as two entries Key-1 and Key-2

    def text(self, key: str) -> str | None:
        """The value of `key` as written (a name like 8x8 joined again), None if absent or empty."""
        if f"{key}-1" in self.fields and f"{key}-2" in self.fields:
            return f"{self.fields[f'{key}-1']}x{self.fields[f'{key}-2']}"
        return self.fields.get(key) or None

    def prompts(self) -> tuple[str, str]:
        """Prompt and negative prompt: the exact texts, unless somebody has edited the plain ones since."""
        exact = self.text(EXACT_PROMPT) or "", self.text(EXACT_NEGATIVE) or ""
        plain = self.prompt, self.negative
        return exact if exact != ("", "") and _as_read(*exact) == plain else plain

    @property
    def by_sfumato(self) -> bool:
        """Whether this program wrote it."""
        return (self.text("Version") or "").startswith("Sfumato ")


def layout(prompt: str, negative: str, parameters: Iterable[tuple[str, object]]) -> str:
    """The three blocks as one trimmed string; a parameter of value None is left out."""
    line = ", ".join(f"{key}: {_quote(str(value))}" for key, value in parameters if value is not None)
    negative_line = f"\n{_NEGATIVE} {_encodable(negative)}" if negative else ""
    return f"{_encodable(prompt)}{negative_line}\n{line}".strip()


def exact(prompt: str, negative: str) -> Iterator[tuple[str, str]]:
    """Two more parameters, if the plain layout would not give these texts back."""
    if _as_read(prompt, negative) != (prompt, negative):
        yield from ((EXACT_PROMPT, prompt),) if prompt else ()
        yield from ((EXACT_NEGATIVE, negative),) if negative else ()


def parse(text: str) -> Infotext:
    """Split infotext into prompt, negative prompt and parameters, in time linear in the length.

    The last line holds the parameters if at least three `Key: value` stand in it; otherwise it is prompt.
    No content makes it fail. Raises RequestError only for text beyond `MAX_CHARS`.
    """
    if len(text) > MAX_CHARS:
        raise RequestError(
            f"generation parameters of {len(text):,} characters; at most {MAX_CHARS:,} are read"
        )
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt, negative = _split_prompts(lines)
    fields: dict[str, str] = {}
    for key, raw in pairs:
        value = _unquote(raw)
        size = _SIZE.fullmatch(value)
        fields |= {f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: value}
    return Infotext(prompt=prompt, negative=negative, fields=MappingProxyType(fields))


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Every `key: value` of the parameter line, from left to right.

    A key is a word character and one or more of word characters, blanks, `-` and `/`, up to a colon. Walking
    back from each colon keeps this linear where a search for keys would start again at every character.
    """
    position = 0
    while (colon := line.find(":", position)) >= 0:
        start = colon
        while start > position and _is_key_char(line[start - 1]):
            start -= 1
        while start < colon and line[start] in " -/":  # a key begins with a word character
            start += 1
        if colon - start < 2:
            position = colon + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin].isspace():
            begin += 1
        quoted = _QUOTED.match(line, begin)
        comma = line.find(",", begin)
        end = quoted.end() if quoted else (len(line) if comma < 0 else comma)
        yield line[start:colon], line[begin:end]
        position = end + 1


def _is_key_char(char: str) -> bool:
    return char.isalnum() or char in "_ -/"


def _split_prompts(lines: Iterable[str]) -> tuple[str, str]:
    """Prompt and negative prompt: from the first line that begins so, all that follows is negative."""
    texts: tuple[list[str], list[str]] = ([], [])
    block = 0
    for raw in lines:
        line = raw.strip()
        if line.startswith(_NEGATIVE):
            block, line = 1, line[len(_NEGATIVE) :].strip()
        if line or texts[block]:  # empty lines at the start of a block are dropped
            texts[block].append(line)
    return "\n".join(texts[0]), "\n".join(texts[1])


def _as_read(prompt: str, negative: str) -> tuple[str, str]:
    """What a reader makes of these prompts in the plain layout."""
    return _split_prompts(layout(prompt, negative, [("Steps", 1)]).split("\n")[:-1])


def _quote(value: str) -> str:
    """As a JSON string where the plain value would not be read back: commas, colons, control characters …"""
    if not _NEEDS_QUOTES.search(value):
        return value
    return json.dumps(value, ensure_ascii=_encodable(value) != value)


def _unquote(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value


def _encodable(text: str) -> str:
    """`text` with what neither UTF-8 nor a PNG text chunk can hold replaced by U+FFFD."""
    return re.sub("[\x00\ud800-\udfff]", "�", text)
