"""Readers of a job: each at its own pace, none of them held up by another, nothing kept for the slow."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from sfumato.app.board import Board
from sfumato.app.engine import Engine
from sfumato.app.jobs import Event, Job, Made, Progress
from sfumato.server.desk import Leaving
from sfumato.server.feeds import SHARE, Feed, Feeds
from sfumato.types import Request

JOB = Job(id="a", number=1, owner="o", kind="txt2img", request=Request())


def made(index: int) -> Made:
    return Made(index=index, file=f"{index}.png", sha256="", width=8, height=8, seed=0, infotext="")


def test_a_slow_reader_sees_the_newest_progress_and_every_picture() -> None:
    async def read() -> list[tuple[str, object]]:
        feed = Feed(JOB)
        seen: list[tuple[str, object]] = []
        running = replace(JOB, state="running")
        async for event in feed.read():
            assert event is not None
            seen.append(
                (event.kind, event.made.index if event.made else event.progress and event.progress.step)
            )
            if len(seen) == 1:  # while it is away, everything happens
                for step in range(1, 1000):
                    progress = Progress(job="a", step=step, version=step)
                    feed.put(Event(kind="progress", job=running, progress=progress))
                running = replace(running, made=(made(-1), made(0), made(1)))
                feed.put(Event(kind="picture", job=running, made=made(1)))
            elif event.progress is not None:
                feed.put(Event(kind="state", job=replace(running, state="done")))
                feed.put(None)
        assert feed.readers == 0
        return seen

    assert asyncio.run(read()) == [
        ("state", None),
        ("state", None),
        ("picture", -1),
        ("picture", 0),
        ("picture", 1),
        ("progress", 999),
        ("state", None),
    ]


def test_who_comes_late_is_told_how_it_ended() -> None:
    async def read() -> list[str]:
        feed = Feed(replace(JOB, state="done", made=(made(0),)))
        return [event.kind async for event in feed.read() if event is not None]

    assert asyncio.run(read()) == ["picture", "state"]


def test_a_thousand_readers_see_the_same() -> None:
    async def read() -> int:
        feed = Feed(JOB)

        async def one() -> list[str]:
            return [event.kind async for event in feed.read() if event is not None]

        readers = [asyncio.create_task(one()) for _ in range(1000)]
        await asyncio.sleep(0)
        feed.put(Event(kind="state", job=replace(JOB, state="cancelled")))
        feed.put(None)
        return len({tuple(await each) for each in readers})

    assert asyncio.run(read()) == 1


def test_many_readers_are_told_less_often_and_an_end_at_once() -> None:
    rests: list[float] = []

    class Told(Board):
        def wait_for(self, job: str, version: int, timeout: float) -> None:
            assert (job, version) == ("a", self.touched("a"))  # a change from now on ends the rest
            rests.append(timeout)

    class Watched:
        board = Told()

        def watch(self, job_id: str, **_: object) -> Iterator[Event]:
            yield from (Event(kind="state", job=replace(JOB, state=state)) for state in ("running", "done"))

    Watched.board.touch("a")
    feeds, feed = Feeds(cast(Engine, Watched()), Leaving()), Feed(JOB)
    for readers in (1, 50):
        feed._readers = {asyncio.Event(): asyncio.new_event_loop() for _ in range(readers)}
        feeds._follow(feed)
        for loop in feed._readers.values():
            loop.close()
    assert rests == [SHARE, SHARE, 50 * SHARE, 50 * SHARE]
