"""`sfumato gallery`: pictures found, imported, deleted and brought back, of all owners."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli_groups import JsonFlag
from sfumato.cli_options import Options, parse_size, with_gallery

if TYPE_CHECKING:
    from sfumato.app.codec import Inputs
    from sfumato.app.gallery import Gallery
    from sfumato.app.gallery_table import Filter, Picture

Ids = Annotated[list[str], typer.Argument(help="As `search` shows them.", metavar="ID...")]
Limit = Annotated[int, typer.Option(help="Pictures at most.", min=1)]
Text = Annotated[str, typer.Argument(help='Words, "words in a row", -without, beginning*.')]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is looked for."""

    text: Text = ""
    model: Annotated[str | None, typer.Option(help="Made by this checkpoint.")] = None
    sampler: Annotated[str | None, typer.Option(help="Made by this sampler.")] = None
    seed: Annotated[int | None, typer.Option(help="Made from this seed.")] = None
    since: Annotated[datetime | None, typer.Option(help="Made on this day or later.")] = None
    until: Annotated[datetime | None, typer.Option(help="Made before this day.")] = None
    size: Annotated[str | None, typer.Option(help="Of this size: 512x768.")] = None
    tags: Annotated[list[str] | None, typer.Option("--tag", help="With this tag; several: with all.")] = None
    rating: Annotated[int | None, typer.Option(help="Rated so or better.", min=0, max=5)] = None
    state: Annotated[str, typer.Option(help="there, missing or trash.")] = "there"

    def filter(self) -> Filter:
        """The same, as the gallery takes it. Raises RequestError: a size or a state that is none."""
        from sfumato.app.gallery_table import Filter

        width, height = parse_size(self.size) if self.size else (None, None)
        return Filter(
            text=self.text,
            model=self.model,
            sampler=self.sampler,
            seed=self.seed,
            since=self.since.timestamp() if self.since else None,
            until=self.until.timestamp() if self.until else None,
            width=width,
            height=height,
            tags=self.tags or (),
            rating=self.rating,
            state=self.state,  # type: ignore[arg-type]  # it refuses others
        )


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    gallery = typer.Typer(no_args_is_help=True, help="All pictures: found, imported, deleted, brought back.")
    app.add_typer(gallery, name="gallery")
    gallery.command("import")(import_)
    for each in (search, similar, tag, trash, restore, empty_trash, check, export):
        gallery.command()(each)


@with_gallery
def search(
    options: Options,
    *,
    wanted: Wanted,
    limit: Limit = 50,
    as_json: JsonFlag = False,
) -> None:
    """Find pictures, the last taken in first."""
    with _open(options) as (gallery, _):
        for picture in islice(gallery.pages(wanted.filter()), limit):
            _tell(gallery, picture, as_json)


@with_gallery
def similar(
    options: Options,
    image: Annotated[str, typer.Argument(help="A picture's file, or the id of one that is here.")],
    limit: Limit = 10,
    as_json: JsonFlag = False,
) -> None:
    """Find pictures that look like one, the nearest first."""
    from sfumato.pipeline import images

    with _open(options) as (gallery, _):
        if Path(image).is_file():
            pairs = gallery.like(images.open_image(Path(image)), limit=limit)
        else:
            pairs = gallery.similar(image, limit=limit)
        for picture, distance in pairs:
            _tell(gallery, picture, as_json, distance)


@with_gallery
def import_(
    options: Options,
    folder: Annotated[Path, typer.Argument(help="Of A1111's, ComfyUI's, InvokeAI's or any pictures.")],
    owner: Annotated[str, typer.Option(help="Whose they become.")] = "local",
) -> None:
    """Take in the pictures of a folder, parameters and all; those that are here already are passed over."""
    from sfumato.app.gallery_import import import_folder
    from sfumato.cli_terminal import ProgressBar, printable

    counts = dict.fromkeys(("new", "known", "broken"), 0)
    with _open(options) as (gallery, inputs), ProgressBar(None) as bar:
        for step in import_folder(gallery, inputs, folder, owner=owner):
            counts[step.outcome] += 1
            bar.update(step.done, step.path.name, total=step.total)
            if step.note:
                typer.echo(printable(f"{step.path}: {step.note}".replace("\n", " ")), err=True)
    typer.echo(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


@with_gallery
def tag(
    options: Options,
    pictures: Ids,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="In place of those it has.")] = None,
    rating: Annotated[int | None, typer.Option(help="0 to 5.", min=0, max=5)] = None,
) -> None:
    """Tag or rate pictures."""
    _each(options, pictures, lambda gallery, name: gallery.change(name, tags=tags, rating=rating))


@with_gallery
def trash(options: Options, pictures: Ids) -> None:
    """Put pictures into the trash."""
    _each(options, pictures, lambda gallery, name: gallery.trash(name))


@with_gallery
def restore(options: Options, pictures: Ids) -> None:
    """Take pictures out of the trash."""
    _each(options, pictures, lambda gallery, name: gallery.restore(name))


@with_gallery
def empty_trash(options: Options) -> None:
    """Remove what is in the trash, for good."""
    with _open(options) as (gallery, _):
        typer.echo(f"{gallery.empty_trash()} removed")


@with_gallery
def check(options: Options) -> None:
    """See which pictures have lost their files, or have them again; a server does so when it starts."""
    with _open(options) as (gallery, _):
        typer.echo(f"{sum(gallery.check())} pictures changed")


@with_gallery
def export(
    options: Options,
    text: Text = "",
    form: Annotated[str, typer.Option("--format", help="csv or jsonl.")] = "csv",
) -> None:
    """Print what is known of pictures, as a table or an object a line."""
    from sfumato.app.gallery_export import export as lines_of
    from sfumato.app.gallery_table import Filter

    with _open(options) as (gallery, _):
        for line in lines_of(gallery.pages(Filter(text=text)), form):  # type: ignore[arg-type]  # it refuses others
            typer.echo(line, nl=False)


@contextmanager
def _open(options: Options) -> Iterator[tuple[Gallery, Inputs]]:
    from sfumato.app.gallery import open_gallery

    with open_gallery(options.settings()) as opened:
        yield opened


def _each(options: Options, pictures: Sequence[str], do: Callable[[Gallery, str], Picture]) -> None:
    with _open(options) as (gallery, _):
        for name in pictures:
            _tell(gallery, do(gallery, name), as_json=False)


def _tell(gallery: Gallery, picture: Picture, as_json: bool, distance: float | None = None) -> None:
    from sfumato.app.gallery_export import as_json as values_of
    from sfumato.cli_terminal import printable

    near = {} if distance is None else {"distance": distance}
    if as_json:
        typer.echo(json.dumps({**values_of(picture), **near}))
        return
    words = " ".join(picture.prompt.split())[:60]
    first = [f"{distance:.3f}"] if distance is not None else []
    path = str(gallery.files.outputs / picture.file)
    typer.echo("\t".join([*first, picture.id, printable(path), printable(words)]))
