"""A walk through latent space: from prompt to prompt, each with its seed, as frames of one moving picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline.scripts import fields, interpolate, video
from sfumato.pipeline.scripts.grids import Legend, Line, sheet
from sfumato.pipeline.scripts.interpolate import Way
from sfumato.pipeline.scripts.work import Make, settled
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import MAX_SEED, Request, Result, StepInfo

MOST_STOPS = 4
MOST_FRAMES = 1000  # of a leg
SHOWN = 9  # frames of a leg on the contact sheet, at most


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where the walk comes by."""

    prompt: str
    negative: str | None = None  # None = the request's
    seed: int | None = None  # None = the request's

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not isinstance(self.negative, str | None):
            raise RequestError("a stop's prompt and negative prompt are texts")
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        if self.seed is not None and not (whole and 0 <= self.seed <= MAX_SEED):
            raise RequestError(f"seed={str(self.seed)[:40]} is no whole number of 0 to 2^64 - 1")


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Where to walk, and what becomes of the frames."""

    stops: Sequence[Stop]
    frames: int = 12  # of each leg, from one stop to the next
    fps: float = 8.0
    back: bool = True  # and the same way back
    file_format: str = "webp"

    def __post_init__(self) -> None:
        if not 2 <= len(self.stops) <= MOST_STOPS:
            raise RequestError(f"a walk of {len(self.stops)} stops; choose 2 to {MOST_STOPS}")
        if not isinstance(self.frames, int) or not 1 <= self.frames <= MOST_FRAMES:
            raise RequestError(f"frames={str(self.frames)[:40]} is no whole number of 1 to {MOST_FRAMES}")
        if any(here == there for here, there in self.legs):
            raise RequestError("two stops in a row are the same; change a prompt or a seed")
        if self.file_format not in ("gif", "webp"):
            raise RequestError(f"format {str(self.file_format)[:40]!r} is not one of gif, webp")
        video.check(self.file_format, self.fps)

    @property
    def legs(self) -> Sequence[tuple[Stop, Stop]]:
        """From where to where."""
        return list(zip(self.stops, self.stops[1:], strict=False))

    @property
    def count(self) -> int:
        """Frames in all, without the way back."""
        return self.frames * len(self.legs) + 1

    def check(self, size: tuple[int, int]) -> None:
        """Refuse more frames of this width and height than can be held at once. Raises RequestError."""
        Way(frames=self.count, prompt="").check(size)

    def shown(self, frames: Sequence[Result]) -> list[Image.Image]:
        """The moving picture's frames, in order."""
        ordered = interpolate.there_and_back(frames) if self.back else frames
        return [each.image for each in ordered]


def run(
    walk: Walk, request: Request, make_with: Callable[[ModelShelf], Make], shelf: ModelShelf
) -> Iterator[StepInfo | Result]:
    """Make the frames, both ends of every leg exactly as the stop's own picture.

    Args:
        walk: where to go.
        request: all else; one picture.
        make_with: gives what makes the pictures of a request with the models of a shelf.
        shelf: where the models come from.

    Yields:
        The events of every frame, the results numbered in order.

    Raises:
        RequestError: see `interpolate.run`.
    """
    request = fields.with_values(request, {"canvas.seed": settled(request.canvas.seed)})
    for number, (here, there) in enumerate(walk.legs):
        start, end = _at(here, request), _at(there, request)
        way = Way(
            frames=walk.frames + 1,
            prompt=end.prompt.text,
            negative=end.prompt.negative,
            seed=None if end.canvas.seed == start.canvas.seed else end.canvas.seed,
            spherical=True,
        )
        for event in interpolate.run(way, start, make_with, shelf, first=0 if number == 0 else 1):
            if isinstance(event, Result):
                event = replace(event, index=number * walk.frames + event.index)
            yield event


def contact_sheet(walk: Walk, frames: Sequence[Result]) -> Image.Image:
    """All legs at once: a row each, from one stop to the next, `SHOWN` frames at most."""
    columns = min(walk.frames + 1, SHOWN)
    places = [round(column * walk.frames / (columns - 1)) for column in range(columns)]
    legs = range(len(walk.legs))
    pictures = [frames[leg * walk.frames + place].image for leg in legs for place in places]
    legend = Legend(
        columns=[(Line(f"{place / walk.frames:.0%}"),) for place in places],
        rows=[(Line(_label(here)), Line("to"), Line(_label(there))) for here, there in walk.legs],
    )
    return sheet(pictures, columns, legend)


def _at(stop: Stop, request: Request) -> Request:
    values: dict[str, object] = {"prompt.text": stop.prompt}
    if stop.negative is not None:
        values["prompt.negative"] = stop.negative
    if stop.seed is not None:
        values["canvas.seed"] = stop.seed
    return fields.with_values(request, values)


def _label(stop: Stop) -> str:
    text = " ".join(stop.prompt.split()) or "(empty)"
    text = text if len(text) <= 80 else f"{text[:79]}…"
    return text if stop.seed is None else f"{text} · {stop.seed}"
