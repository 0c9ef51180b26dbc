"""One job made: step by step, its pictures written and recorded one by one, and nothing made twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import sqlalchemy as sa

from sfumato.app.board import Board
from sfumato.app.codec import Inputs
from sfumato.app.database import JobTable
from sfumato.app.gallery import Gallery
from sfumato.app.gallery_entries import of_job
from sfumato.app.jobs import Job, Made, Progress, Script
from sfumato.app.pace import Meter, passes_of, share_done
from sfumato.app.preview import LinearPreview
from sfumato.app.scripts import Bench, EnoughError, Making, Piece, make_script
from sfumato.app.settings import Settings
from sfumato.app.space import Space
from sfumato.app.storage import faults
from sfumato.app.store import Store
from sfumato.errors import QuotaError
from sfumato.pipeline import images
from sfumato.pipeline.generate import generate, until_enough
from sfumato.pipeline.scripts import video
from sfumato.pipeline.shelf import ModelShelf
from sfumato.pipeline.upscale_tiles import TileStep
from sfumato.text.styles import find_styles
from sfumato.types import StepInfo
from sfumato.weights.files import file_sha256

PREVIEW_EVERY = 0.5  # seconds between two previews

Halt = Literal["skip", "interrupt", "cancel", "stop"]
HALTS: tuple[Halt, ...] = get_args(Halt)  # the weakest first


class StoppedError(Exception):
    """The job was told to end before its time."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt)
        self.halt = halt


@dataclass(kw_only=True, eq=False)
class Runner:
    """Makes jobs with one shelf of checkpoints, one after another."""

    shelf: ModelShelf
    table: JobTable
    gallery: Gallery
    space: Space
    inputs: Inputs
    store: Store | None
    board: Board
    settings: Settings
    worker: str  # whose jobs these are
    halted: Callable[[str], Halt | None]  # what a job was told
    expected: Callable[[Job], float | None]  # seconds that a job will take
    file_format: str = "png"
    clock: Callable[[], float] = time.perf_counter
    _previews: dict[str, LinearPreview] = field(default_factory=dict)
    _shown: float = 0.0
    _meter: Meter = field(default_factory=lambda: Meter(None))
    _passes: Sequence[float] = ()  # work of the job's passes
    _enough: bool = False  # the pictures are wanted as far as they are

    @property
    def outputs(self) -> Path:
        """Where finished pictures go."""
        return self.settings.outputs

    def run(self, job: Job) -> dict[str, float]:
        """Make what the job still lacks; seconds by phase.

        Whole batches are made: a picture of a batch has the same bytes only within it. A script begins again.

        Raises:
            StoppedError: it was told to stop; what is finished is kept, and what was half made if it was told
                to "interrupt".
            SfumatoError: whatever `generate`, scripts and saving refuse.
        """
        self._enough = False
        self._meter, self._passes = Meter(self.expected(job)), passes_of(job.request)
        timings = {"load": 0.0, "sample": 0.0, "save": 0.0}
        began = self.clock()
        self._tidy(job)
        self.inputs.fetch(job.request)
        if job.script is None or job.script.name != "extras":
            self.shelf.load(job.request.model)
        timings["load"] = self.clock() - began
        if job.script is None:
            self._run_request(job, timings)
        else:
            self._run_script(job, job.script, timings)
        if self._enough:
            raise StoppedError("interrupt")
        return timings

    def _tidy(self, job: Job) -> None:
        """Remove what a process that died had half written of the job; alone, one does so at its start."""
        if self.settings.database_url is not None:
            for part in (self.outputs / _day(job)).glob(f".{job.number:06d}-*.part"):
                part.unlink(missing_ok=True)

    def _run_request(self, job: Job, timings: dict[str, float]) -> None:
        size, batches = job.request.canvas.batch_size, job.request.canvas.batch_count
        there = {made.index for made in job.made if self._is_there(made)}
        missing = [n for n in range(batches) if not set(range(n * size, (n + 1) * size)) <= there]
        first = missing[0] + 1 if missing else batches + 1
        while first <= batches:
            first = self._run_batches(job, first, timings)

    def _is_there(self, made: Made) -> bool:
        path = self.outputs / made.file
        return path.is_file() or (self.store is not None and self.store.fetch(made.file, path))

    def _run_batches(self, job: Job, first: int, timings: dict[str, float]) -> int:
        """Make the batches from `first` on; the number of the batch to go on with."""
        mark = self.clock()
        for event in until_enough(generate(job.request, self.shelf, first_batch=first), lambda: self._enough):
            now = self.clock()
            timings["sample"] += now - mark
            if isinstance(event, StepInfo):
                self._tell(job, event)
                if self._skips(job, whole=job.request.outpaint.wanted):
                    return event.batch + 1
            else:
                piece = Piece(
                    image=event.image,
                    infotext=event.infotext,
                    seed=event.request.canvas.seed,
                    request=event.request,
                )
                self._save(job, event.index, piece)
                timings["save"] += self.clock() - now
            mark = self.clock()
        return job.request.canvas.batch_count + 1

    def _run_script(self, job: Job, script: Script, timings: dict[str, float]) -> None:
        bench = Bench(shelf=self.shelf, styles=find_styles(self.settings.styles), enough=lambda: self._enough)
        pictures = grids = 0
        mark = self.clock()
        for event in _while_wanted(make_script(script, job.request, bench)):
            now = self.clock()
            timings["sample"] += now - mark
            if isinstance(event, Piece):
                grids += event.grid
                self._save(job, -grids if event.grid else pictures, event)
                pictures += not event.grid
                timings["save"] += self.clock() - now
            else:
                self._tell(job, event, before=bench.made, requests=bench.requests)
                self._skips(job, whole=True)
                if self._enough and isinstance(event, TileStep):  # a picture half enlarged is none
                    raise StoppedError("interrupt")
            mark = self.clock()

    def _skips(self, job: Job, *, whole: bool) -> bool:
        """Whether the present batch is to be left. Raises StoppedError: the job is, or has `whole` to be."""
        halt = self.halted(job.id)
        if halt == "interrupt":
            self._enough = True
            return False
        if halt == "skip" and not whole:
            return True
        if halt is not None:
            raise StoppedError(halt)
        return False

    def _tell(
        self,
        job: Job,
        event: StepInfo | TileStep,
        *,
        before: int = 0,
        requests: int = 1,
    ) -> None:
        """Say how far a job is.

        Args:
            job: the job.
            event: what has just been done.
            before: requests that have been made before this one.
            requests: of the job.
        """
        own = share_done(event, self._passes) if isinstance(event, StepInfo) else event.done / event.total
        share = (before + own) / requests
        old = self.board.read(job.id)
        progress = Progress(
            job=job.id,
            share=share,
            seconds_left=self._meter.left(share, self.clock()),
            preview=old.preview if old else None,
        )
        if isinstance(event, StepInfo):
            if old is None or old.preview is None or time.monotonic() - self._shown >= PREVIEW_EVERY:
                progress = replace(progress, preview=self._preview(job).jpeg(event.latents[0]))
                self._shown = time.monotonic()
            progress = replace(
                progress,
                step=event.step,
                steps=event.steps,
                batch=before * event.batches + event.batch,
                batches=event.batches * requests,
            )
        self.board.post(progress)

    def _preview(self, job: Job) -> LinearPreview:
        models = self.shelf.load(job.request.model)
        if models.name not in self._previews:
            self._previews[models.name] = LinearPreview.fit(models.vae)
        return self._previews[models.name]

    def _save(self, job: Job, index: int, piece: Piece) -> None:
        """Write a picture under a name that only depends on the job, and record it."""
        place = f"{index:03d}" if index >= 0 else f"grid{-index}"
        moving = piece.moving
        ending = moving.file_format if moving else self.file_format
        file = f"{_day(job)}/{job.number:06d}-{place}-{piece.seed}.{ending}"
        path = self.outputs / file
        if moving:
            video.save_as(moving.frames, moving.fps, piece.infotext, path, ending)
        else:
            images.save_as(piece.image, path, piece.infotext, ending, piece.extras)
        try:
            self.space.take(job.owner, file, path.stat().st_size)
        except QuotaError:
            path.unlink()
            raise
        if self.store is not None:
            self.store.put(file, path)
        made = Made(
            index=index,
            file=file,
            sha256=file_sha256(path),
            width=piece.image.width,
            height=piece.image.height,
            seed=piece.seed,
            infotext=piece.infotext,
        )
        with faults(self.table.engine):
            self.gallery.add(of_job(job, made, piece.image, piece.request, self.inputs))
        # Last: what is not in the table is made again.
        if not self.table.add_made(job.id, self.worker, made):  # taken over by another, or given up
            raise StoppedError("cancel")
        self.board.touch(job.id)


def _day(job: Job) -> str:
    """The folder that a job's pictures are in."""
    return datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d")


def _while_wanted(making: Making) -> Making:
    """A script until it asks for a request that is not wanted any more."""
    with suppress(EnoughError):
        yield from making


def open_runner(
    settings: Settings,
    database: sa.Engine,
    *,
    board: Board,
    worker: str,
    halted: Callable[[str], Halt | None],
    expected: Callable[[Job], float | None],
) -> Runner:
    """A runner with all it works with.

    Args:
        settings: where things are, and the limits.
        database: as `storage.connect` opens it.
        board: who wants to know.
        worker: whose jobs these are.
        halted: what a job was told.
        expected: seconds that a job will take; None = that is not known.

    Raises:
        StorageError: the database cannot be used.
        RequestError: no such device, dtype or store here.
    """
    store = None if settings.store is None else Store(settings.store)
    inputs = Inputs(settings.data / "inputs", store)
    return Runner(
        shelf=ModelShelf(
            settings.models,
            device=settings.device,
            dtype=settings.dtype,
            default=settings.checkpoint,
            limit=settings.model_memory,
            paths=False,  # who asks may be anybody; a path would open any file of this machine
        ),
        table=JobTable(database, inputs),
        gallery=Gallery(database, settings.outputs, settings.data / "thumbnails", store),
        space=Space(database, settings.quota),
        inputs=inputs,
        store=store,
        board=board,
        settings=settings,
        worker=worker,
        halted=halted,
        expected=expected,
    )


def sweep(folder: Path, age: float) -> None:
    """Remove what a killed process left half written below `folder`, if it is older than `age` seconds."""
    for path in folder.rglob(".*.part"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime >= age:
                path.unlink()
