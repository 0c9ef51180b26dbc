"""Ten thousand jobs wait: how long it takes to take one more in and to list a page, and in what memory.

    python -m benchmarks.queue                         # some minutes; writes results/queue.json
    python -m benchmarks.queue --small                 # 300 jobs, nothing written
    python -m benchmarks.queue --url postgresql://…    # another, empty database; nothing written

Nothing is made meanwhile. The targets: the 99th percentile of a submission and every page within 100 ms, and
the process with all jobs as large as it was with a tenth of them.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks import timing
from sfumato.app.engine import Engine
from sfumato.app.settings import Settings
from sfumato.types import Canvas, Prompt, Request, Sampling

JOBS, SMALL, PAGES = 10_000, 300, 50
TARGET = 100.0  # milliseconds
FLAT = 1.05  # the process with all jobs to that with a tenth


def request(number: int) -> Request:
    """The request of a number, with a prompt of usual length."""
    text = f"picture {number}, " + "a castle on a hill above the sea, evening light, oil on canvas, " * 4
    return Request(prompt=Prompt(text=text), sampling=Sampling(steps=20), canvas=Canvas(seed=number))


def milliseconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def submit(engine: Engine, first: int, last: int) -> list[float]:
    """Submit the requests of these numbers, for seven owners; milliseconds of each."""

    def one(number: int) -> Callable[[], object]:
        return lambda: engine.submit(request(number), owner=f"owner {number % 7}")

    return [milliseconds(one(number)) for number in range(first, last)]


def look(engine: Engine, jobs: int) -> tuple[list[float], list[float]]:
    """List pages from the newest to the oldest job, and look at one job as often; milliseconds of each."""
    newest, *_ = engine.jobs(limit=1)

    def page(number: int) -> Callable[[], object]:
        return lambda: engine.jobs(before=newest.number - number * jobs // PAGES)

    pages = [milliseconds(page(number)) for number in range(PAGES)]
    return pages, [milliseconds(lambda: engine.job(newest.id)) for _ in range(PAGES)]


def row(name: str, figure: float, target: float, unit: str, **notes: Any) -> dict[str, Any]:
    """A figure and whether it is as small as it is to be."""
    return {"name": name, unit: round(figure, 3), "target": target, "met": figure <= target, **notes}


def measure(settings: Settings, jobs: int) -> list[dict[str, Any]]:
    """Submit that many jobs and look at them."""
    process = psutil.Process()
    engine = Engine(settings)
    engine.start(listen=False)
    gc.freeze()  # as `sfumato serve` does
    try:
        times = submit(engine, 0, jobs // 10)
        look(engine, jobs // 10)
        few = process.memory_info().rss
        times += submit(engine, jobs // 10, jobs)
        pages, single = look(engine, jobs)
        many = process.memory_info().rss
    finally:
        engine.close()
    memory = {"bytes_at_a_tenth": few, "bytes_at_all": many, "bytes_a_job": round((many - few) / jobs / 0.9)}
    p99 = statistics.quantiles(times, n=100)[98]
    return [
        row("submission, 99th percentile", p99, TARGET, "milliseconds", median=middle(times)),
        row("page of 50, the slowest", max(pages), TARGET, "milliseconds", median=middle(pages)),
        row("one job, the slowest", max(single), TARGET, "milliseconds", median=middle(single)),
        row("the process with all jobs to that with a tenth", many / few, FLAT, "ratio", **memory),
    ]


def middle(times: list[float]) -> float:
    """The median, rounded."""
    return round(statistics.median(times), 3)


def main() -> int:
    """Measure and write the figures down."""
    parser = timing.options(__doc__, runs=1)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--url", help="of another database; unset = a file")
    chosen = parser.parse_args()
    began = timing.machine()
    jobs = SMALL if chosen.small else chosen.jobs
    with TemporaryDirectory() as folder:
        settings = Settings(
            data=Path(folder) / "data",
            outputs=Path(folder) / "outputs",
            models=Path(folder),
            database_url=chosen.url,
            queue_limit=jobs + 1000,
        )
        rows = measure(settings, jobs)
    for each in rows:
        print({**each, "jobs": jobs})
    if not chosen.small and chosen.url is None:
        timing.write("queue", began, [{**each, "jobs": jobs} for each in rows])
    return int(not all(each["met"] for each in rows))


if __name__ == "__main__":
    sys.exit(main())
