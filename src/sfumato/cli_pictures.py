"""Requests to files on the command line: everything checked first, then made, saved and said one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
import typer
from PIL.Image import Image

from sfumato.app.settings import Settings
from sfumato.cli_terminal import ProgressBar, show_picture
from sfumato.pipeline import images
from sfumato.pipeline.filenames import Naming
from sfumato.pipeline.generate import generate, prepare
from sfumato.pipeline.scripts.work import Event, Make, Sheet
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Request, Result, StepInfo


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where pictures go and how they are announced."""

    folder: Path
    file_format: str
    as_json: bool
    show: bool
    naming: Naming | None = None  # of single pictures; None = their seed

    def check(self, requests: Sequence[Request], shelf: ModelShelf) -> tuple[int, int]:
        """Refuse, before the first step of the first picture, what could not be finished. Writes nothing.

        Gives the largest width and height of the pictures.
        """
        images.check_folder(self.folder)
        widest = highest = 0
        for request in requests:
            canvas = prepare(request, shelf).passes[-1].request.canvas
            text_chars = len(request.prompt.text) + len(request.prompt.negative)
            images.check_format(self.file_format, canvas.width or 0, canvas.height or 0, text_chars)
            widest, highest = max(widest, canvas.width or 0), max(highest, canvas.height or 0)
        return widest, highest

    def check_sheet(self, cell: tuple[int, int], columns: int, rows: int) -> None:
        """Refuse a sheet too long for the file; a legend takes at most a cell. Raises RequestError."""
        images.check_format(self.file_format, (2 * columns + 1) * cell[0], (rows + 1) * cell[1], 0)

    def save(self, image: Image, label: str, infotext: str) -> Path:
        """Write a picture with its parameters and say where it is."""
        return self._save(image, self.folder, label, infotext)

    def keep(self, result: Result, whole: Request | None = None) -> Path:
        """Save a single picture; `whole` is the request of which it is one, None = of itself alone."""
        folder, label = self.folder, str(result.request.canvas.seed)
        if self.naming is not None:
            below, label = self.naming.place(result, whole)
            folder = folder / below
        return self._save(result.image, folder, label, result.infotext, result.seconds)

    def _save(
        self, image: Image, folder: Path, label: str, infotext: str, seconds: float | None = None
    ) -> Path:
        path = images.save(image, folder, label, infotext, self.file_format)
        if self.show and not self.as_json:
            show_picture(image)
        self.say(path, infotext, seconds)
        return path

    def say(self, path: Path, infotext: str, seconds: float | None = None) -> None:
        """Say where a file is."""
        if not self.as_json:
            typer.echo(str(path))
            return
        taken = {} if seconds is None else {"seconds": round(seconds, 3)}
        typer.echo(json.dumps({"path": str(path), **taken, "infotext": infotext}))


class Progress:
    """How far a row of requests is, on a bar that counts steps."""

    def __init__(self, bar: ProgressBar, requests: int, what: str) -> None:
        """Count to `requests`, each of which is a `what`."""
        self._bar, self._requests, self._what = bar, requests, what
        self._number, self._share, self._between = 0, 0.0, False

    def see(self, event: object) -> None:
        """Show a step; where less is done than before the last picture, another request has begun."""
        if not isinstance(event, StepInfo):
            self._between = True
            return
        if self._between and event.share <= self._share:
            self._number += 1
        self._share, self._between = event.share, False
        place = f"{self._what} {self._number + 1}/{self._requests}, " if self._requests > 1 else ""
        second = ", second pass" if event.pass_ > 1 else ""
        steps = event.steps * event.batches * event.passes
        self._bar.update(
            round((self._number + event.share) * steps),
            f"{place}batch {event.batch}/{event.batches}{second}",
            total=steps * self._requests,
        )


def naming(file: str | None, folder: str, usual: str = "[seed]") -> Naming:
    """How the pictures of this run are named. Raises RequestError: no such token."""
    return Naming(file=usual if file is None else file, folder=folder, began=datetime.now().astimezone())


def open_shelf(settings: Settings) -> ModelShelf:
    """The models at hand, loaded as they are asked for."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return ModelShelf(settings.models, device=settings.device, dtype=settings.dtype)


def maker(shelf: ModelShelf) -> Make:
    """What makes the pictures of a request with these models."""
    return partial(generate, shelf=shelf)


def make(requests: Sequence[Request], shelf: ModelShelf, desk: Desk, *, grid: bool) -> None:
    """Make and save the pictures of all requests, with progress, and after each request its grid."""
    follow(_pictures(requests, shelf, grid=grid), desk, requests=len(requests), what="prompt", whole=requests)


def follow(
    events: Iterator[Event],
    desk: Desk,
    *,
    requests: int,
    what: str,
    results: bool = True,
    whole: Sequence[Request] = (),
) -> None:
    """Save what a script makes, its sheets and, unless `results` is false, its single pictures.

    `whole` are the requests that are made, one after another, where the pictures' names need them.
    """
    row = iter(whole)
    current: Request | None = None
    with ProgressBar(1) as bar:
        progress = Progress(bar, requests, what)
        for event in events:
            progress.see(event)
            if isinstance(event, Result) and event.index == 0:
                current = next(row, None)
            if isinstance(event, Sheet):
                with bar.paused():
                    desk.save(event.image, event.label, event.infotext)
            elif isinstance(event, Result) and results:
                with bar.paused():
                    desk.keep(event, current)


def _pictures(requests: Sequence[Request], shelf: ModelShelf, *, grid: bool) -> Iterator[Event]:
    for request in requests:
        made: list[Result] = []
        for event in generate(request, shelf):
            if grid and isinstance(event, Result):
                made.append(event)
            yield event
        if grid:
            image = images.grid([result.image for result in made])
            yield Sheet(image=image, label="grid", infotext=made[0].infotext)
