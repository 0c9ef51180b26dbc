"""Twice the text takes at most twice the work, counted in calls."""

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from sfumato.errors import PromptError
from sfumato.text.chunks import count_tokens
from sfumato.text.composition import split_parts
from sfumato.text.emphasis import parse_emphasis
from sfumato.text.grammar import strip_comments
from sfumato.text.networks import split_tags
from sfumato.text.schedule import timeline
from sfumato.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load()
READERS: dict[str, Callable[[str], object]] = {
    "strip_comments": strip_comments,
    "split_tags": split_tags,
    "split_parts": split_parts,
    "timeline": lambda text: timeline(text, 10),
    "parse_emphasis": parse_emphasis,
    "encode": TOKENIZER.encode,
    "decode": lambda text: TOKENIZER.decode(TOKENIZER.encode(text)),
    "count_tokens": lambda text: count_tokens(text, TOKENIZER),
}
SHAPES: dict[str, Callable[[int], str]] = {
    "words": lambda n: "a cat, " * n,
    "one word": lambda n: "ab" * n,
    "open": lambda n: "(" * n + "[" * n,
    "closed": lambda n: ")]" * n,
    "nested round": lambda n: "(" * n + "x(y)" * n + ":1)" * n,
    "nested square": lambda n: "[" * n + "x[y]" * n + "]" * n,
    "crossed": lambda n: "([" * n + "x" + ":1)]" * n,
    "edits": lambda n: "[a:b:0.5]" * n,
    "nested edits": lambda n: "[a:" * n + "x" + ":3]" * n,
    "bars": lambda n: "[" + "a|" * n + "]",
    "nested bars": lambda n: "[a|" * n + "]" * n,
    "colons": lambda n: ": " * n,
    "escapes": lambda n: "\\(\\" * n,
    "tags": lambda n: "<a:b>" * n,
    "half tags": lambda n: "<a:" * n,
    "comments": lambda n: "a#b\n" * n,
    "breaks": lambda n: "BREAK " * n,
    "marks": lambda n: "\u0315\u0300" * n,
    "spaces": lambda n: " " * n + "BREAK" + " " * n,
}


def calls(read: Callable[[str], object], text: str) -> int:
    """Count the calls, of Python and of C functions, that reading a text takes."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        read(text)
    except PromptError:
        pass
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_work_grows_no_faster_than_the_text(reader: str, shape: str) -> None:
    read, write = READERS[reader], SHAPES[shape]
    read_once = write(400), write(800)
    small, large = (calls(read, text) for text in read_once)
    assert large <= 2.3 * small + 100
