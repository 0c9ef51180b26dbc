"""Emphasis: brackets that make words count more or less.

    (x)      1.1 times            [x]     1/1.1 times           (x:1.3)   1.3 times
    \\( \\)    the signs themselves  BREAK   the next words begin a new chunk of 75 tokens

Round and square brackets are two systems that do not see each other, so they may cross. A bracket that is
never closed reaches to the end; a closer that nothing opened is text, as is a lone weight. `[x:1.3]` is the
text "x:1.3" in brackets, and so is a number of other than digits and points, as in `(a:1e9)` or `(a:nan)`.
Digits and points that make no number, as in `(a:1.2.3)`, are a mistake. Other backslashes vanish.

Nested weights multiply, from the outside in. Linear in the text's length, at any depth.
"""

import re
from itertools import groupby
from typing import NamedTuple

from sfumato.text.limits import read_weight, require_length, require_weight

ROUND, SQUARE = 1.1, 1 / 1.1

_TOKEN = re.compile(
    r"""
    \\ (?P<escaped> [()\[\]\\]? )
    | (?P<open> [(\[] )
    | : \s*+ (?P<weight> [+-]?[.\d]++ ) \s*+ \)
    | (?P<close> [)\]] )
    | (?P<plain> [^\\()\[\]:]++ | : )
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")


class Fragment(NamedTuple):
    """Some text and how much it counts; `BREAK` below is the one that ends a chunk."""

    text: str
    weight: float


BREAK = Fragment("BREAK", -1.0)


class _Bracket:
    """One bracket over the fragments from `start` up to `end`, and what it multiplies them by."""

    def __init__(self, start: int) -> None:
        self.start, self.end, self.factor = start, start, 1.0


def parse_emphasis(text: str) -> list[Fragment]:
    """Read the brackets of a text.

    The word BREAK becomes the fragment `BREAK`, and the whitespace around it goes. Within brackets that
    weigh, its weight of -1 is multiplied as any other, so that it no longer is that fragment but the word:
    pictures made elsewhere depend on it.

    Args:
        text: a prompt without edits, AND and network tags.

    Returns:
        Fragments in order, neighbours of equal weight joined; one empty fragment if there is nothing.

    Raises:
        PromptError: beyond MAX_CHARACTERS or MAX_WEIGHT (limits.py), or at a weight such as 1.2.3.
    """
    require_length(text)
    texts: list[str] = []
    weights: list[float] = []
    waiting: dict[str, list[_Bracket]] = {"(": [], "[": []}
    brackets: dict[str, list[_Bracket]] = {"(": [], "[": []}  # all there were, in the order of opening

    def close(kind: str, factor: float) -> None:
        bracket = waiting[kind].pop()
        bracket.end, bracket.factor = len(texts), factor

    def add(words: str) -> None:
        for place, piece in enumerate(_split_breaks(words)):
            if place:
                texts.append(BREAK.text)
                weights.append(BREAK.weight)
            texts.append(piece)
            weights.append(1.0)

    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "escaped":
                texts.append(token["escaped"])
                weights.append(1.0)
            case "open":
                bracket = _Bracket(len(texts))
                waiting[token[0]].append(bracket)
                brackets[token[0]].append(bracket)
            case "weight" if waiting["("]:
                close("(", read_weight(token["weight"], token[0]))
            case "close" if waiting["(" if token[0] == ")" else "["]:
                close(*(("(", ROUND) if token[0] == ")" else ("[", SQUARE)))
            case _:
                add(token[0])
    for kind, factor in (("(", ROUND), ("[", SQUARE)):
        while waiting[kind]:
            close(kind, factor)
        for place, product in enumerate(_products(brackets[kind], len(texts))):
            weights[place] *= product
    return _join(texts, weights)


def _split_breaks(words: str) -> list[str]:
    """Cut at each word BREAK and drop the whitespace beside it."""
    pieces = _BREAK.split(words)
    if len(pieces) == 1:
        return pieces
    return [pieces[0].rstrip(), *(piece.strip() for piece in pieces[1:-1]), pieces[-1].lstrip()]


def _products(brackets: list[_Bracket], size: int) -> list[float]:
    """Multiply, for each of `size` fragments, the factors of the brackets around it; brackets nest."""
    products = []
    around: list[tuple[int, float]] = []  # end and product, from the outermost
    coming = iter([*brackets, None])
    bracket = next(coming)
    for place in range(size):
        while around and around[-1][0] <= place:
            around.pop()
        while bracket is not None and bracket.start <= place:
            if bracket.end > place:
                around.append((bracket.end, (around[-1][1] if around else 1.0) * bracket.factor))
            bracket = next(coming)
        products.append(around[-1][1] if around else 1.0)
    return products


def _join(texts: list[str], weights: list[float]) -> list[Fragment]:
    """Join neighbours of equal weight, and hold the weights to their limit."""
    fragments = []
    for weight, group in groupby(zip(texts, weights, strict=True), lambda pair: pair[1]):
        fragments.append(Fragment("".join(text for text, _ in group), weight))
        require_weight(weight, fragments[-1].text)
    return fragments or [Fragment("", 1.0)]
