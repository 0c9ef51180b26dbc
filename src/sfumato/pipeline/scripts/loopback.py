"""Loopback: a picture goes through image to image again and again, each time from the last result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

from sfumato.errors import RequestError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.work import Make, settled, with_parameters
from sfumato.types import MAX_SEED, Request, Result, StepInfo

Curve = Literal["Aggressive", "Linear", "Lazy"]
_CURVES: Mapping[Curve, Callable[[float], float]] = MappingProxyType(
    {
        "Aggressive": lambda p: math.sin(p * math.pi / 2),
        "Linear": lambda p: p,
        "Lazy": lambda p: 1 - math.cos(p * math.pi / 2),
    }
)


@dataclass(frozen=True, kw_only=True)
class Loops:
    """How often, and how strongly towards the end."""

    loops: int = 4
    final_denoising_strength: float = 0.5
    curve: Curve = "Linear"

    def __post_init__(self) -> None:
        if not 1 <= self.loops <= 1000:
            raise RequestError(f"loops={self.loops} is outside 1 to 1000")
        if not 0 <= self.final_denoising_strength <= 1:
            raise RequestError(f"final_denoising_strength={self.final_denoising_strength} is outside 0 to 1")
        if self.curve not in get_args(Curve):
            raise RequestError(f"curve={self.curve!r} is not one of {', '.join(get_args(Curve))}")


def strengths(loops: Loops, initial: float) -> list[float]:
    """Denoising strength of each loop, from `initial` to the final one; a single loop has the initial.

    With p from 0 to 1 the way is sin(p·π/2) for Aggressive, p for Linear, 1 - cos(p·π/2) for Lazy.
    """
    last = max(loops.loops - 1, 1)
    change = loops.final_denoising_strength - initial
    return [initial + change * _CURVES[loops.curve](k / last) for k in range(loops.loops)]


def run(loops: Loops, request: Request, make: Make) -> Iterator[StepInfo | Result]:
    """Make the chain of pictures, once for each batch of the request.

    The seed counts up with every loop. What stands in a mask is repainted from the original at first as the
    request says, later from the last result.

    Args:
        loops: how often and how strongly.
        request: image to image, one picture a batch.
        make: makes the pictures of a request.

    Yields:
        The events of every loop, with the results numbered in their order.

    Raises:
        RequestError: no source picture, or several pictures a batch.
    """
    if request.source.image is None:
        raise RequestError("loopback needs a source picture to start from")
    if request.canvas.batch_size > 1:
        raise RequestError(
            f"batch_size={request.canvas.batch_size}: loopback takes one picture at a time; use 1"
        )
    seed = settled(request.canvas.seed)
    way = strengths(loops, request.source.denoising_strength)
    told = [
        ("Final denoising strength", f"{loops.final_denoising_strength:g}"),
        ("Denoising curve", loops.curve),
    ]
    for chain in range(request.canvas.batch_count):
        current = fields.with_values(request, {"canvas.batch_count": 1})
        for loop, strength in enumerate(way):
            place = chain * loops.loops + loop
            values = {"canvas.seed": (seed + place) % (MAX_SEED + 1), "source.denoising_strength": strength}
            current = fields.with_values(current, values)
            result = None
            for event in make(current):
                if isinstance(event, Result):
                    result = replace(event, index=place, infotext=with_parameters(event.infotext, told))
                    yield result
                else:
                    yield event
            assert result is not None, "a request without a result"
            current = fields.with_values(current, {"source.image": result.image, "mask.content": "original"})
