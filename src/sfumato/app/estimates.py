"""When a job will be done: from its own steps where it runs, from those before it where it waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sfumato.app.board import Board
from sfumato.app.crew import Crew
from sfumato.app.database import JobTable, Place
from sfumato.app.jobs import Job
from sfumato.app.pace import Pace


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Tells jobs with their places and when they will be done."""

    table: JobTable
    board: Board
    pace: Pace
    crew: Crew

    def tell(self, job: Job) -> Job:
        """The job with its place and an estimate."""
        if job.state != "queued":
            return self._placed(job, None, None)
        return self._placed(job, self.table.place(job.id), self._busy())

    def tell_all(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs with their places and estimates, all as of one moment.

        A job that waited when it was read and waits no more is given without a place.
        """
        queued = {job.number for job in jobs if job.state == "queued"}
        places, busy = self.table.places(queued), self._busy() if queued else None
        return [self._placed(job, places.get(job.number), busy) for job in jobs]

    def expected(self, job: Job) -> float | None:
        """Seconds that a job will take, by what others took; None = that is not known."""
        return self.pace.seconds(_work(job)) if job.units else None

    def waiting(self) -> float:
        """Seconds that all jobs that wait will take; 0 = that is not known, too."""
        return self.pace.seconds(self.table.waiting_work()) or 0.0

    def _placed(self, job: Job, place: Place | None, busy: float | None) -> Job:
        """The job with its place and an estimate; `busy` = seconds until what runs is done."""
        if job.state == "running":
            return replace(job, estimate=self._left(job.id, _work(job)))
        if place is None:
            return job
        own, ahead = self.expected(job), self.pace.seconds(place.work)
        estimate = None
        if own is not None and ahead is not None and busy is not None:
            estimate = own + (busy + ahead) / self.crew.workers
        return replace(job, position=place.position, estimate=estimate)

    def _busy(self) -> float | None:
        """Seconds until the jobs that run are done, one after another; None = that is not known."""
        total = 0.0
        for job_id, (checkpoint, units) in self.table.running().items():
            left = self._left(job_id, {checkpoint: units})
            if left is None:
                return None
            total += left
        return total

    def _left(self, job_id: str, work: Mapping[str, float]) -> float | None:
        """Seconds until a running job is done: by its own steps, less what has passed since the last."""
        progress = self.board.read(job_id)
        if progress is not None and progress.seconds_left is not None:
            return max(0.0, progress.seconds_left - (self.board.clock() - progress.posted))
        share = progress.share if progress is not None else 0.0
        return self.pace.seconds({checkpoint: units * (1 - share) for checkpoint, units in work.items()})


def _work(job: Job) -> Mapping[str, float]:
    return {job.request.model.checkpoint or "": job.units}
