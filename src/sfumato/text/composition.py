"""AND: several prompts at once, each pulling the picture with its own weight.

a cat :1.2 AND a dog AND a penguin :-0.5
"""

import re
from dataclasses import dataclass

from sfumato.text.limits import MAX_PARTS, read_weight, require, require_length

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the prompts joined by AND."""

    text: str
    weight: float = 1.0  # w in uncond + sum of w · s · (cond - uncond); negative pushes away


def split_parts(text: str) -> list[Part]:
    """Split a prompt at the whole upper-case word AND.

    A part may end with a colon and a signed decimal, its weight; that and trailing whitespace are taken away,
    leading whitespace stays. This holds for a prompt without AND too: "at 12:30" is "at 12" with weight 30.

    Args:
        text: the positive prompt without network tags.

    Returns:
        At least one part; parts may be empty.

    Raises:
        PromptError: beyond MAX_CHARACTERS, MAX_PARTS or MAX_WEIGHT (limits.py).
    """
    require_length(text)
    pieces = _AND.split(text)
    require(
        len(pieces) <= MAX_PARTS,
        f"the prompt joins {len(pieces):,} parts by AND, at most {MAX_PARTS} are drawn together",
    )
    return [_part(piece.rstrip()) for piece in pieces]


def _part(text: str) -> Part:
    colon = text.rfind(":")
    number = _WEIGHT.fullmatch(text, colon + 1) if colon >= 0 else None
    if number is None:
        return Part(text=text)
    return Part(text=text[:colon].rstrip(), weight=read_weight(number[1], text[colon:]))
