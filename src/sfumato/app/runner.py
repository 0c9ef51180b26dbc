"""One job made: step by step, its pictures written and recorded one by one, and nothing made twice."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sfumato.app.board import Board
from sfumato.app.database import JobTable
from sfumato.app.jobs import Job, Made, Progress
from sfumato.app.preview import LinearPreview
from sfumato.pipeline import images
from sfumato.pipeline.generate import generate
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Result, StepInfo

PREVIEW_EVERY = 0.5  # seconds between two previews

Halt = Literal["cancel", "skip", "stop"]


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
    board: Board
    outputs: Path
    halted: Callable[[str], Halt | None]  # what a job was told
    file_format: str = "png"
    _previews: dict[str, LinearPreview] = field(default_factory=dict)
    _shown: float = 0.0

    def run(self, job: Job) -> dict[str, float]:
        """Make what the job still lacks; seconds by phase.

        Whole batches are made: a picture of a batch has the same bytes only within it.

        Raises:
            StoppedError: it was told to stop; what is finished is kept.
            SfumatoError: whatever `generate` and saving refuse.
        """
        timings = {"load": 0.0, "sample": 0.0, "save": 0.0}
        began = time.perf_counter()
        self.shelf.load(job.request.model)
        timings["load"] = time.perf_counter() - began
        size = job.request.canvas.batch_size
        there = {made.index for made in job.made if (self.outputs / made.file).is_file()}
        batches = job.request.canvas.batch_count
        missing = [n for n in range(batches) if not set(range(n * size, (n + 1) * size)) <= there]
        if not missing:
            return timings
        first = missing[0] + 1
        mark = time.perf_counter()
        for event in generate(job.request, self.shelf, first_batch=first):
            now = time.perf_counter()
            timings["sample"] += now - mark
            if isinstance(event, StepInfo):
                self._tell(job, event, timings["sample"], first)
                halt = self.halted(job.id)
                if halt is not None:
                    raise StoppedError(halt)
            else:
                self._save(job, event)
                timings["save"] += time.perf_counter() - now
            mark = time.perf_counter()
        return timings

    def _tell(self, job: Job, event: StepInfo, sampling: float, first: int) -> None:
        before = self.board.read(job.id)
        done = event.share - (first - 1) / event.batches
        left = sampling * (1 - event.share) / done if done > 0 else None
        preview = before.preview if before else None
        if before is None or time.monotonic() - self._shown >= PREVIEW_EVERY:
            preview = self._preview(job).jpeg(event.latents[0])
            self._shown = time.monotonic()
        self.board.post(
            Progress(
                job=job.id,
                share=event.share,
                step=event.step,
                steps=event.steps,
                batch=event.batch,
                batches=event.batches,
                seconds_left=left,
                preview=preview,
            )
        )

    def _preview(self, job: Job) -> LinearPreview:
        models = self.shelf.load(job.request.model)
        if models.name not in self._previews:
            self._previews[models.name] = LinearPreview.fit(models.vae)
        return self._previews[models.name]

    def _save(self, job: Job, result: Result) -> None:
        """Write a picture under a name that only depends on the job, and record it."""
        day = datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d")
        seed = result.request.canvas.seed
        name = f"{job.number:06d}-{result.index:03d}-{seed}.{self.file_format}"
        path = self.outputs / day / name
        images.save_as(result.image, path, result.infotext, self.file_format)
        made = Made(
            index=result.index,
            file=f"{day}/{name}",
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            width=result.image.width,
            height=result.image.height,
            seed=seed,
            infotext=result.infotext,
        )
        self.table.add_made(job.id, made)
        self.board.touch()


def sweep(outputs: Path) -> None:
    """Remove what a killed process left half written below `outputs`."""
    for path in outputs.rglob(".sfumato-*.part"):
        with suppress(FileNotFoundError):
            path.unlink()
