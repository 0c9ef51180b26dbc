"""Extra-network tags: `<lora:name:0.8>`, `<lora:name:te=0.5:unet=1>`, `<hypernet:name:1>`.

A tag is a kind, then arguments separated by colons; those of the form key=value are named. Tags are taken out
of the positive prompt before anything else is read. What is no tag, as in "a < b" or "<lora:>", stays text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sfumato.text.limits import require_length

_KIND = re.compile(r"<(\w++):")


@dataclass(frozen=True, kw_only=True)
class NetworkTag:
    """One tag, taken apart; its string is as it stood in the prompt."""

    kind: str  # "lora", "lyco", "hypernet", ...
    positional: tuple[str, ...]  # in order; the first is a name by convention
    named: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), hash=False
    )  # last one wins
    source: str

    def __str__(self) -> str:
        return self.source


def split_tags(text: str) -> tuple[str, list[NetworkTag]]:
    """Take the extra-network tags out of a prompt.

    Args:
        text: the positive prompt, styles merged and comments stripped.

    Returns:
        The text without the tags (the spaces around them stay), and the tags in order.

    Raises:
        PromptError: beyond MAX_CHARACTERS (limits.py).
    """
    require_length(text)
    pieces: list[str] = []
    tags: list[NetworkTag] = []
    done = place = 0
    while (kind := _KIND.search(text, place)) and (end := text.find(">", kind.end())) >= 0:
        place = kind.end()
        if end == place:  # no arguments
            continue
        pieces.append(text[done : kind.start()])
        place = done = end + 1
        tags.append(_tag(kind[1], text[kind.end() : end], text[kind.start() : done]))
    return "".join([*pieces, text[done:]]), tags


def _tag(kind: str, arguments: str, source: str) -> NetworkTag:
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments.split(":"):
        if argument.count("=") == 1:
            key, value = argument.split("=")
            named[key] = value
        else:
            positional.append(argument)
    return NetworkTag(kind=kind, positional=tuple(positional), named=MappingProxyType(named), source=source)
