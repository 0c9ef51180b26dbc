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
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Request, Result, StepInfo


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where pictures go and how they are announced."""

    folder: Path
    file_format: str
    as_json: bool
    show: bool

    def check(self, requests: Sequence[Request], shelf: ModelShelf) -> None:
        """Refuse, before the first step of the first picture, what could not be finished. Writes nothing."""
        images.check_folder(self.folder)
        for request in requests:
            canvas = prepare(request, shelf).passes[-1].request.canvas
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


def make(requests: Sequence[Request], shelf: ModelShelf, desk: Desk, *, grid: bool) -> None:
    """Make and save the pictures of all requests, with progress, and after each request its grid."""
    with ProgressBar(1) as bar:
        for number, request in enumerate(requests):
            made: list[Result] = []
            for event in generate(request, shelf):
                if isinstance(event, StepInfo):
                    prompt = f"prompt {number + 1}/{len(requests)}, " if len(requests) > 1 else ""
                    second = ", second pass" if event.pass_ > 1 else ""
                    steps = event.steps * event.batches * event.passes
                    bar.update(
                        round((number + event.share) * steps),
                        f"{prompt}batch {event.batch}/{event.batches}{second}",
                        total=steps * len(requests),
                    )
                    continue
                with bar.paused():
                    desk.save(event.image, str(event.request.canvas.seed), event)
                if grid:
                    made.append(event)
            if grid:
                with bar.paused():
                    desk.save(images.grid([result.image for result in made]), "grid", made[0])
