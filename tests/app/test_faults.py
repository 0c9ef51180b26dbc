"""What goes wrong around a job ends that job in words, or nothing at all; what comes after it is made."""

import errno
import hashlib
import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from sfumato.app import alone, maker, runner, storage
from sfumato.app import database as database_module
from sfumato.app.engine import Engine
from sfumato.app.gallery_table import Filter
from sfumato.app.jobs import Job, Script
from sfumato.app.settings import Settings
from sfumato.errors import OutOfMemoryError, RequestError, StorageError
from sfumato.types import Canvas, Prompt, Request, Sampling


def request(steps: int = 2, **canvas: int) -> Request:
    return Request(
        prompt=Prompt(text="a cat"),
        sampling=Sampling(steps=steps),
        canvas=Canvas(**({"seed": 1, "width": 32, "height": 32} | canvas)),
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with Engine(settings) as engine:
        yield engine


def failing(engine: Engine, code: str) -> Job:
    job = engine.wait(engine.submit(request()).id, 60)
    assert job.state == "failed"
    assert job.fault is not None
    assert job.fault.code == code
    assert "\n" not in job.fault.message
    return job


def begun(engine: Engine, job: Job) -> None:
    for event in engine.watch(job.id, every=0):
        if event.progress is not None and event.progress.step:
            return


def fine(engine: Engine) -> None:
    assert engine.wait(engine.submit(request()).id, 60).state == "done"


def test_a_full_disk_fails_the_job_and_the_next_is_made_when_there_is_room(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("os.fsync", full)
        job = failing(engine, "no_space")
        assert not job.made
        assert not [path for path in engine.settings.outputs.rglob("*") if path.is_file()]
    fine(engine)


def test_outputs_that_cannot_be_written_fail_the_job(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.settings.outputs.write_text("a file in the way")
    failing(engine, "output")
    engine.settings.outputs.unlink()
    fine(engine)


def test_an_end_is_written_down_when_a_full_database_has_room_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "RETRY", 0.01)
    end, refused = engine._table.end, []

    def stubborn(*args: Any, **given: Any) -> bool:
        if len(refused) < 3:
            refused.append(1)
            raise StorageError("database or disk is full")
        return end(*args, **given)

    monkeypatch.setattr(engine._table, "end", stubborn)
    fine(engine)
    assert len(refused) == 3


def test_memory_that_runs_out_is_told_with_numbers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OutOfMemoryError("sampling needs about 9.0 GiB, 2.0 GiB are free"), MemoryError("9 GiB")):
        with monkeypatch.context() as patch:

            def none(*_: object, error: BaseException = error, **__: object) -> None:
                raise error

            patch.setattr(runner, "generate", none)
            assert "9" in failing(engine, "out_of_memory").fault.message  # type: ignore[union-attr]
    fine(engine)


def test_a_model_that_vanishes_fails_the_job(settings: Settings, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "tiny.safetensors").write_bytes((settings.models / "tiny.safetensors").read_bytes())
    with Engine(settings.model_copy(update={"models": models})) as engine:
        fine(engine)
        (models / "tiny.safetensors").rename(tmp_path / "away")
        engine.shelf.clear()
        failing(engine, "model_not_found")
        (tmp_path / "away").rename(models / "tiny.safetensors")
        fine(engine)


def test_a_sampler_that_hangs_costs_its_job_only(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(settings.model_copy(update={"step_limit": 0.2})) as engine:
        release = threading.Event()
        with monkeypatch.context() as patch:

            def hang(*_: object, **__: object) -> Iterator[None]:
                release.wait(60)
                return iter(())

            patch.setattr(runner, "generate", hang)
            failing(engine, "timeout")
    with Engine(settings) as engine:
        fine(engine)
        release.set()


def test_a_job_whose_own_process_dies_is_given_up_and_the_server_lives(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "PAUSE", 0.01)
    settings = settings.model_copy(update={"attempts": 1})
    with Engine(settings) as engine:
        job = engine.submit(request(steps=900))
        begun(engine, job)
    with Engine(settings) as engine:
        begun(engine, job)  # its steps and previews come from there
        (process,) = multiprocessing.active_children()
        process.kill()
        ended = engine.wait(job.id, 60)
        assert ended.fault is not None
        assert ended.fault.code == "crashed"
        assert "SIGKILL" in ended.fault.message
        fine(engine)


def test_ends_of_the_process_are_no_reason_to_give_a_job_up(settings: Settings) -> None:
    settings = settings.model_copy(update={"attempts": 1})
    for _ in range(3):  # from the second on in a process of its own
        with Engine(settings) as engine:
            job = engine.submit(request(steps=900, batch_count=3), key="long")
            begun(engine, job)
    with Engine(settings) as engine:
        begun(engine, job)
        engine.skip(job.id)
        begun(engine, job)
        engine.cancel(job.id)
        assert engine.wait(job.id, 60).state == "cancelled"
        fine(engine)
    assert not multiprocessing.active_children()


def test_a_job_made_in_a_process_of_its_own_gives_the_same_file(settings: Settings) -> None:
    with Engine(settings) as engine:
        usual = engine.wait(engine.submit(request()).id, 60)
        engine._maker.attempts = 0
        alone = engine.wait(engine.submit(request()).id, 60)
    assert alone.state == "done"
    assert [made.sha256 for made in alone.made] == [made.sha256 for made in usual.made]


def test_a_clock_that_jumps_changes_neither_order_nor_names(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([2e9, 0.0, 5e9, 1.0] * 100)
    monkeypatch.setattr(database_module.time, "time", lambda: next(times))
    jobs = [engine.submit(request(seed=seed)) for seed in range(4)]
    ended = [engine.wait(job.id, 60) for job in jobs]
    assert [job.number for job in ended] == sorted(job.number for job in ended)
    assert len({job.made[0].file for job in ended}) == 4
    assert [job.id for job in engine.jobs()] == [job.id for job in reversed(jobs)]


@pytest.mark.parametrize("damage", ["empty", "page", "gone", "locked", "newer", "text"])
def test_a_database_that_cannot_be_used_is_refused_with_the_remedy_and_left_as_it_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    with Engine(settings) as engine:
        fine(engine)
    path = settings.data / "jobs.sqlite"
    said = {"empty": "is empty", "gone": "is gone", "locked": "locked", "newer": "newer"}.get(
        damage, "damaged|not a|malformed"
    )
    lock = None
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "page":
        data = bytearray(path.read_bytes())
        for page in range(4096, len(data), 4096):
            data[page : page + 2048] = b"\xee" * 2048
        path.write_bytes(bytes(data))
    elif damage == "gone":
        path.rename(path.with_name("jobs.sqlite-wal"))
    elif damage == "text":
        path.write_text("not a database" * 1000)
    elif damage == "newer":
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("update sfumato_schema set version = version + 1")
    elif damage == "locked":
        monkeypatch.setattr(storage, "BUSY", 50)
        lock = sqlite3.connect(path)
        lock.execute("pragma locking_mode=exclusive")
        lock.execute("begin exclusive")
    before = path.read_bytes() if path.exists() else None
    try:
        with pytest.raises(StorageError, match=said) as refused:
            Engine(settings)
        assert "\n" not in str(refused.value)
        assert (path.read_bytes() if path.exists() else None) == before
    finally:
        if lock is not None:
            lock.close()


def test_a_database_server_that_is_away_is_told_without_its_password(settings: Settings) -> None:
    url = "postgresql://someone:secret@127.0.0.1:1/none"
    with pytest.raises(StorageError, match="can be reached") as refused:
        Engine(settings.model_copy(update={"database_url": url}))
    assert "secret" not in str(refused.value)
    with pytest.raises(StorageError, match=r"postgresql://…"):
        Engine(settings.model_copy(update={"database_url": "oracle://x"}))
    with Engine(settings) as engine:  # the refused ones let go of the folder
        fine(engine)


def test_a_hundred_jobs_of_one_owner_do_not_starve_two_of_another(engine: Engine) -> None:
    begun(engine, engine.submit(request(steps=900), owner="many"))
    many = [engine.submit(request(), owner="many") for _ in range(100)]
    few = [engine.submit(request(), owner="few") for _ in range(2)]
    assert [engine.job(job.id).position for job in few] == [1, 3]
    engine.cancel_all("many")
    assert {engine.job(job.id).state for job in many} == {"cancelled"}
    assert {engine.wait(job.id, 60).state for job in few} == {"done"}
    late = engine.submit(request(), owner="third")  # turns that nobody took do not count
    with engine._table.engine.connect() as db:
        turns = dict(db.execute(sa.select(database_module.JOBS.c.id, database_module.JOBS.c.turn)).all())
    assert turns[late.id] <= 5


@pytest.mark.parametrize("own", [False, True])
def test_interrupt_keeps_what_is_half_made_and_ends_the_job(engine: Engine, own: bool) -> None:
    engine._maker.attempts = 0 if own else 1  # in a process of its own, it is told there
    job = engine.submit(request(steps=900, batch_size=2, batch_count=3))
    begun(engine, job)
    engine.interrupt(job.id)
    ended = engine.wait(job.id, 60)
    assert (ended.state, ended.interrupted, ended.fault) == ("done", True, None)
    assert [made.index for made in ended.made] == [0, 1]
    for made in ended.made:
        path = engine.settings.outputs / made.file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == made.sha256
        assert "Interrupted: " in made.infotext
    assert engine.gallery.search(Filter()).pictures[0].job == job.id
    assert engine._table.past() == []  # says nothing of how long jobs take


def test_interrupt_ends_a_script_with_its_present_picture(engine: Engine) -> None:
    script = Script(name="prompt matrix", arguments={})
    asked = replace(request(steps=900), prompt=Prompt(text="a|b|c"))
    job = engine.submit(asked, script=script)
    begun(engine, job)
    engine.interrupt(job.id)
    ended = engine.wait(job.id, 60)
    assert (ended.state, ended.interrupted) == ("done", True)
    assert [made.index for made in ended.made] == [0]


def test_a_word_to_a_running_job_outlives_the_process(settings: Settings) -> None:
    with Engine(settings) as engine:
        job = engine.submit(request(steps=900))
        begun(engine, job)
        engine._table.wish(job.id, "interrupt")
        engine._table.wish(job.id, "skip")  # the weaker word does not count
    with Engine(settings) as engine:
        ended = engine.wait(job.id, 60)
    assert (ended.state, ended.interrupted, len(ended.made)) == ("done", True, 1)


def test_a_waiting_job_that_is_interrupted_is_cancelled(engine: Engine) -> None:
    first, second = engine.submit(request(steps=900)), engine.submit(request())
    begun(engine, first)
    assert engine.interrupt(second.id).state == "cancelled"
    engine.interrupt(first.id)
    engine.cancel(first.id)
    ended = engine.wait(first.id, 60)
    assert engine.interrupt(first.id) == ended  # without effect


def test_skip_ends_the_batch_and_goes_on_with_the_next(engine: Engine) -> None:
    job = engine.submit(request(steps=300, batch_count=3))
    begun(engine, job)
    engine.skip(job.id)
    ended = engine.wait(job.id, 60)
    assert ended.state == "done"
    assert [made.index for made in ended.made] == [1, 2]


def test_a_known_key_is_answered_by_a_full_queue_and_a_strange_one_refused(settings: Settings) -> None:
    with Engine(settings.model_copy(update={"queue_limit": 1})) as engine:
        begun(engine, engine.submit(request(steps=900)))
        first = engine.submit(request(), key="k")
        assert engine.submit(request(), key="k").id == first.id
        for key in ("", "x" * 201, "a\0b"):
            with pytest.raises(RequestError, match="key"):
                engine.submit(request(), key=key)


def test_threads_that_submit_one_key_at_once_get_one_job(engine: Engine) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(engine.submit(request(seed=-1), key="k").id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_a_page_costs_the_same_few_queries_however_many_jobs_wait(settings: Settings) -> None:
    engine = Engine(settings)
    engine.start(listen=False)
    try:
        asked: list[str] = []
        sa.event.listen(
            engine._table.engine, "before_cursor_execute", lambda *given: asked.append(str(given[2]))
        )
        counts = []
        for _ in range(2):
            for seed in range(30):
                engine.submit(request(seed=seed))
            asked.clear()
            page = engine.jobs(limit=20)
            counts.append(len(asked))
            assert [job.position for job in page] == sorted((job.position for job in page), reverse=True)  # type: ignore[type-var]
        assert counts[0] == counts[1] <= 4
    finally:
        engine.close()
