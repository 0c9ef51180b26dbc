"""`sfumato models folders`: folders of other programs whose models are read in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli_groups import JsonFlag
from sfumato.cli_options import Options, with_settings

if TYPE_CHECKING:
    from sfumato.weights.trees import Tree


def add_commands(models_app: typer.Typer) -> None:
    """Register this file's commands."""
    app = typer.Typer(no_args_is_help=True, help="Folders of other programs, whose models are read in place.")
    models_app.add_typer(app, name="folders")
    app.command("list")(with_settings("models")(list_))
    app.command()(with_settings("models")(add))
    app.command()(with_settings("models")(remove))


def list_(options: Options, as_json: JsonFlag = False) -> None:
    """List the folders beside the models folder, and what is in them."""
    from sfumato.weights import model_folders

    for folder in model_folders.listed(options.settings().models):
        _say(folder.name, folder.tree, as_json=as_json)


def add(
    options: Options,
    path: Annotated[
        Path, typer.Argument(help="Of AUTOMATIC1111's web UI, ComfyUI, InvokeAI, or any folder of models.")
    ],
    name: Annotated[str | None, typer.Option(help="What its models' names begin with.")] = None,
    look: Annotated[bool, typer.Option("--look", help="Only say what is in it.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Use the models of another program where they are. Nothing is copied or changed there."""
    from sfumato.weights import model_folders, trees

    if look:
        _say("", trees.recognise(path), as_json=as_json)
        return
    folder = model_folders.add(options.settings().models, path, name)
    _say(folder.name, folder.tree, as_json=as_json)


def remove(
    options: Options, name: Annotated[str, typer.Argument(help="As the list names it, or its path.")]
) -> None:
    """Do not use a folder's models any more. The folder itself stays as it is."""
    from sfumato.weights import model_folders

    typer.echo(str(model_folders.remove(options.settings().models, name).tree.path))


def _say(name: str, tree: Tree, *, as_json: bool) -> None:
    from sfumato.cli_terminal import printable
    from sfumato.weights import trees

    counts = trees.survey(tree)
    if as_json:
        rows = [
            {"name": each.place.name, "holds": each.place.holds, "files": each.files, "bytes": each.size}
            for each in counts
        ]
        answer = {"name": name, "program": tree.program, "path": str(tree.path), "places": rows}
        typer.echo(json.dumps(answer))
        return
    typer.echo(printable(f"{name}: {tree.program}, {tree.path}".removeprefix(": ")))
    for each in counts:
        what = each.place.holds + (f" in {each.place.name}" if each.place.name else "")
        typer.echo(printable(f"  {each.files} {what}, {each.size / 1e9:.2f} GB"))
