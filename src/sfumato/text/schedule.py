"""Prompt editing: a text that changes in the course of the steps.

    [from:to:when]   `from` up to and including step `when`, `to` afterwards
    [to:when]        nothing, then `to`              [from::when]   `from`, then nothing
    [a|b|c]          another one at every step, a first; one may be empty

`when` with a decimal point is a part of all steps (0.5: half of them, cut to a whole step), without one it
is a step. So 1 is the first step and 1.0 all of them. Edits nest, also within brackets of emphasis, which
stay in the text as they are.

    text       = { group | plain }
    group      = "(" text [ ":" text ] ")"  |  "[" text "]"                        emphasis, unchanged
               | "[" [ text ":" ] text ":" number "]"                              editing
               | "[" text "|" text { "|" text } "]"                                alternation
    plain      = anything but \\ ( ) [ ] : |, or a backslash and any character

Brackets and colons that fit none of these are text, with whatever edits are inside or beside them. A bar that
fits none, or a lone backslash at the end, makes the whole prompt literal.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise

from sfumato.text.limits import MAX_TIMELINE, require, require_length

_TOKEN = re.compile(r"(?:[^\\()\[\]:|]|\\.)++|[()\[\]:|]|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*+([+-]?(?:\d++(?:\.\d*+)?|\.\d++))\s*+")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The text of all steps after the previous entry's `last` up to and including its own."""

    last: int  # step, from 1
    text: str


def timeline(text: str, steps: int, *, first_pass: int = 0, old: bool = False) -> list[Entry]:
    """Write out what a prompt is at every step.

    Args:
        text: one part of a prompt (composition.py).
        steps: calls of the denoiser: the sampler's steps, or twice as many if it calls twice a step, and then
            an edit's `when` without a decimal point counts calls too.
        first_pass: 0, or for a second pass at higher resolution the `steps` of the first. Both passes are
            then one timeline: whole numbers go on counting and decimals from 1.0 to 2.0 are the second pass.
        old: read `when` as old pictures need it: below 1 a part, else a step, alike in both passes.

    Returns:
        At least one entry; the last one's `last` is `steps`. Neighbours differ.

    Raises:
        PromptError: beyond MAX_CHARACTERS, or MAX_TIMELINE for all entries together (limits.py).
    """
    assert steps >= 1
    require_length(text)
    script = _read(text)
    clock = _Clock(steps=steps, first_pass=first_pass, old=old)
    lasts = {steps}
    for switch in script.switches.values():
        if switch.when is None:
            lasts = set(range(1, steps + 1))
            break
        lasts.add(clock.step(switch.when))
    lasts.discard(0)
    require(
        len(lasts) * len(text) <= MAX_TIMELINE or len(lasts) == 1,
        f"prompt editing makes {len(lasts):,} texts of up to {len(text):,} characters, "
        f"at most {MAX_TIMELINE:,} together; shorten the prompt or take fewer steps",
    )
    entries: list[Entry] = []
    for last in sorted(lasts):
        entry = Entry(last=last, text=script.at(last, clock))
        if entries and entries[-1].text == entry.text:
            entries.pop()
        entries.append(entry)
    return entries


@dataclass(frozen=True, kw_only=True)
class _Clock:
    """How a number in a prompt becomes a step."""

    steps: int
    first_pass: int
    old: bool

    def step(self, when: str) -> int:
        """Read `when`: the last step of `from`, between 0 and all."""
        number = float(when)  # of digits, so finite or infinite
        if self.old:
            number = number * self.steps if number < 1 else number
        elif "." in when:
            number = (number - (self.first_pass > 0)) * self.steps
        else:
            number -= self.first_pass
        return int(min(max(number, 0), self.steps))


@dataclass(frozen=True, kw_only=True)
class _Switch:
    """An edit or alternation: ranges of tokens of which one holds at a step."""

    branches: tuple[tuple[int, int], ...]
    when: str | None  # None alternates
    end: int  # the token after its closer

    def at(self, step: int, clock: _Clock) -> tuple[int, int]:
        if self.when is None:
            return self.branches[(step - 1) % len(self.branches)]
        return self.branches[step > clock.step(self.when)]


@dataclass(frozen=True, kw_only=True)
class _Script:
    """A prompt, read: its tokens, and the switches by the place of their openers."""

    tokens: list[str]
    switches: dict[int, _Switch]

    def at(self, step: int, clock: _Clock) -> str:
        """Write the text of one step, visiting no token of a branch that does not hold."""
        out: list[str] = []
        back: list[tuple[int, int]] = []  # where to go on, and up to where
        place, end = 0, len(self.tokens)
        while place < end or back:
            if place == end:
                place, end = back.pop()
            elif (switch := self.switches.get(place)) is not None:
                back.append((switch.end, end))
                place, end = switch.at(step, clock)
            else:
                out.append(self.tokens[place])
                place += 1
        return "".join(out)


@dataclass(kw_only=True)
class _Group:
    """What stands between an opener and the place reached."""

    start: int
    opener: str
    places: list[int] = field(default_factory=list)  # of its own colons and bars
    colons: int = 0
    bars: int = 0
    broken: bool = False  # holds a bracket that belongs to no group


def _read(text: str) -> _Script:
    """Find the switches. A closer belongs to the last opener; if that is of the other kind, all are text."""
    tokens = _TOKEN.findall(text)
    literal = _Script(tokens=[text], switches={})
    switches: dict[int, _Switch] = {}
    waiting: list[_Group] = []
    for place, token in enumerate(tokens):
        if token in ("(", "["):
            waiting.append(_Group(start=place, opener=token))
        elif token in (":", "|"):
            if waiting:
                waiting[-1].places.append(place)
                waiting[-1].colons += token == ":"
                waiting[-1].bars += token == "|"
            elif token == "|":
                return literal
        elif token in (")", "]"):
            if waiting and waiting[-1].opener + token in ("()", "[]"):
                group = waiting.pop()
                fits = not group.broken and _fits(group, place, tokens, switches)
                if not fits and waiting:
                    waiting[-1].broken = True
                stray = [] if fits else [group]
            else:
                stray, waiting = waiting, []
            if any(group.bars for group in stray):
                return literal
        elif token == "\\":
            return literal
    return literal if any(group.bars for group in waiting) else _Script(tokens=tokens, switches=switches)


def _fits(group: _Group, end: int, tokens: list[str], switches: dict[int, _Switch]) -> bool:
    """Tell whether a group that closes at token `end` is one of the grammar's, and note a switch."""
    if group.opener == "(":
        return group.colons <= 1 and not group.bars
    if not group.places:
        return True
    if (group.bars and group.colons) or group.colons > 2:
        return False
    branches = [(before + 1, after) for before, after in pairwise([group.start, *group.places, end])]
    when = None
    if group.colons:
        start, stop = branches.pop()
        number = _NUMBER.fullmatch(tokens[start]) if stop == start + 1 else None
        if number is None:
            return False
        when = number[1]
        branches = branches if group.colons == 2 else [(start, start), *branches]
    switches[group.start] = _Switch(branches=tuple(branches), when=when, end=end + 1)
    return True
