"""Kill the engine again and again while it takes jobs in and makes them; count what was lost or went wrong.

    python -m benchmarks.chaos --kills 100 --jobs 200

A child process submits jobs by key, notes which were accepted, and makes them; it is killed with SIGKILL at
random moments and started again on the same data folder. Beside it, one engine makes the same jobs in peace.
The figures are counts. Settings are as they come: no kill of the process is to be counted against a job.

    python -m benchmarks.chaos --postgresql        # the same queue on a PostgreSQL started for it
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import postgresql
from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.app.settings import Settings
from sfumato.types import Canvas, Prompt, Request, Sampling

RESULT = Path(__file__).parent / "results" / "chaos.json"
MOMENT = 1.5  # seconds after which a child is killed, on the average
CHILDREN = multiprocessing.get_context("forkserver")  # forks of a process that has imported everything


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is left when all jobs have ended."""

    kills: int
    jobs: int  # accepted
    lost: int  # accepted, but not there, or neither done nor given up
    given_up: int  # ended as `crashed`
    doubled: int  # jobs of one key beyond the first, and files that belong to no job
    different: int  # files whose hash is not that of the undisturbed run
    partial: int  # half-written files left, or listed and not there


def request(number: int) -> Request:
    """The request of a number: some small, some of several batches."""
    return Request(
        prompt=Prompt(text=f"picture {number}"),
        sampling=Sampling(steps=2 + number % 5),
        canvas=Canvas(
            seed=number, width=64, height=64, batch_size=1 + number % 2, batch_count=1 + number % 3
        ),
    )


def undisturbed(settings: Settings, jobs: int) -> dict[str, list[str]]:
    """Make the same jobs in one engine; the hashes of their files by key."""
    with Engine(settings) as engine:
        for number in range(jobs):
            engine.submit(request(number), key=str(number))
        ended = [engine.wait(job.id) for job in engine.jobs(limit=jobs)]
        return {str(job.key): [made.sha256 for made in job.made] for job in ended}


def child(settings: Settings, jobs: int, notes: Path, ready: Connection, stay: bool) -> None:
    """Submit what has not been accepted yet, make it, and stay to be killed; that may come at any moment."""
    accepted = {line.split()[0] for line in notes.read_text("ascii").splitlines() if line.endswith(".")}
    with Engine(settings) as engine, notes.open("ab", buffering=0) as log:
        ready.send("ready")
        for number in range(jobs):
            if str(number) not in accepted:
                job = engine.submit(request(number), key=str(number), owner=f"owner {number % 3}")
                log.write(f"{number} {job.id} .\n".encode())
        for job in engine.jobs(limit=jobs):
            engine.wait(job.id)
        if stay:
            threading.Event().wait()


def disturbed(settings: Settings, jobs: int, kills: int, seed: int = 0) -> dict[str, str]:
    """Start and kill the child that many times, with a few more jobs every time; then let it end.

    Half of the kills come at any moment of its life, half while it works, however long it takes to start.

    Returns the ids of the accepted jobs by key.
    """
    chance = random.Random(seed)
    notes = settings.data.parent / "accepted"
    notes.parent.mkdir(parents=True)
    notes.touch()
    for kill in range(kills):
        ready, process = _started(settings, jobs * (kill + 1) // kills, notes, True)
        if kill % 2:
            ready.poll(None)
        process.join(chance.expovariate(1 / MOMENT))  # no moment is likelier than another
        _expect(process, None)
        process.kill()
        process.join()
    _, process = _started(settings, jobs, notes, False)
    process.join()
    _expect(process, 0)
    rows = [line.split() for line in notes.read_text("ascii").splitlines() if line.endswith(".")]
    return {row[0]: row[1] for row in rows}


def _started(settings: Settings, jobs: int, notes: Path, stay: bool) -> tuple[Connection, ForkServerProcess]:
    ready, theirs = CHILDREN.Pipe()
    process = CHILDREN.Process(target=child, args=(settings, jobs, notes, theirs, stay))
    process.start()
    theirs.close()
    return ready, process


def _expect(process: ForkServerProcess, code: int | None) -> None:
    if process.exitcode != code:
        raise SystemExit(f"the engine ended with {process.exitcode}")


def judged(settings: Settings, kills: int, accepted: dict[str, str], wanted: dict[str, list[str]]) -> Outcome:
    """Compare what is there with what was accepted and what an undisturbed run gives."""
    with Engine(settings) as engine:
        jobs = engine.jobs(limit=10 * len(wanted))
    by_id: dict[str, Job] = {job.id: job for job in jobs}
    files = [settings.outputs / made.file for job in jobs for made in job.made]
    there = [path for path in settings.outputs.rglob("*") if path.is_file()]
    keys = [job.key for job in jobs]
    different = 0
    given_up = {job.id for job in jobs if job.fault is not None and job.fault.code == "crashed"}
    done = {job.id for job in jobs if job.state == "done"}
    for key, job_id in accepted.items():
        if job_id in given_up:
            continue
        made = by_id[job_id].made if job_id in by_id else ()
        hashes = [hashlib.sha256((settings.outputs / each.file).read_bytes()).hexdigest() for each in made]
        different += hashes != wanted[key] or [each.sha256 for each in made] != wanted[key]
    return Outcome(
        kills=kills,
        jobs=len(accepted),
        lost=len({*accepted.values()} - done - given_up),
        given_up=len(given_up),
        doubled=len(keys)
        - len(set(keys))
        + len({path for path in there if path.suffix == ".png"} - {*files}),
        different=different,
        partial=sum(path.suffix != ".png" for path in there) + sum(not path.is_file() for path in files),
    )


def run(settings: Settings, jobs: int, kills: int, seed: int = 0) -> Outcome:
    """Make `jobs` jobs under `kills` kills; `settings` give the checkpoint and two fresh folders' parent."""

    def at(name: str) -> Settings:
        folder = settings.data / name
        places = {"data": folder / "data", "outputs": folder / "outputs"}
        return settings.model_copy(update=places)

    CHILDREN.set_forkserver_preload(["sfumato.app.engine"])
    wanted = undisturbed(at("undisturbed").model_copy(update={"database_url": None}), jobs)
    accepted = disturbed(at("disturbed"), jobs, kills, seed)
    return judged(at("disturbed"), kills, accepted, wanted)


def main() -> None:
    """Run it with the embedded model and write the figures down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=200)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--database-url", help="postgresql://… of an empty database")
    where.add_argument("--postgresql", action="store_true", help="a PostgreSQL started for it")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        url = options.database_url
        if options.postgresql:
            url = postgresql.database(stack.enter_context(postgresql.server()))
        settings = Settings(data=folder, models=folder, dtype="float32", database_url=url)
        outcome = run(settings, options.jobs, options.kills)
    print(f"{outcome} in {time.monotonic() - began:.0f} s")
    rows = json.loads(RESULT.read_text("utf-8")) if RESULT.exists() else {}
    rows["sqlite" if url is None else "postgresql"] = asdict(outcome)
    RESULT.write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
