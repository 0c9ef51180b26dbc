"""How long work takes: what the last jobs took, carried over to those that wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sfumato.types import Request

GUESS = 1e-4  # seconds a unit, before anything was made
FRESH = 0.3  # weight of the newest job


def units_of(request: Request) -> float:
    """Work of a request: thousands of pixels times steps, of all its pictures and passes."""
    canvas = request.canvas
    pixels = (canvas.width or 512) * (canvas.height or 512) / 1000
    pictures = canvas.batch_size * canvas.batch_count
    units = pixels * request.sampling.steps
    if request.hires.enabled:
        units += pixels * request.hires.scale**2 * (request.hires.steps or request.sampling.steps)
    return units * pictures


class Pace:
    """Seconds a unit of work."""

    def __init__(self, past: Sequence[tuple[float, float]]) -> None:
        """Begin with what earlier jobs took: units and seconds of each."""
        units, seconds = sum(units for units, _ in past), sum(seconds for _, seconds in past)
        self._known = units > 0
        self._rate = seconds / units if self._known else GUESS
        self._lock = threading.Lock()

    def learn(self, units: float, seconds: float) -> None:
        """See how long a job took."""
        if units > 0:
            with self._lock:
                fresh = FRESH if self._known else 1.0
                self._rate += fresh * (seconds / units - self._rate)
                self._known = True

    def seconds(self, units: float) -> float:
        """How long work will take."""
        return units * self._rate
