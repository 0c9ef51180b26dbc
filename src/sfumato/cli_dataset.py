"""`sfumato dataset …`: pictures to train on, looked through before anything starts."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli_groups import JsonFlag
from sfumato.errors import RequestError

if TYPE_CHECKING:
    from sfumato.train.dataset import Found

Pictures = Annotated[
    Path,
    typer.Argument(
        help="A folder (also of folders NUMBER_name), a .zip, .jsonl, .parquet or .tar.", metavar="PICTURES"
    ),
]

Folder = Annotated[Path, typer.Argument(help="Of pictures, or of folders NUMBER_name.", metavar="FOLDER")]


def add_commands(app: typer.Typer) -> None:
    """Register this file's commands."""
    group = typer.Typer(no_args_is_help=True, help="Pictures to train on.")
    group.command("check")(check)
    group.command("caption")(caption)
    group.command("edit")(edit)
    app.add_typer(group, name="dataset")


def check(
    *,
    pictures: Pictures,
    resolution: Annotated[int, typer.Option(help="Side of the square whose area all have.", min=64)] = 512,
    buckets: Annotated[bool, typer.Option(help="Keep shapes; without, squares alone.")] = True,
    upscale: Annotated[bool, typer.Option(help="Enlarge small pictures, too.")] = True,
    least_side: Annotated[
        int | None, typer.Option(help="Leave out what is smaller; unset = half the resolution.", min=1)
    ] = None,
    masks: Annotated[str, typer.Option(help="alpha, or the name of a folder in it with masks.")] = "",
    regularisation: Annotated[Path | None, typer.Option(help="Pictures of the class.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures a step, to count the steps.", min=1)] = 1,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture of all buckets here, a .png.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Name every file that is not fit to train on, and show how the others are seen.

    The exit code is 1 where pictures are left out, 2 where none is left.
    """
    from sfumato.cli_terminal import ProgressBar, printable
    from sfumato.train.dataset import find_pictures
    from sfumato.train.picture_config import PicturesConfig

    config = PicturesConfig(
        source=pictures,
        resolution=resolution,
        buckets=buckets,
        upscale=upscale,
        least_side=least_side,
        masks=masks,
        regularisation=regularisation,
    )
    with closing(find_pictures(config)) as found:
        with ProgressBar(None) as bar:
            for step in found.look():
                bar.update(step.done, step.name)
                for finding in step.findings:
                    told = {"name": finding.name, "kind": finding.kind, "detail": finding.detail}
                    told["consequence"] = finding.consequence
                    with bar.paused():
                        typer.echo(json.dumps(told) if as_json else printable(str(finding)))
        _tell_buckets(found, batch_size, as_json=as_json)
        if sheet is not None:
            from sfumato.pipeline.images import save_as
            from sfumato.train.contact_sheet import contact_sheet

            save_as(contact_sheet(found), sheet, "")
            typer.echo(json.dumps({"sheet": str(sheet)}) if as_json else str(sheet))
        raise typer.Exit(1 if found.catalogue.left_out else 0)


def caption(
    *,
    pictures: Folder,
    model: Annotated[
        str, typer.Option(help="A folder or owner/name: a captioner, or a tagger with model.onnx.")
    ],
    threshold: Annotated[float, typer.Option(help="Least probability of a tag.", min=0, max=1)] = 0.35,
    character_threshold: Annotated[float, typer.Option(help="The same of a name.", min=0, max=1)] = 0.35,
    leave_out: Annotated[list[str] | None, typer.Option(help="A tag that is not written.")] = None,
    prefix: Annotated[str, typer.Option(help="Words before each caption.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace captions, too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write captions beside pictures that have none, by a model of yours.

    The exit code is 1 where a picture cannot be read.
    """
    from sfumato.cli_terminal import printable
    from sfumato.train.captioner import Choice, caption_folder, open_captioner

    choice = Choice(
        threshold=threshold, character_threshold=character_threshold, unwanted=tuple(leave_out or ())
    )
    captioner, faults = open_captioner(model, choice), 0
    for each in caption_folder(pictures, captioner, prefix=prefix, overwrite=overwrite):
        faults += bool(each.fault)
        told = {"name": each.name, "caption": each.caption, "fault": each.fault}
        typer.echo(json.dumps(told) if as_json else printable(f"{each.name}: {each.caption or each.fault}"))
    raise typer.Exit(1 if faults else 0)


def edit(
    *,
    pictures: Folder,
    front: Annotated[str, typer.Option(help="Words before each caption that does not begin so.")] = "",
    back: Annotated[str, typer.Option(help="Words behind each that does not end so.")] = "",
    remove: Annotated[list[str] | None, typer.Option(help="A tag that is taken out.")] = None,
    replace: Annotated[list[str] | None, typer.Option(help="TAG=OTHER: one tag by another.")] = None,
    unique: Annotated[bool, typer.Option("--unique", help="Each tag once.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would change.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Change the captions of a folder all at once, and tell which have changed."""
    from sfumato.cli_terminal import printable
    from sfumato.train.caption_edits import CaptionEdit, edit_captions

    exchange = dict.fromkeys(remove or (), "")
    for each in replace or ():
        tag, sign, other = each.partition("=")
        if not sign or not tag.strip():
            raise RequestError(f"{each!r} is not TAG=OTHER")
        exchange[tag.strip()] = other.strip()
    change = CaptionEdit(exchange=exchange, front=front, back=back, unique=unique)
    for done in edit_captions(pictures, change, write=not dry_run):
        told = {"name": done.name, "before": done.before, "after": done.after}
        line = " | ".join(done.after.split("\n"))
        typer.echo(json.dumps(told) if as_json else printable(f"{done.name}: {line}"))


def _tell_buckets(found: Found, batch_size: int, *, as_json: bool) -> None:
    from sfumato.train.contact_sheet import counted

    shapes, order = found.catalogue.shapes(), found.order(batch_size, seed=0)
    count = sum(pictures for pictures, _ in shapes.values())
    told = {
        "pictures": count,
        "regularisation": len(found.catalogue) - count,
        "left_out": found.catalogue.left_out,
        "buckets": [
            {"width": width, "height": height, "pictures": pictures, "visits": visits}
            for (width, height), (pictures, visits) in shapes.items()
        ],
        "visits": len(order.rows),
        "steps": order.batches,
    }
    if as_json:
        typer.echo(json.dumps(told))
        return
    for (width, height), (pictures, visits) in shapes.items():
        typer.echo(f"{width}×{height}: {counted(pictures, 'picture')}, {counted(visits, 'visit')} a round")
    beside = f" and {told['regularisation']} of the class" if told["regularisation"] else ""
    typer.echo(
        f"{counted(count, 'picture')}{beside}, {told['left_out']} left out; a round is "
        f"{counted(len(order.rows), 'visit')}, {counted(order.batches, 'step')} of up to {batch_size}"
    )
