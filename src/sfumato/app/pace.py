"""How long work takes: what earlier jobs took, carried over to those that wait; what a job's own steps take.

Work is counted in units: thousands of pixels that a guided step goes over. What a unit takes depends on the
checkpoint, so that is kept for each; one that nothing was made with yet is held for the average.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from sfumato.diffusion.samplers import resolve
from sfumato.pipeline.outpaint import count_passes
from sfumato.types import Picture, Request, StepInfo

USUAL = 512  # pixels along a side that is left open
FADES = 0.7  # weight that earlier jobs keep with every new one
PAST = 200  # jobs that are remembered from before the start


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a job took."""

    checkpoint: str  # "" = the default
    units: float
    seconds: float


def passes_of(request: Request) -> tuple[float, ...]:
    """Work of each pass of one picture, in units. Raises RequestError: an unknown sampler or schedule."""
    canvas, sampling, hires = request.canvas, request.sampling, request.hires
    width, height = canvas.width or USUAL, canvas.height or USUAL
    guided = 1.0 if sampling.guidance != 1 else 0.5
    unit = guided / 1000
    calls = _calls(sampling.sampler, sampling.schedule)
    strength = 1.0
    if request.source.image is not None and not request.source.exact_steps:
        strength = request.source.denoising_strength
    first = width * height * max(1, sampling.steps * strength) * calls * unit
    if request.outpaint.wanted and request.source.image is not None:
        picture = request.source.image
        return (first,) * count_passes(picture_size(picture), request.outpaint, (width, height))
    if not hires.enabled:
        return (first,)
    pixels = hires.scale**2 * width * height
    if hires.width or hires.height:
        pixels = (hires.width or width * hires.height / height) * (
            hires.height or height * hires.width / width
        )
    calls = _calls(hires.sampler or sampling.sampler, hires.schedule or sampling.schedule)
    return first, pixels * max(1, (hires.steps or sampling.steps) * hires.denoising_strength) * calls * unit


def _calls(sampler: str, schedule: str) -> int:
    """Calls of the network a step."""
    return resolve(sampler, schedule)[0].calls_per_step


def units_of(request: Request) -> float:
    """Work of all pictures of a request."""
    return sum(passes_of(request)) * request.canvas.batch_size * request.canvas.batch_count


def share_done(event: StepInfo, passes: Sequence[float]) -> float:
    """Which part of a request's work is done, 0 to 1.

    Args:
        event: its newest step.
        passes: from `passes_of`; of no use where there are as many as the event says not.
    """
    if len(passes) != event.passes:
        return event.share
    own = sum(passes[: event.pass_ - 1]) + passes[event.pass_ - 1] * event.step / event.steps
    return (event.batch - 1 + own / sum(passes)) / event.batches


class Pace:
    """Seconds a unit of work, by checkpoint."""

    def __init__(self, past: Sequence[Taken]) -> None:
        """Begin with what earlier jobs took, the newest first."""
        self._past: dict[str, tuple[float, float]] = {}  # units and seconds, the newest in full
        self._lock = threading.Lock()
        for taken in reversed(past):
            self.learn(taken)

    def learn(self, taken: Taken) -> None:
        """See how long a job took."""
        if taken.units > 0 and taken.seconds > 0:
            with self._lock:  # sums, not rates: what a small job takes is mostly something else
                units, seconds = self._past.get(taken.checkpoint, (0.0, 0.0))
                self._past[taken.checkpoint] = FADES * units + taken.units, FADES * seconds + taken.seconds

    def seconds(self, work: Mapping[str, float]) -> float | None:
        """How long work will take; None = nothing is known.

        Args:
            work: units by checkpoint.
        """
        with self._lock:
            rates = {checkpoint: seconds / units for checkpoint, (units, seconds) in self._past.items()}
        if not any(work.values()):
            return 0.0
        if not rates:
            return None
        average = sum(rates.values()) / len(rates)
        return sum(units * rates.get(checkpoint, average) for checkpoint, units in work.items())


class Meter:
    """How long a running job will still take, from its own steps."""

    def __init__(self, expected: float | None) -> None:
        """Begin with what the whole job is expected to take, in seconds; None = that is not known."""
        self._expected = expected
        self._first: tuple[float, float] | None = None

    def left(self, share: float, now: float) -> float | None:
        """Seconds left; None = not known before the second step.

        Args:
            share: of the work that is done, 0 to 1.
            now: seconds, by a clock that does not jump.
        """
        if self._first is None:  # the time before the first step says nothing about those that follow
            self._first = share, now
        since, began = self._first
        if share > since:
            return (now - began) * (1 - share) / (share - since)
        return None if self._expected is None else self._expected * (1 - share)


def picture_size(picture: Picture) -> tuple[int, int]:
    """Width and height, without reading the pixels."""
    if isinstance(picture, Image.Image):
        return picture.size
    try:
        with Image.open(picture) as image:
            return image.size
    except OSError:  # the job will say so itself
        return USUAL, USUAL
