"""Requests to files on the command line: everything checked first, then made, saved and said one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from PIL.Image import Image

from sfumato.cli_terminal import ProgressBar, show_picture
from sfumato.pipeline import images
from sfumato.pipeline.generate import generate, prepare
from sfumato.pipeline.models import Models
from sfumato.types import Request, Result, StepInfo


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where pictures go and how they are announced."""

    folder: Path
    file_format: str
    as_json: bool
    show: bool

    def check(self, requests: Sequence[Request], models: Models) -> None:
        """Refuse, before the first step of the first picture, what could not be finished. Writes nothing."""
        images.check_folder(self.folder)
        for request in requests:
            canvas = prepare(request, models)[0].request.canvas
            text_chars = len(request.prompt.text) + len(request.prompt.negative)
            images.check_format(self.file_format, canvas.width or 0, canvas.height or 0, text_chars)

    def save(self, image: Image, label: str, result: Result) -> None:
        """Write a picture with the result's parameters and say where it is."""
        path = images.save(image, self.folder, label, result.infotext, self.file_format)
        if self.as_json:
            seconds = round(result.seconds, 3)
            typer.echo(json.dumps({"path": str(path), "seconds": seconds, "infotext": result.infotext}))
            return
        if self.show:
            show_picture(image)
        typer.echo(str(path))


def make(requests: Sequence[Request], models: Models, desk: Desk, *, grid: bool) -> None:
    """Make and save the pictures of all requests, with progress, and after each request its grid."""
    steps = [request.sampling.steps * request.canvas.batch_count for request in requests]
    with ProgressBar(sum(steps)) as bar:
        for number, request in enumerate(requests):
            made: list[Result] = []
            for event in generate(request, models):
                if isinstance(event, StepInfo):
                    done = sum(steps[:number]) + (event.batch - 1) * event.steps + event.step
                    prompt = f"prompt {number + 1}/{len(requests)}, " if len(requests) > 1 else ""
                    bar.update(done, f"{prompt}batch {event.batch}/{event.batches}")
                    continue
                with bar.paused():
                    desk.save(event.image, str(event.request.canvas.seed), event)
                if grid:
                    made.append(event)
            if grid:
                with bar.paused():
                    desk.save(images.grid([result.image for result in made]), "grid", made[0])
