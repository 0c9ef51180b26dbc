"""Jobs that are more than one request: a script's name and plain arguments become what is made, step by step.

Requests of others come this way, so nothing in the arguments may name a file of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from types import MappingProxyType
from typing import Any, TypeAlias

from PIL.Image import Image

from sfumato.app.jobs import Script
from sfumato.app.pace import USUAL, picture_size
from sfumato.errors import RequestError, SfumatoError
from sfumato.pipeline.faces import restore_faces
from sfumato.pipeline.generate import generate, prepare, until_enough
from sfumato.pipeline.postprocess import Enlarged, Enlargement, enlarge_image
from sfumato.pipeline.scripts import loopback, prompt_matrix, prompts_file, sd_upscale, walk, xyz
from sfumato.pipeline.scripts.axes import parse_axis
from sfumato.pipeline.scripts.work import Event, Make, Sheet, with_parameters
from sfumato.pipeline.shelf import ModelShelf
from sfumato.pipeline.source import read_picture
from sfumato.pipeline.upscale import upscale_image
from sfumato.pipeline.upscale_tiles import TileStep
from sfumato.text.styles import Style
from sfumato.types import Request, Result, StepInfo


@dataclass(frozen=True, kw_only=True, eq=False)
class Moving:
    """Frames of a moving picture."""

    frames: Sequence[Image]
    fps: float
    file_format: str  # "gif" or "webp"


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A picture to be kept."""

    image: Image
    infotext: str
    seed: int
    grid: bool = False
    extras: str = ""  # what was done to a finished picture
    moving: Moving | None = None  # what is kept in place of the picture, its first frame
    request: Request | None = None  # of this very picture; None = what its infotext tells


class EnoughError(Exception):
    """A script's next request is not wanted any more."""


MAX_REQUESTS = 100_000  # that are counted
Making: TypeAlias = "Iterator[StepInfo | TileStep | Piece]"


@dataclass(kw_only=True, eq=False)
class Bench:
    """What a script works with, and how many of its requests it has made.

    Once it is enough, the present request's pictures are made as far as they have come, and none after them.
    """

    shelf: ModelShelf
    styles: Mapping[str, Style] = field(default_factory=dict)
    enough: Callable[[], bool] = lambda: False
    requests: int = 1
    made: int = 0

    def make(self, request: Request, shelf: ModelShelf | None = None) -> Iterator[StepInfo | Result]:
        """Make the pictures of one of the requests, with the models of another shelf if one is given."""
        if self.enough():
            raise EnoughError
        yield from until_enough(generate(request, shelf or self.shelf), self.enough)
        self.made += 1

    def make_with(self, shelf: ModelShelf) -> Make:
        """What makes requests with the models of this shelf."""
        return lambda request: self.make(request, shelf)

    def cell(self, requests: Iterable[Request]) -> tuple[int, int]:
        """The largest width and height of what requests make. Raises what `prepare` refuses."""
        sizes = [prepare(each, self.shelf).passes[-1].request.canvas for each in requests]
        return max(size.width or 0 for size in sizes), max(size.height or 0 for size in sizes)


def make_script(script: Script, request: Request, bench: Bench) -> Making:
    """Do what a script does.

    Args:
        script: its name and arguments.
        request: what it starts from, with its seeds drawn.
        bench: what it works with.

    Yields:
        Steps, and every picture to be kept.

    Raises:
        RequestError: no such script or argument; an argument out of range.
        SfumatoError: see `generate` and the modules of `pipeline.scripts`.
    """
    if script.name not in SCRIPTS:
        raise RequestError(f"no script {script.name[:60]!r}; there are {', '.join(SCRIPTS)}")
    try:
        return SCRIPTS[script.name](bench, request, **script.arguments)
    except TypeError as error:
        raise RequestError(f"{script.name}: {error}") from error


def count_requests(script: Script, request: Request) -> int:
    """How many times the request's work a script does; 1 where its arguments are wrong."""
    if script.name not in _COUNTS:
        return 0 if script.name == "extras" else 1
    try:
        return min(_COUNTS[script.name](request, **script.arguments), MAX_REQUESTS)
    except (SfumatoError, TypeError, ValueError):  # making it will say so
        return 1


def _count_tiles(request: Request, **given: Any) -> int:
    tiling, canvas = sd_upscale.Tiling(**given), request.canvas
    if request.source.image is None:
        return 1
    width, height = (round(side * tiling.scale) for side in picture_size(request.source.image))
    tile = canvas.width or USUAL, canvas.height or USUAL
    return sum(len(row) for row in sd_upscale.boxes((width, height), tile, tiling.overlap))


_COUNTS: Mapping[str, Callable[..., int]] = MappingProxyType(
    {
        "prompt matrix": lambda request, **given: prompt_matrix.count(prompt_matrix.Matrix(**given), request),
        "prompts": lambda request, text, **given: sum(1 for line in text.splitlines() if line.strip()),
        "x/y/z plot": lambda request, axes, **given: prod(
            parse_axis(name, values, request, {}).count for name, values in axes
        ),
        "loopback": lambda request, **given: loopback.Loops(**given).loops,
        "walk": lambda request, stops, cells=False, **given: (
            walk.Walk(stops=[walk.Stop(**each) for each in stops], **given).count
        ),
        "sd upscale": _count_tiles,
    }
)


def _prompt_matrix(bench: Bench, request: Request, **given: Any) -> Making:
    matrix = prompt_matrix.Matrix(**given)
    requests = prompt_matrix.arrange(matrix, request, bench.cell([request]))
    bench.requests = len(requests)
    return _pieces(prompt_matrix.run(matrix, request, requests, bench.make))


def _prompts(bench: Bench, request: Request, text: str, **given: Any) -> Making:
    reading = prompts_file.Reading(**given)
    requests = _homely(request, prompts_file.read_lines(text, request, reading, bench.styles))
    if not requests:
        raise RequestError("no prompt in the text; expected one a line")
    bench.requests = len(requests)
    return _pieces(event for each in requests for event in bench.make(each))


def _plot(bench: Bench, request: Request, axes: Sequence[Sequence[str]], cells: bool, **given: Any) -> Making:
    x, y, z = (parse_axis(name, values, request, bench.styles) for name, values in axes)
    plot = xyz.Plot(x=x, y=y, z=z, **given)
    if not xyz.fits(plot, (8, 8)):
        xyz.check(plot, (8, 8), request.sampling.steps)
    arranged = xyz.arrange(plot, request)
    _homely(request, arranged.requests)
    xyz.check(plot, bench.cell(arranged.edges), request.sampling.steps)
    bench.requests = plot.count
    return _pieces(xyz.run(arranged, bench.make), results=cells)


def _loopback(bench: Bench, request: Request, **given: Any) -> Making:
    loops = loopback.Loops(**given)
    bench.requests = loops.loops * request.canvas.batch_count
    return _pieces(loopback.run(loops, request, bench.make))


def _walk(
    bench: Bench, request: Request, stops: Sequence[Mapping[str, Any]], cells: bool = False, **given: Any
) -> Making:
    way = walk.Walk(stops=[walk.Stop(**each) for each in stops], **given)
    way.check(bench.cell([request]))
    bench.requests = way.count
    return _walked(bench, request, way, cells=cells)


def _walked(bench: Bench, request: Request, way: walk.Walk, *, cells: bool) -> Making:
    """The moving picture, a contact sheet of it, and every frame if they are wanted."""
    frames: list[Result] = []
    with suppress(EnoughError):
        for event in walk.run(way, request, bench.make_with, bench.shelf):
            if isinstance(event, StepInfo):
                yield event
                continue
            frames.append(event)
            if cells:
                yield Piece(image=event.image, infotext=event.infotext, seed=event.request.canvas.seed)
    if len(frames) < 2:
        return
    first, seed = frames[0], frames[0].request.canvas.seed
    told = [("Script", "Walk"), *((f"Walk {n}", each.prompt) for n, each in enumerate(way.stops, 1))]
    infotext = with_parameters(first.infotext, told)
    moving = Moving(frames=way.shown(frames), fps=way.fps, file_format=way.file_format)
    yield Piece(image=first.image, infotext=infotext, seed=seed, moving=moving)
    if len(frames) == way.count:
        yield Piece(image=walk.contact_sheet(way, frames), infotext=infotext, seed=seed, grid=True)


def _sd_upscale(bench: Bench, request: Request, **given: Any) -> Making:
    tiling = sd_upscale.Tiling(**given)
    native = bench.shelf.load(request.model).spec.native_size
    canvas = request.canvas
    request = replace(
        request, canvas=replace(canvas, width=canvas.width or native, height=canvas.height or native)
    )
    bench.requests = sd_upscale.count(tiling, request)
    enlarge = partial(upscale_image, upscaler=bench.shelf.upscalers.load(tiling.upscaler))
    return _pieces(sd_upscale.run(tiling, request, bench.make, enlarge), results=False, grids=False)


def _faces(bench: Bench, request: Request, restorer: str, weight: float = 0.5) -> Making:
    """Make the request's pictures and restore the faces in them."""
    network = bench.shelf.upscalers.load_face_restorer(restorer)
    for event in bench.make(request):
        if isinstance(event, StepInfo):
            yield event
            continue
        yield Piece(
            image=restore_faces(event.image, network, weight),
            infotext=with_parameters(event.infotext, [("Face restoration", restorer)]),
            seed=event.request.canvas.seed,
        )


def _extras(bench: Bench, request: Request, infotext: str = "", **given: Any) -> Making:
    """Enlarge the request's source; nothing else of the request counts."""
    enlargement = Enlargement(**given)
    if request.source.image is None:
        raise RequestError("no picture to enlarge")
    image = read_picture(request.source.image)
    for event in enlarge_image(image, enlargement, bench.shelf.upscalers):
        if isinstance(event, Enlarged):
            yield Piece(image=event.image, infotext=infotext, seed=request.canvas.seed, extras=event.infotext)
        else:
            yield event


SCRIPTS: Mapping[str, Callable[..., Making]] = MappingProxyType(
    {
        "prompt matrix": _prompt_matrix,
        "prompts": _prompts,
        "x/y/z plot": _plot,
        "loopback": _loopback,
        "walk": _walk,
        "sd upscale": _sd_upscale,
        "faces": _faces,
        "extras": _extras,
    }
)


def _pieces(events: Iterable[Event], *, results: bool = True, grids: bool = True) -> Making:
    """A script's events, its pictures as pieces.

    Args:
        events: of the script.
        results: whether the single pictures are kept.
        grids: whether its sheets are grids beside the pictures; else they are the pictures.
    """
    seed = 0
    for event in events:
        if isinstance(event, StepInfo):
            yield event
        elif isinstance(event, Result):
            seed = event.request.canvas.seed
            if results:
                yield Piece(image=event.image, infotext=event.infotext, seed=seed)
        else:
            assert isinstance(event, Sheet)
            own = seed if grids else int(event.label)
            yield Piece(image=event.image, infotext=event.infotext, seed=own, grid=grids)


def _homely(base: Request, requests: Sequence[Request]) -> list[Request]:
    """The requests, none of which names a picture that is not the base's."""
    for each in requests:
        pictures = each.source.image, each.source.depth, each.mask.image
        if pictures != (base.source.image, base.source.depth, base.mask.image):
            raise RequestError("a script cannot name files of this machine; send pictures with the request")
    return list(requests)
