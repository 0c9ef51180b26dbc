"""Servers and workers on one database: whatever process takes a job in, makes it, tells of it or dies."""

import hashlib
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from sfumato.app.engine import Engine
from sfumato.app.jobs import Job
from sfumato.app.settings import Settings
from sfumato.errors import RequestError
from sfumato.types import Canvas, Prompt, Request, Sampling, Source

CHILDREN = multiprocessing.get_context("forkserver")
TIMEOUT = 120  # seconds after which something hangs


def request(steps: int = 2, **canvas: int) -> Request:
    return Request(
        prompt=Prompt(text="a cat"),
        sampling=Sampling(steps=steps),
        canvas=Canvas(**({"seed": 1, "width": 32, "height": 32} | canvas)),
    )


def work(settings: Settings, pipe: Connection) -> None:
    with Engine(settings, "worker"):
        pipe.send("ready")
        pipe.recv()


class Worker:
    """A process that makes jobs."""

    def __init__(self, settings: Settings) -> None:
        self.pipe, other = CHILDREN.Pipe()
        self.process: ForkServerProcess = CHILDREN.Process(target=work, args=(settings, other))
        self.process.start()
        assert self.pipe.poll(TIMEOUT)
        assert self.pipe.recv() == "ready"

    def end(self) -> None:
        if self.process.is_alive():
            self.pipe.send("leave")
        self.process.join(TIMEOUT)


@contextmanager
def working(*all_settings: Settings) -> Iterator[list[Worker]]:
    CHILDREN.set_forkserver_preload(["sfumato.app.engine"])
    workers: list[Worker] = []
    with ExitStack() as stack:
        for settings in all_settings:
            workers.append(Worker(settings))
            stack.callback(workers[-1].process.kill)
        yield workers
        for worker in workers:
            worker.end()


@pytest.fixture
def shared(settings: Settings, database_url: str) -> Settings:
    return settings.model_copy(update={"database_url": database_url, "patience": 3.0})


@pytest.fixture
def server(shared: Settings) -> Iterator[Engine]:
    engine = Engine(shared, "server")
    engine.start()
    yield engine
    engine.close()


def until(engine: Engine, job: Job, enough: Callable[[Any], bool]) -> None:
    for event in engine.watch(job.id, every=0):
        assert event.job.state in ("queued", "running"), event.job
        if event.progress is not None and enough(event.progress):
            return
    raise AssertionError("it ended")


@pytest.mark.slow
def test_any_number_of_workers_make_what_a_server_takes_in(server: Engine, shared: Settings) -> None:
    jobs = [server.submit(request(steps=20, seed=seed)) for seed in range(8)]
    assert [server.job(job.id).position for job in jobs] == list(range(8))
    with working(shared, shared):
        ended = [server.wait(job.id, TIMEOUT) for job in jobs]
        assert {job.state for job in ended} == {"done"}
        with server._table.engine.connect() as db:
            makers = {row[0] for row in db.exec_driver_sql("select worker from sfumato_jobs")}
        assert len(makers) == 2
    for job in ended:
        data = (server.settings.outputs / job.made[0].file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == job.made[0].sha256


@pytest.mark.slow
def test_what_a_dead_process_had_half_written_is_gone_when_its_job_is_made(
    server: Engine, shared: Settings
) -> None:
    job = server.submit(request())
    day = shared.outputs / datetime.fromtimestamp(job.created, UTC).strftime("%Y-%m-%d")
    day.mkdir(parents=True)
    own, others = (
        day / f".{job.number:06d}-000-1.png.ab12.part",
        day / f".{job.number + 1:06d}-000-1.png.ab12.part",
    )
    own.touch()
    others.touch()  # a worker may be writing it
    with working(shared):
        assert server.wait(job.id, TIMEOUT).state == "done"
    assert not own.exists()
    assert others.exists()


@pytest.mark.slow
def test_progress_cancel_and_skip_reach_over_processes(server: Engine, shared: Settings) -> None:
    with working(shared):
        job = server.submit(request(steps=900, batch_count=2))
        until(server, job, lambda progress: progress.step > 1 and progress.preview is not None)
        server.skip(job.id)
        until(server, job, lambda progress: progress.batch == 2)
        server.cancel(job.id)
        ended = server.wait(job.id, TIMEOUT)
        assert ended.state == "cancelled"
        assert not ended.made


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "left"])
def test_another_worker_takes_over_from_one_that_is_gone(
    server: Engine, shared: Settings, tmp_path: Path, how: str
) -> None:
    job = server.submit(request(steps=300, batch_count=2))
    alone = server.submit(request(steps=1))
    with working(shared) as [first]:
        until(server, job, lambda progress: progress.step > 1)
        if how == "killed":
            first.process.kill()
            first.process.join()
        else:
            first.end()
        elsewhere = shared.model_copy(update={"data": tmp_path / "elsewhere"})  # another name
        with working(elsewhere):
            assert server.wait(job.id, TIMEOUT).state == "done"
            assert server.wait(alone.id, TIMEOUT).state == "done"
    assert len(server.job(job.id).made) == 2


@pytest.mark.slow
def test_pictures_and_their_sources_go_through_the_store(
    settings: Settings, database_url: str, tmp_path: Path
) -> None:
    from PIL import Image

    def machine(name: str) -> Settings:
        places = {"data": tmp_path / name / "data", "outputs": tmp_path / name / "outputs"}
        return settings.model_copy(
            update={**places, "database_url": database_url, "store": str(tmp_path / "store")}
        )

    engine = Engine(machine("a"), "server")
    engine.start()
    try:
        source = Source(image=Image.new("RGB", (32, 32), "red"), denoising_strength=0.5)
        job = engine.submit(Request(prompt=Prompt(text="a"), canvas=request().canvas, source=source))
        with working(machine("b")):
            made = engine.wait(job.id, TIMEOUT).made[0]
        engine.file(made)
        places = [tmp_path / "a" / "outputs", tmp_path / "b" / "outputs", tmp_path / "store"]
        assert {hashlib.sha256((place / made.file).read_bytes()).hexdigest() for place in places} == {
            made.sha256
        }
        assert not list(tmp_path.rglob("*.part"))
    finally:
        engine.close()


def test_a_worker_alone_needs_a_database_that_others_reach(settings: Settings) -> None:
    for role in ("worker", "server"):
        with pytest.raises(RequestError, match="--database-url"):
            Engine(settings, role)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_worker_told_to_leave_ends_its_job_first_and_a_second_time_gives_it_back(
    server: Engine, shared: Settings
) -> None:
    def started() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from sfumato.cli import main; main()", "worker", "--grace", "3600"]
        for name in ("data", "outputs", "models", "checkpoint", "dtype", "database_url"):
            flag = {"outputs": "output"}.get(name, name).replace("_", "-")
            command += [f"--{flag}", str(getattr(shared, name))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    for signals, steps, state in ((1, 200, "done"), (2, 900, "running")):
        worker = started()
        try:
            job = server.submit(request(steps=steps))
            until(server, job, lambda progress: progress.step > 1)
            worker.send_signal(signal.SIGTERM)
            if signals == 2:
                until(server, job, lambda progress: progress.step > 1)
                worker.send_signal(signal.SIGTERM)
            assert worker.wait(TIMEOUT) == 0
        finally:
            worker.kill()
            worker.communicate()
        assert server.job(job.id).state == state
