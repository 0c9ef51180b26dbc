"""The engine: what is submitted is made once, in turn, and can be followed, stopped and found again."""

import hashlib
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Thread

import psutil
import pytest
import sqlalchemy as sa
from PIL import Image

from sfumato.app.codec import decode
from sfumato.app.database import JOBS, Place
from sfumato.app.engine import Engine
from sfumato.app.gallery_table import Filter
from sfumato.app.jobs import Job
from sfumato.app.settings import Settings
from sfumato.errors import (
    ClosingError,
    ConflictError,
    JobNotFoundError,
    QueueFullError,
    RequestError,
    StorageError,
)
from sfumato.pipeline.images import read_infotext
from sfumato.types import Canvas, Prompt, Request, Sampling, Source


@pytest.fixture
def settings(tmp_path: Path, tiny_checkpoint: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        outputs=tmp_path / "outputs",
        models=tiny_checkpoint.parent,
        checkpoint="tiny",
        device="cpu",
        dtype="float32",
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with Engine(settings) as engine:
        yield engine


def request(text: str = "a cat", steps: int = 2, **canvas: int) -> Request:
    return Request(
        prompt=Prompt(text=text),
        sampling=Sampling(steps=steps),
        canvas=Canvas(**({"seed": 1, "width": 32, "height": 32} | canvas)),
    )


def files(engine: Engine, job: Job) -> list[Path]:
    return [engine.settings.outputs / made.file for made in job.made]


def test_an_engine_listens_at_no_port(engine: Engine) -> None:
    connections = psutil.Process().net_connections("inet")
    assert not [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]


def test_a_job_ends_in_files_that_tell_how_they_were_made(engine: Engine) -> None:
    job = engine.wait(engine.submit(request(batch_size=2, batch_count=2)).id, 600)
    assert job.state == "done"
    assert [made.index for made in job.made] == [0, 1, 2, 3]
    for made, path in zip(job.made, files(engine, job), strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == made.sha256
        assert read_infotext(path) == made.infotext
    assert set(job.timings) == {"load", "sample", "save"}
    assert not list(engine.settings.outputs.rglob("*.part"))


def test_open_seeds_are_drawn_when_a_job_is_taken_in(engine: Engine) -> None:
    job = engine.submit(request(seed=-1))
    assert job.request.canvas.seed >= 0
    assert engine.wait(job.id, 600).made[0].seed == job.request.canvas.seed


def test_the_same_key_gives_the_same_job_and_another_request_a_conflict(engine: Engine) -> None:
    first = engine.submit(request(seed=-1), key="k")
    assert engine.submit(request(seed=-1), key="k").id == first.id
    assert engine.submit(request(seed=-1), key="k", owner="somebody else").id != first.id
    with pytest.raises(ConflictError, match="another request"):
        engine.submit(request("a dog", seed=-1), key="k")


def test_what_waits_can_be_cancelled_and_what_runs_is_stopped_at_the_next_step(engine: Engine) -> None:
    running, waiting = engine.submit(request(steps=900)), engine.submit(request())
    assert engine.cancel(waiting.id).state == "cancelled"
    for event in engine.watch(running.id, every=0):
        if event.kind == "progress" and event.progress and event.progress.step:
            assert event.progress.preview is not None
            assert event.progress.preview.startswith(b"\xff\xd8")
            break
    engine.cancel(running.id)
    ended = engine.wait(running.id, 600)
    assert ended.state == "cancelled"
    assert not ended.made
    assert engine.cancel(running.id).state == "cancelled"  # again: nothing happens


def test_a_job_that_begins_while_a_page_is_read_has_no_second_place(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(settings)
    engine.start(listen=False)
    first, second = (engine.submit(request()) for _ in range(2))
    look = engine._table.places

    def late(numbers: Collection[int]) -> dict[int, Place]:
        engine._table.start(first.id, engine.worker)
        return look(numbers)

    monkeypatch.setattr(engine._table, "places", late)
    told = {job.id: (job.state, job.position) for job in engine.jobs()}
    engine.close()
    assert told == {first.id: ("running", None), second.id: ("queued", 0)}


def test_owners_take_turns(engine: Engine) -> None:
    first = engine.submit(request(steps=900), owner="many")
    for event in engine.watch(first.id, every=0):
        if event.job.state == "running":
            break
    many = [engine.submit(request(), owner="many") for _ in range(6)]
    few = [engine.submit(request(), owner="few") for _ in range(2)]
    assert [engine.job(job.id).position for job in few] == [1, 3]
    urgent = engine.submit(request(), owner="many", priority=5)
    assert engine.job(urgent.id).position == 0
    engine.cancel(first.id)
    ended = [engine.wait(job.id, 600) for job in (*many, *few, urgent)]
    order = [job.id for job in sorted(ended, key=lambda job: job.started or 0)]
    assert order[0] == urgent.id
    assert max(order.index(job.id) for job in few) <= 4


def test_jobs_that_the_queue_hands_out_together_are_made_one_after_another(settings: Settings) -> None:
    engine = Engine(settings)
    engine.start(listen=False)
    try:
        jobs = [engine.submit(request(seed=seed)) for seed in range(3)]
        threads = [Thread(target=engine._maker.work, args=(job.id, engine._runner)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(600)
        made = sorted((engine.job(job.id) for job in jobs), key=lambda job: job.started or 0)
        assert [job.state for job in made] == ["done"] * 3
        for earlier, later in pairwise(made):
            assert earlier.finished is not None
            assert later.started is not None
            assert earlier.finished <= later.started
    finally:
        engine.close()


def test_a_full_queue_says_when_to_come_back(settings: Settings) -> None:
    with Engine(settings.model_copy(update={"queue_limit": 2})) as engine:
        running = engine.submit(request(steps=900))
        while engine.job(running.id).state == "queued":
            pass
        for _ in range(2):
            engine.submit(request())
        with pytest.raises(QueueFullError, match="wait already") as refused:
            engine.submit(request())
        assert refused.value.retry_after >= 1


def test_as_many_jobs_wait_as_may_however_many_come_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_at_once = threading.Barrier(4)
    engine = Engine(settings.model_copy(update={"queue_limit": 2}))
    monkeypatch.setattr(engine.space, "check", lambda owner: all_at_once.wait(60))
    engine.start(listen=False)
    with closing(engine), ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda _: _refused(engine), range(4)))
        assert sorted(told) == [False, False, True, True]
        assert engine.waiting() == 2


def _refused(engine: Engine) -> bool:
    try:
        engine.submit(request())
    except QueueFullError:
        return True
    return False


def test_places_of_many_are_as_those_of_each(settings: Settings) -> None:
    engine = Engine(settings)
    engine.start(listen=False)
    with closing(engine):
        for number in range(6):
            engine.submit(request(), owner="ab"[number % 2], priority=number % 3)
        listed = engine.jobs(limit=4)
        assert [job.position for job in listed] == [engine.job(job.id).position for job in listed]
        assert [job.estimate for job in listed] == [engine.job(job.id).estimate for job in listed]
        some = [job.id for job in listed[1:3]]
        assert [job.id for job in engine.jobs(ids=some)] == some


def test_pictures_come_from_the_store_when_they_are_wanted_and_not_before(
    settings: Settings, tmp_path: Path
) -> None:
    with Engine(settings.model_copy(update={"store": str(tmp_path / "store")})) as engine:
        job = engine.wait(engine.submit(request()).id)
        path = settings.outputs / job.made[0].file
        path.unlink()
        assert engine.job(job.id).made == job.made
        assert not path.exists()
        assert engine.file(job.made[0]) == path
        assert path.is_file()


def test_an_engine_that_is_closing_takes_nothing_more_in(engine: Engine) -> None:
    engine.drain()
    with pytest.raises(ClosingError) as refused:
        engine.submit(request())
    assert refused.value.retry_after > 0


def test_a_request_that_cannot_be_made_fails_in_words_and_the_next_is_made(engine: Engine) -> None:
    with pytest.raises(RequestError, match="no such"):  # what can be told at once is
        engine.submit(replace(request(), sampling=Sampling(sampler="no such")))
    wrong = engine.submit(replace(request(), prompt=Prompt(text="<lora:no such:1>")))
    right = engine.submit(request())
    failed = engine.wait(wrong.id, 600)
    assert failed.state == "failed"
    assert failed.fault is not None
    assert failed.fault.code == "model_not_found"
    assert "no such" in failed.fault.message
    assert engine.wait(right.id, 600).state == "done"


def test_nobody_sees_anothers_jobs(engine: Engine) -> None:
    job = engine.submit(request(), owner="a")
    for call in (engine.job, engine.cancel, engine.skip):
        with pytest.raises(JobNotFoundError):
            call(job.id, "b")
    assert engine.jobs(owner="b") == []
    assert [each.id for each in engine.jobs(owner="a")] == [job.id]


def test_a_second_engine_on_the_same_folder_is_refused(engine: Engine, settings: Settings) -> None:
    with pytest.raises(ConflictError, match="in use"):
        Engine(settings)


def test_a_damaged_database_is_refused_and_left_alone(settings: Settings) -> None:
    settings.data.mkdir(parents=True)
    path = settings.data / "jobs.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageError, match=r"jobs\.sqlite"):
        Engine(settings)
    assert path.read_bytes().startswith(b"not a database")


def test_what_waited_when_an_engine_closed_is_made_by_the_next(settings: Settings) -> None:
    with Engine(settings) as engine:
        jobs = [engine.submit(request(steps=300, seed=seed, batch_count=2)) for seed in range(2)]
        for event in engine.watch(jobs[0].id, every=0):
            if event.kind == "progress" and event.progress and event.progress.step:
                break
    assert engine.board.read(jobs[0].id) is None
    with Engine(settings) as engine:
        for job in jobs:
            ended = engine.wait(job.id, 600)
            assert ended.state == "done"
            assert len(ended.made) == 2


def test_every_picture_is_in_the_gallery_with_its_request(engine: Engine) -> None:
    source = Image.new("RGB", (32, 32), "red")
    asked = replace(request("a cat", batch_count=2), source=Source(image=source, denoising_strength=0.5))
    job = engine.wait(engine.submit(asked, owner="me").id, 60)
    pictures = engine.gallery.search(Filter(text="cat"), owner="me").pictures
    assert [(each.file, each.sha256, each.infotext) for each in reversed(pictures)] == [
        (made.file, made.sha256, made.infotext) for made in job.made
    ]
    for number, picture in enumerate(reversed(pictures)):
        assert engine.gallery.path(picture).is_file()
        assert (picture.job, picture.seed, picture.sampler) == (job.id, 1 + number, "DPM++ 2M")
        assert picture.request is not None
        again = decode(picture.request, engine.inputs.path)
        assert again.canvas.seed == 1 + number
        assert again.source.denoising_strength == 0.5
        assert isinstance(again.source.image, Path)
        assert again.source.image.parent == engine.inputs.folder
    assert engine.gallery.search(Filter(), owner="local").pictures == ()


def test_a_recovered_job_lists_its_pictures_once(settings: Settings) -> None:
    with Engine(settings) as engine:
        job = engine.wait(engine.submit(request(batch_count=2)).id, 60)
        listed = engine.gallery.search(Filter()).pictures
        path = files(engine, job)[1]
        path.unlink()
        with engine._table.engine.begin() as db:  # as if it had been killed between two pictures
            db.execute(sa.update(JOBS).values(state="running"))
        engine._runner.run(engine.job(job.id))
        assert engine.gallery.search(Filter()).pictures == listed
        assert path.is_file()
