"""`sfumato img2img`: a picture, or each of a folder, made anew: whole, in part, or beyond its edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli_groups import NamedSaving
from sfumato.cli_options import Options, with_source
from sfumato.errors import OutputError, RequestError, SfumatoError

if TYPE_CHECKING:
    from sfumato.cli_pictures import Desk
    from sfumato.pipeline.shelf import ModelShelf
    from sfumato.types import Request


@with_source
def img2img(
    options: Options,
    *,
    size: Annotated[str | None, typer.Option(help="Width and height at once: 512x768.")] = None,
    scale: Annotated[float | None, typer.Option(help="Size in the source's own instead: 0.05 to 4.")] = None,
    reuse: Annotated[
        str | None,
        typer.Option(help="Take from each source's file: prompt,negative,seed,guidance,sampler,steps,model."),
    ] = None,
    reuse_from: Annotated[
        Path | None, typer.Option(help="Take it from the files of the same name in this folder.")
    ] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Prompts, one a line.")] = None,
    saving: NamedSaving,
) -> None:
    """Make pictures from a picture and a prompt and print their paths.

    SOURCE may be a folder: each of its pictures is a source, and --mask may be a folder of masks of the same
    names. --left, --right, --up and --down continue the picture beyond its edges.
    """
    if options.request["source.image"] is None:
        raise RequestError("no source; give a picture or a folder of pictures, and a prompt")
    reused = tuple(name.strip() for name in reuse.split(",")) if reuse else ()
    if "prompt" in reused and options.request["prompt.text"] is None and prompts_file is None:
        options = replace(options, request={**options.request, "prompt.text": ""})
    settings, requests = options.settings(), options.requests(size=size, prompts_file=prompts_file)
    source = requests[0].source.image
    assert isinstance(source, Path)
    if scale is not None and not (0.05 <= scale <= 4 and requests[0].canvas.width is None):
        raise RequestError(f"--scale {scale:g} is outside 0.05 to 4, or stands beside a size")
    if reuse_from is not None and not reused:
        raise RequestError(f"--reuse-from {reuse_from} without --reuse; say what is taken: --reuse prompt")
    from sfumato.cli_pictures import open_shelf
    from sfumato.pipeline.folders import check_reusable, pictures_in

    check_reusable(reused)
    desk = saving.desk(settings.outputs, "[basename]" if source.is_dir() else "[seed]")
    work = Work(requests, reused, reuse_from, scale, open_shelf(settings), desk, saving.grid)
    if not source.is_dir():
        work.make(source)
    elif not work.make_all(pictures_in(source)):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Work:
    """What is done with each source."""

    requests: Sequence[Request]
    names: Sequence[str]  # of what is reused
    reuse_from: Path | None
    scale: float | None
    shelf: ModelShelf
    desk: Desk
    grid: bool

    def make(self, path: Path) -> None:
        """Make and save what is asked of one picture. Raises SfumatoError."""
        from sfumato.cli_pictures import make
        from sfumato.pipeline.masks import is_blank
        from sfumato.pipeline.source import read_picture

        requests = [self._of(request, path) for request in self.requests]
        mask = requests[0].mask
        if isinstance(mask.image, Path) and is_blank(mask, read_picture(path).size):
            typer.echo(f"{mask.image}: nothing in it is to change, so all of {path} is made anew", err=True)
        self.desk.check(requests, self.shelf)
        make(requests, self.shelf, self.desk, grid=self.grid)

    def make_all(self, paths: Sequence[Path]) -> bool:
        """Do so for each picture; whether all came out. Each that did not gets a line of its own.

        Raises SfumatoError: something is wrong for all of them.
        """
        from sfumato.pipeline import images
        from sfumato.pipeline.folders import named_error

        images.check_folder(self.desk.folder)
        images.check_format(self.desk.file_format, 1, 1, 0)
        mask = self.requests[0].mask.image
        if isinstance(mask, Path) and not mask.exists():
            raise OutputError(f"{mask}: no such file or folder; expected a mask, or masks by the same names")
        if "model" not in self.names:
            self.shelf.load(self.requests[0].model)
        whole = True
        for path in paths:
            try:
                self.make(path)
            except SfumatoError as error:
                whole = False
                typer.echo(f"error: {named_error(path, error)}", err=True)
        return whole

    def _of(self, request: Request, path: Path) -> Request:
        """The request for one picture."""
        from sfumato.pipeline.folders import mask_for, of_same_name, reuse
        from sfumato.pipeline.source import read_picture

        request = replace(request, source=replace(request.source, image=path))
        if isinstance(request.mask.image, Path):
            request = replace(request, mask=replace(request.mask, image=mask_for(path, request.mask.image)))
        if self.scale is not None:
            width, height = (max(8, int(side * self.scale) // 8 * 8) for side in read_picture(path).size)
            request = replace(request, canvas=replace(request.canvas, width=width, height=height))
        if self.names:
            told_by = path if self.reuse_from is None else of_same_name(path, self.reuse_from)
            request = reuse(request, told_by, self.names)
        return request
