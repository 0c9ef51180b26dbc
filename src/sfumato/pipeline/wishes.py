"""What the arguments of a network tag say: how strongly, where in the network, and when.

    <lora:name:0.8>                 as strong in the text encoder as in the U-Net
    <lora:name:0.5:1>               the text encoder, then the U-Net; also te=0.5, unet=1
    <lora:name:1@0,0.2@0.7>         1 at the start, falling to 0.2 at 70 % of the steps, and then that
    <lora:name:1:start=4:stop=0.8>  only from step 4 to 80 % of the steps
    <lora:name:1:dyn=8>             only its first 8 ranks
    <lora:name:1:lbw=1,0,0,…>       a factor for each block, the text encoder's first

A moment below 1 or with a point is a share of the steps, any other the number of a step, as where prompts
change on the way. A text is encoded once, with what holds at the start.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from sfumato.errors import PromptError
from sfumato.nn.unet import UNetConfig
from sfumato.text.limits import read_weight
from sfumato.text.networks import NetworkTag

_MOST_POINTS = 1000
KNOWN = ("te", "unet", "dyn", "lbw", "start", "stop", "step")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A strength over a pass: lines between points, level outside them, and nothing before and after."""

    points: tuple[tuple[float, float], ...]  # share of the steps, strength; rising
    start: float = 0.0
    stop: float = 1.0

    @property
    def varies(self) -> bool:
        """Whether it is not the same at all steps."""
        return len({strength for _, strength in self.points}) > 1 or self.start > 0 or self.stop < 1

    def at(self, share: float) -> float:
        """The strength when so much of the pass is done, 0 to 1."""
        if not self.start <= share < self.stop:
            return 0.0
        place = bisect_right(self.points, share, key=lambda point: point[0])
        if place in (0, len(self.points)):
            return self.points[max(place - 1, 0)][1]
        (before, low), (after, high) = self.points[place - 1 : place + 1]
        return low + (high - low) * (share - before) / (after - before)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One tag, understood."""

    name: str
    text: float
    unet: Curve
    rank: int | None = None
    blocks: tuple[tuple[str, float], ...] = ()  # start of modules' names: factor


def read_wish(tag: NetworkTag, steps: int, config: UNetConfig) -> Wish:
    """Understand a tag.

    Args:
        tag: the tag.
        steps: of the pass.
        config: of the U-Net, whose blocks may be named.

    Raises:
        PromptError: an argument is unknown, or no number, or the numbers are not as many as the blocks.
    """
    if not tag.positional or not tag.positional[0].strip():
        raise PromptError(f"{tag} names no file; write <{tag.kind}:name:1>")
    name, *given = tag.positional
    values = dict(zip(("te", "unet", "dyn"), given, strict=False)) | dict(tag.named)
    unknown = [key for key in values if key not in KNOWN]
    if unknown or len(given) > 3:
        raise PromptError(f"{tag} has an argument that is none; known are {', '.join(KNOWN)}")
    first, last = 0.0, 1.0
    if "step" in values:
        low, _, high = values["step"].partition("-")
        first, last = _moment(low, steps, tag), _moment(high or "1.0", steps, tag)
    first = _moment(values["start"], steps, tag) if "start" in values else first
    last = _moment(values["stop"], steps, tag) if "stop" in values else last
    text = _points(values.get("te", "1"), steps, tag)
    unet = _points(values["unet"], steps, tag) if "unet" in values else text
    base, blocks = _blocks(values["lbw"], config, tag) if "lbw" in values else (1.0, ())
    return Wish(
        name=name.strip(),
        text=Curve(points=text).at(0) * base if first <= 0 else 0.0,
        unet=Curve(points=unet, start=first, stop=last),
        rank=_rank(values["dyn"], tag) if "dyn" in values else None,
        blocks=blocks,
    )


def block_starts(config: UNetConfig) -> tuple[list[str], list[str]]:
    """The starts of modules' names for each block of a U-Net: of all, and of those with transformers."""
    levels = len(config.channel_mult)
    inputs, outputs = [("input_blocks.0.", False)], list[tuple[str, bool]]()
    for level in range(levels):
        attention = level in config.attention_levels
        inputs += [(f"input_blocks.{len(inputs) + n}.", attention) for n in range(config.res_blocks)]
        if level < levels - 1:
            inputs.append((f"input_blocks.{len(inputs)}.", False))
    for level in reversed(range(levels)):
        attention = level in config.attention_levels
        outputs += [(f"output_blocks.{len(outputs) + n}.", attention) for n in range(config.res_blocks + 1)]
    every = [*inputs, ("middle_block.", True), *outputs]
    return [start for start, _ in every], [start for start, attention in every if attention]


def _blocks(text: str, config: UNetConfig, tag: NetworkTag) -> tuple[float, tuple[tuple[str, float], ...]]:
    factors = [read_weight(each.strip(), str(tag)) for each in text.split(",")]
    for starts in block_starts(config):
        if len(factors) == 1 + len(starts):
            base, *rest = factors
            unnamed = 1.0 if len(starts) == len(block_starts(config)[0]) else 0.0
            return base, (*zip(starts, rest, strict=True), ("", unnamed))
    counts = " or ".join(str(1 + len(starts)) for starts in reversed(block_starts(config)))
    raise PromptError(f"{tag} has {len(factors)} block weights, this checkpoint takes {counts}")


def _points(text: str, steps: int, tag: NetworkTag) -> tuple[tuple[float, float], ...]:
    points = []
    for part in text.split(",")[:_MOST_POINTS]:
        weight, _, moment = part.partition("@")
        points.append((_moment(moment or "0", steps, tag), read_weight(weight.strip(), str(tag))))
    return tuple(sorted(points))


def _moment(text: str, steps: int, tag: NetworkTag) -> float:
    number = read_weight(text.strip(), str(tag))
    if number < 0:
        raise PromptError(f"{tag}: {text!r} is before the start; give a share of the steps or a step")
    return number if number < 1 or "." in text else min(number / steps, 1.0)


def _rank(text: str, tag: NetworkTag) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise PromptError(f"{tag}: dyn={text!r} is not a number of ranks; give 1 or more")
    return int(text)
