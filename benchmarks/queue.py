"""Ten thousand jobs wait: how long it takes to take one more in, and to list a page of them.

    python -m benchmarks.queue

Nothing is made meanwhile. The targets: the 99th percentile of a submission and every page within 100 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from sfumato.app.engine import Engine
from sfumato.app.settings import Settings
from sfumato.types import Canvas, Prompt, Request, Sampling

RESULT = Path(__file__).parent / "results" / "queue.json"
PAGES = 50
TARGET = 0.1  # seconds


def request(number: int) -> Request:
    """The request of a number, with a prompt of usual length."""
    text = f"picture {number}, " + "a castle on a hill above the sea, evening light, oil on canvas, " * 4
    return Request(prompt=Prompt(text=text), sampling=Sampling(steps=20), canvas=Canvas(seed=number))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(settings: Settings, jobs: int) -> dict[str, float]:
    """Submit that many jobs and list pages of them; seconds, and bytes of memory a job."""
    engine = Engine(settings)
    engine.start(listen=False)
    try:
        process = psutil.Process()
        seconds(lambda: engine.submit(request(-1 % 2**32), owner="first"))
        before = process.memory_info().rss
        submits = [
            seconds(lambda number=number: engine.submit(request(number), owner=f"owner {number % 7}"))  # type: ignore[misc]
            for number in range(jobs)
        ]
        grown = process.memory_info().rss - before
        first, *_ = engine.jobs(limit=1)
        pages = [
            seconds(lambda page=page: engine.jobs(before=first.number - page * jobs // PAGES))  # type: ignore[misc]
            for page in range(PAGES)
        ]
        looks = [seconds(lambda: engine.job(first.id)) for _ in range(PAGES)]
    finally:
        engine.close()
    return {
        "jobs": jobs,
        "submit_median": statistics.median(submits),
        "submit_p99": statistics.quantiles(submits, n=100)[98],
        "page_largest": max(pages),
        "job_largest": max(looks),
        "memory_bytes_a_job": grown / jobs,
        "target": TARGET,
    }


def main() -> None:
    """Measure and write the figures down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--database-url")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        settings = Settings(
            data=Path(folder) / "data",
            outputs=Path(folder) / "outputs",
            models=Path(folder),
            database_url=options.database_url,
            queue_limit=options.jobs + 1000,
        )
        figures = measure(settings, options.jobs)
    print(figures)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
