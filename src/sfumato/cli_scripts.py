"""Commands that make many pictures from one request, or one picture in many steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli_groups import JsonFlag, QuietSaving, Saving, Show
from sfumato.cli_options import (
    Options,
    with_any_request,
    with_request,
    with_settings,
    with_source,
)
from sfumato.errors import RequestError

Size = Annotated[str | None, typer.Option(help="Width and height at once: 512x768.")]
Margin = Annotated[int, typer.Option(help="Pixels between the pictures.")]
AxisOption = Annotated[str | None, typer.Option(help="AXIS=VALUES, for example 'Steps=4,8' or 'Seed=1-5'.")]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What a plot varies."""

    x: AxisOption = None
    y: AxisOption = None
    z: AxisOption = None


@dataclass(frozen=True, kw_only=True)
class End:
    """Where a way leads."""

    to_prompt: Annotated[str | None, typer.Option(help="The prompt of the last frame.")] = None
    to_negative: Annotated[str | None, typer.Option(help="The negative prompt of the last frame.")] = None
    to_seed: Annotated[int | None, typer.Option(help="The seed of the last frame.")] = None


def add_commands(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command()(with_any_request(xyz))
    app.command()(with_any_request(matrix))
    app.command()(with_settings("outputs", "models", "styles", "device", "dtype", "threads")(batch))
    app.command()(with_source(loopback))
    app.command()(with_source(sd_upscale))
    app.command()(with_request(interpolate))


def xyz(
    options: Options,
    *,
    axes: Axes,
    legend: Annotated[bool, typer.Option(help="Write the values beside the pictures.")] = True,
    cells: Annotated[bool, typer.Option("--cells", help="Save every picture of it, too.")] = False,
    sub_grids: Annotated[bool, typer.Option("--sub-grids", help="Save a sheet for each value of z.")] = False,
    keep_random: Annotated[
        bool, typer.Option("--keep-random", help="Draw a seed of -1 for each cell.")
    ] = False,
    vary_seeds: Annotated[str, typer.Option(help="Axes along which the seed counts up: x, xy …")] = "",
    margin: Margin = 0,
    size: Size = None,
    saving: Saving,
) -> None:
    """Vary up to three fields of a picture and print the path of the sheet.

    An axis is any field of a request, under its own name (sampling.steps) or AUTOMATIC1111's (Steps,
    Prompt S/R, Checkpoint name …). Values: 4,8,16 or 1-5 or 1-9 (+2) or 0-1 [5].
    """
    settings, base = options.settings(), options.single(size)
    from sfumato.cli_pictures import follow, maker, open_shelf
    from sfumato.pipeline.scripts import xyz as script
    from sfumato.pipeline.scripts.axes import NOTHING, parse_axis

    x, y, z = (
        parse_axis(*_named(text), base, options.styles()) if text is not None else NOTHING
        for text in (axes.x, axes.y, axes.z)
    )
    plot = script.Plot(
        x=x,
        y=y,
        z=z,
        legend=legend,
        sub_grids=sub_grids,
        margin=margin,
        keep_random=keep_random,
        vary_seeds=vary_seeds,
    )
    desk = saving.desk(settings.outputs)
    shelf = open_shelf(settings)
    cell, steps = desk.check([base], shelf), base.sampling.steps
    script.check(
        plot, cell, steps, None if script.fits(plot, cell) else script.measure_step(base, maker(shelf))
    )
    arranged = script.arrange(plot, base)
    cell = desk.check(arranged.edges, shelf)
    script.check(plot, cell, steps)
    desk.check_sheet(cell, plot.x.count * plot.z.count, plot.y.count)
    follow(script.run(arranged, maker(shelf)), desk, requests=plot.count, what="cell", results=cells)


def matrix(
    options: Options,
    *,
    at_start: Annotated[bool, typer.Option("--at-start", help="The changing parts first.")] = False,
    different_seeds: Annotated[bool, typer.Option("--different-seeds", help="Count the seed up.")] = False,
    in_negative: Annotated[bool, typer.Option("--in-negative", help="Split the negative prompt.")] = False,
    separator: Annotated[str, typer.Option(help="Between the parts.")] = ", ",
    cells: Annotated[bool, typer.Option("--cells", help="Save every picture of it, too.")] = False,
    margin: Margin = 0,
    size: Size = None,
    saving: Saving,
) -> None:
    """Combine the parts of a prompt, "a cat|at night|oil painting", and print the path of the sheet."""
    settings, base = options.settings(), options.single(size)
    from sfumato.cli_pictures import follow, maker, open_shelf
    from sfumato.pipeline.scripts import prompt_matrix as script

    how = script.Matrix(
        at_start=at_start,
        different_seeds=different_seeds,
        negative=in_negative,
        separator=separator,
        margin=margin,
    )
    desk = saving.desk(settings.outputs)
    shelf = open_shelf(settings)
    requests = script.arrange(how, base, desk.check([base], shelf))
    desk.check_sheet(desk.check(requests[-1:], shelf), *how.shape(base))
    events = script.run(how, base, requests, maker(shelf))
    follow(events, desk, requests=len(requests), what="cell", results=cells)


def batch(
    options: Options,
    *,
    file: Annotated[Path, typer.Argument(help="Rows: .jsonl with an object a line, or .csv with a header.")],
    saving: QuietSaving,
) -> None:
    """Make the pictures of a file of rows; started again, only those that are missing.

    Names of columns are fields (sampling.steps) or AUTOMATIC1111's names for its API (steps, cfg_scale …).
    The folder keeps a manifest.jsonl. Exit code 1: some rows failed; standard error says which.
    """
    settings = options.settings()
    from sfumato.cli_pictures import Progress, maker, open_shelf
    from sfumato.cli_terminal import ProgressBar, printable
    from sfumato.pipeline import images
    from sfumato.pipeline.scripts import batch as script
    from sfumato.types import Request, StepInfo

    images.check_folder(settings.outputs)
    images.check_format(saving.file_format, 8, 8, 0)
    rows = script.read_rows(file, Request(), options.styles())
    manifest = script.open_manifest(settings.outputs)
    desk = saving.desk(settings.outputs)
    waiting = sum(len(script.missing(row, manifest)) for row in rows if row.request is not None)
    failed = 0
    with ProgressBar(1) as bar:
        progress = Progress(bar, waiting, "row")
        for event in script.run(rows, manifest, maker(open_shelf(settings))):
            progress.see(event)
            if isinstance(event, StepInfo):
                continue
            with bar.paused():
                if isinstance(event, script.Made):
                    manifest.record(event, desk.keep(event.result))
                else:
                    failed += 1
                    manifest.fail(event)
                    typer.echo(f"row {event.row.number}: {printable(event.error)}", err=True)
    raise typer.Exit(1 if failed else 0)


def loopback(
    options: Options,
    *,
    loops: Annotated[int, typer.Option(help="Times through image to image.")] = 4,
    final_denoise: Annotated[float, typer.Option(help="Denoising strength of the last loop.")] = 0.5,
    curve: Annotated[str, typer.Option(help="On the way there: Aggressive, Linear or Lazy.")] = "Linear",
    size: Size = None,
    saving: Saving,
) -> None:
    """Take a picture through image to image again and again, each time from the last result."""
    settings, request = options.settings(), options.single(size)
    from sfumato.cli_pictures import follow, maker, open_shelf
    from sfumato.pipeline.scripts import loopback as script

    how = script.Loops(loops=loops, final_denoising_strength=final_denoise, curve=curve)  # type: ignore[arg-type]
    desk = saving.desk(settings.outputs)
    shelf = open_shelf(settings)
    desk.check([request], shelf)
    count = loops * request.canvas.batch_count
    follow(script.run(how, request, maker(shelf)), desk, requests=count, what="loop")


def sd_upscale(
    options: Options,
    *,
    scale: Annotated[float, typer.Option(help="How many times larger.")] = 2.0,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 64,
    upscaler: Annotated[str, typer.Option(help="What enlarges before: Lanczos, or a model.")] = "Lanczos",
    size: Annotated[str | None, typer.Option(help="Of a tile: 512x768.")] = None,
    saving: Saving,
) -> None:
    """Enlarge a picture and repaint it tile by tile."""
    settings, request = options.settings(), options.single(size)
    from sfumato.cli_pictures import follow, maker, open_shelf
    from sfumato.pipeline.scripts import sd_upscale as script
    from sfumato.pipeline.upscale import upscale_image
    from sfumato.pipeline.upscalers import load

    shelf = open_shelf(settings)
    native = shelf.load(request.model).spec.native_size
    canvas = request.canvas
    request = replace(
        request, canvas=replace(canvas, width=canvas.width or native, height=canvas.height or native)
    )
    tiling = script.Tiling(scale=scale, overlap=overlap, upscaler=upscaler)
    desk = saving.desk(settings.outputs)
    tiles = script.count(tiling, request)
    desk.check([request], shelf)
    enlarge = partial(upscale_image, upscaler=load(upscaler, settings.models, device=shelf.device))
    events = script.run(tiling, request, maker(shelf), enlarge)
    follow(events, desk, requests=tiles, what="tile", results=False)


def interpolate(
    options: Options,
    *,
    end: End,
    frames: Annotated[int, typer.Option(help="Number of frames, both ends among them.")] = 16,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 8.0,
    back: Annotated[bool, typer.Option("--back", help="And the same way back.")] = False,
    cells: Annotated[bool, typer.Option("--cells", help="Save every frame as a picture, too.")] = False,
    size: Size = None,
    file_format: Annotated[str, typer.Option("--format", help="gif, webp or mp4.")] = "webp",
    as_json: JsonFlag = False,
    show: Show = False,
) -> None:
    """Go from one prompt or seed to another, frame by frame, and print the path of the moving picture."""
    settings, request = options.settings(), options.single(size)
    from sfumato.cli_pictures import Desk, Progress, maker, open_shelf
    from sfumato.cli_terminal import ProgressBar
    from sfumato.pipeline.scripts import interpolate as script
    from sfumato.pipeline.scripts import video
    from sfumato.types import Result

    video.check(file_format, fps)
    way = script.Way(frames=frames, prompt=end.to_prompt, negative=end.to_negative, seed=end.to_seed)
    desk = Desk(folder=settings.outputs, file_format="png", as_json=as_json, show=show)
    shelf = open_shelf(settings)
    way.check(desk.check([request], shelf))
    made: list[Result] = []
    with ProgressBar(1) as bar:
        progress = Progress(bar, frames, "frame")
        for event in script.run(way, request, maker, shelf):
            progress.see(event)
            if isinstance(event, Result):
                made.append(event)
                if cells:
                    with bar.paused():
                        desk.keep(event)
    shown = script.there_and_back(made) if back else made
    infotext = made[0].infotext
    path = video.save([each.image for each in shown], fps, infotext, settings.outputs, file_format)
    desk.say(path, infotext)


def _named(text: str) -> tuple[str, str]:
    """Name and values of an axis."""
    name, sign, values = text.partition("=")
    if not sign:
        raise RequestError(f"axis {text[:40]!r} is not of the form AXIS=VALUES, for example Steps=4,8,16")
    return name, values
