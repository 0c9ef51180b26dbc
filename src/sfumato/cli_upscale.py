"""`sfumato upscale`: finished pictures made larger, one after another; a bad one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli_groups import ImageFormat
from sfumato.cli_options import Options, parse_size, with_settings
from sfumato.errors import ModelNotFoundError, OutputError, RequestError, SfumatoError

if TYPE_CHECKING:
    from sfumato.app.settings import Settings
    from sfumato.pipeline.postprocess import Enlargement
    from sfumato.pipeline.upscale_tiles import TileStep
    from sfumato.pipeline.upscalers import UpscalerShelf

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Desk:
    """What is done with each picture, and where it goes."""

    enlargement: Enlargement
    shelf: UpscalerShelf
    folder: Path
    file_format: str

    def check(self) -> None:
        """Refuse what would be wrong for every picture. Raises SfumatoError."""
        from sfumato.pipeline import images

        for name in self.enlargement.upscalers:
            self.shelf.load(name)
        for name in self.enlargement.face_restorers:
            self.shelf.load_face_restorer(name)
        images.check_folder(self.folder)
        images.check_format(self.file_format, 1, 1, 0)

    def enlarge(self, path: Path) -> Iterator[TileStep | Path]:
        """Enlarge and save one picture: steps, then where it is. Raises SfumatoError."""
        from sfumato.pipeline import images
        from sfumato.pipeline.postprocess import Enlarged, enlarge_image, plan
        from sfumato.pipeline.source import flatten, read_picture

        image, infotext = read_picture(path), images.read_infotext(path) or ""
        images.check_format(self.file_format, *plan(image.size, self.enlargement)[0], len(infotext))
        for event in enlarge_image(image, self.enlargement, self.shelf):
            if not isinstance(event, Enlarged):
                yield event
                continue
            result = flatten(event.image, "#ffffff") if self.file_format == "jpg" else event.image
            yield images.save(
                result, self.folder, path.stem, infotext, self.file_format, extras=event.infotext
            )


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large."""

    scale: Annotated[float | None, typer.Option(help="How many times larger. [default: 4]")] = None
    size: Annotated[str | None, typer.Option(help="Width and height instead: 1024x768.")] = None
    crop: Annotated[bool, typer.Option(help="Cut what stands over the size.")] = True
    max_side: Annotated[int | None, typer.Option(help="Pixels that --scale does not go beyond.")] = None


@dataclass(frozen=True, kw_only=True)
class Second:
    """What is laid over the first upscaler's result."""

    upscaler2: Annotated[str | None, typer.Option(help="A second one, laid over the first.")] = None
    upscaler2_visibility: Annotated[
        float | None, typer.Option(help="0 to 1: how much of it. [default: 0.5 with --upscaler2]")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Faces:
    """What restores faces."""

    gfpgan: Annotated[float | None, typer.Option(help="0 to 1: how much of faces restored by GFPGAN.")] = None
    codeformer: Annotated[float | None, typer.Option(help="The same by CodeFormer.")] = None
    codeformer_weight: Annotated[
        float | None, typer.Option(help="0 to 1: how true CodeFormer stays. [default: 0]")
    ] = None


@with_settings()
def upscale(
    options: Options,
    *,
    pictures: Annotated[list[Path] | None, typer.Argument(help="Pictures, and folders of them.")] = None,
    upscaler: Annotated[
        str | None, typer.Option(help="A name from --list, or a file. [default: R-ESRGAN 4x+]")
    ] = None,
    size: Size,
    second: Second,
    faces: Faces,
    file_format: ImageFormat = "png",
    listing: Annotated[bool, typer.Option("--list", help="Name the upscalers there are.")] = False,
) -> None:
    """Make pictures larger and print the paths of the results."""
    settings = options.settings()
    if listing:
        from sfumato.pipeline.upscalers import upscalers

        for row in upscalers(settings.models):
            typer.echo(row.name)
        return
    width, height = parse_size(size.size) if size.size is not None else (None, None)
    if size.size is not None and size.scale is not None:
        raise RequestError(f"--size {size.size} beside --scale {size.scale:g}; give one or the other")
    visibility = second.upscaler2_visibility
    if second.upscaler2 is not None and visibility is None:
        visibility = 0.5
    enlargement = _enlargement(
        upscaler=upscaler,
        second_upscaler=second.upscaler2,
        second_visibility=visibility,
        scale=size.scale,
        max_side=size.max_side,
        width=width,
        height=height,
        crop=size.crop,
        gfpgan_visibility=faces.gfpgan,
        codeformer_visibility=faces.codeformer,
        codeformer_weight=faces.codeformer_weight,
    )
    files = list(_files(pictures or []))
    desk = Desk(enlargement, _shelf(settings), settings.outputs, file_format)
    desk.check()
    if not _make(files, desk):
        raise typer.Exit(1)


def _enlargement(**given: Any) -> Enlargement:
    from sfumato.pipeline.postprocess import Enlargement

    assert set(given) == {field.name for field in fields(Enlargement)}
    return Enlargement(**{name: value for name, value in given.items() if value is not None})


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The pictures named, and those in the folders named, by name."""
    if not paths:
        raise RequestError("no picture; name files or folders, or --list")
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(each for each in path.iterdir() if each.suffix.lower() in ENDINGS)
        if not inside:
            raise ModelNotFoundError(f"{path} holds no PNG, JPEG or WebP pictures")
        yield from inside


def _shelf(settings: Settings) -> UpscalerShelf:
    import torch

    from sfumato.pipeline.models import DTYPES, choose_device
    from sfumato.pipeline.upscalers import UpscalerShelf

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    return UpscalerShelf(
        settings.models, device=choose_device(settings.device), dtype=DTYPES.get(settings.dtype)
    )


def _make(files: Sequence[Path], desk: Desk) -> bool:
    """Enlarge and save every picture; whether all came out. Each that did not gets a line of its own."""
    from sfumato.cli_terminal import ProgressBar

    whole = True
    with ProgressBar(None) as bar:
        for number, path in enumerate(files):
            try:
                for event in desk.enlarge(path):
                    if isinstance(event, Path):
                        with bar.paused():
                            typer.echo(str(event))
                    else:
                        bar.update(event.done, f"picture {number + 1}/{len(files)}", total=event.total)
            except SfumatoError as error:
                whole = False
                with bar.paused():
                    typer.echo(f"error: {_named(path, error)}", err=True)
    return whole


def _named(path: Path, error: SfumatoError) -> str:
    """The error in one line that names the picture."""
    message = " ".join(str(error).split())
    return message if isinstance(error, OutputError) and str(path) in message else f"{path}: {message}"
