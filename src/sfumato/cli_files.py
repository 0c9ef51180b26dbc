"""Commands about pictures' files: what a picture says of itself, and whether it can be made again."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli_groups import JsonFlag
from sfumato.cli_options import Options, with_settings

if TYPE_CHECKING:
    from sfumato.pipeline.dialects import Origin

ImagePath = Annotated[Path, typer.Argument(help="PNG, JPEG or WebP.")]


def add_commands(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command()(info)
    app.command()(with_settings()(replay))


def info(image: ImagePath, as_json: JsonFlag = False) -> None:
    """Print the parameters a picture carries, and on standard error which program wrote them."""
    from sfumato.cli_terminal import printable

    origin = _origin(image)
    if as_json:
        answer = {"program": origin.program, "infotext": origin.text, "notes": origin.notes}
        request = None if origin.request is None else asdict(origin.request)
        typer.echo(json.dumps({**answer, "request": request, "fault": origin.fault}))
        return
    typer.echo(printable(origin.text) if sys.stdout.isatty() else origin.text)
    for line in (f"written by {origin.program}", *origin.notes, *([origin.fault] if origin.fault else [])):
        typer.echo(printable(line), err=True)


def replay(
    options: Options,
    image: ImagePath,
    source: Annotated[Path | None, typer.Option(help="The picture it was made from.")] = None,
    mask: Annotated[Path | None, typer.Option(help="The mask it was made with.")] = None,
    depth: Annotated[Path | None, typer.Option(help="The depth map it was made with.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="In place of the one it names.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Save the picture made again.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a picture again from its own parameters and say whether it is the same, and if not, why.

    Exit code 0: the same, every pixel. 1: it differs.
    """
    from sfumato.cli_pictures import open_shelf
    from sfumato.cli_terminal import ProgressBar, printable
    from sfumato.pipeline import images
    from sfumato.pipeline.generate import generate
    from sfumato.pipeline.replay import difference, reasons, request_again
    from sfumato.types import Result, StepInfo

    settings, origin, before = options.settings(), _origin(image), images.open_image(image)
    request = request_again(origin, source=source, mask=mask, depth=depth, checkpoint=model)
    made: list[Result] = []
    with ProgressBar(None) as bar:
        for event in generate(request, open_shelf(settings)):
            if isinstance(event, StepInfo):
                bar.update(event.step, image.name, total=event.steps)
            else:
                made.append(event)
    apart = difference(before, made[0].image)
    why = (
        []
        if apart.largest == 0
        else reasons(origin, made[0].infotext, lossless=image.suffix.lower() == ".png")
    )
    path = None
    if keep:
        path = images.save(made[0].image, settings.outputs, f"replay-{request.canvas.seed}", made[0].infotext)
    if as_json:
        typer.echo(json.dumps({**asdict(apart), "reasons": list(why), "path": path and str(path)}))
    else:
        for line in (str(apart), *(f"  {reason}" for reason in why), *([str(path)] if path else [])):
            typer.echo(printable(line))
    raise typer.Exit(0 if apart.largest == 0 else 1)


def _origin(image: Path) -> Origin:
    from sfumato.errors import OutputError
    from sfumato.pipeline import dialects, images

    try:
        return dialects.origin(images.read_texts(image))
    except OutputError as error:
        message = str(error)
        raise OutputError(message if message.startswith(str(image)) else f"{image}: {message}") from error
