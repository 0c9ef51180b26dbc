"""The prompt language, in the order in which it is read.

    styles.py       named texts merged into both prompts                        apply_styles
    here            comments                                                    strip_comments
    networks.py     <lora:name:0.8>, in the positive prompt only                split_tags
    composition.py  a AND b :1.2, in the positive prompt only                   split_parts
    schedule.py     [a:b:0.5] and [a|b], which make a text for each step        timeline
    emphasis.py     (a:1.2), [b], BREAK                                         parse_emphasis
    chunks.py       rows of 77 ids with weights for the text encoder            split

The language is that of the field's most used interface, so that a prompt found anywhere means here what it
meant there. Nothing in a prompt is executed or formatted; every reader is linear in the text's length,
needs no recursion, and raises PromptError and nothing else, beyond the limits of limits.py.
"""

import re

from sfumato.text.composition import Part, split_parts
from sfumato.text.emphasis import BREAK, Fragment, parse_emphasis
from sfumato.text.networks import NetworkTag, split_tags
from sfumato.text.schedule import Entry, timeline

__all__ = [
    "BREAK",
    "Entry",
    "Fragment",
    "NetworkTag",
    "Part",
    "parse_emphasis",
    "split_parts",
    "split_tags",
    "strip_comments",
    "timeline",
]

_COMMENT = re.compile(r"^#.*(?:\n|\Z)|#.*", re.MULTILINE)


def strip_comments(text: str) -> str:
    """Drop everything from a `#` to the end of its line; a line that is only a comment goes whole."""
    return _COMMENT.sub("", text)
