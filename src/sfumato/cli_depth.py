"""The command that makes depth maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.errors import RequestError


def depth(
    image: Annotated[Path, typer.Argument(help="A picture, or the left one of a stereo pair.")],
    right: Annotated[Path | None, typer.Argument(help="The right one.")] = None,
    model: Annotated[
        str | None, typer.Option("--depth-model", help="Folder or hub name of a depth network.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The map, a PNG of 16 bits.")] = Path(
        "depth.png"
    ),
) -> None:
    """Make a depth map, white near: from a stereo pair, or from one picture by a depth network."""
    if (right is None) == (model is None):
        raise RequestError("give a stereo pair, LEFT and RIGHT, or one picture and --depth-model")
    from sfumato.pipeline.depth import by_model, from_stereo
    from sfumato.pipeline.source import flatten, read_picture
    from sfumato.weights.atomic import atomic_file

    picture = flatten(read_picture(image), "#ffffff")
    made = (
        from_stereo(picture, flatten(read_picture(right), "#ffffff"))
        if right
        else by_model(picture, model or "")
    )
    with atomic_file(output) as file:
        made.save(file, format="PNG")
    typer.echo(str(output))
