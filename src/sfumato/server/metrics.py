"""What the server counts, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from sfumato.app.jobs import STATES, State

BOUNDS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)  # seconds
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS")


class Metrics:
    """Counts requests. Safe to use from several threads; what a client sends makes no new rows."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def request(self, method: str, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        with self._lock:
            self._requests[method if method in METHODS else "other", status] += 1
            self._buckets[bisect_left(BOUNDS, seconds)] += 1
            self._seconds += seconds

    def text(self, jobs: Mapping[State, int], phases: Mapping[str, tuple[int, float]], open_: int) -> str:
        """Everything, as text.

        Args:
            jobs: how many there are, by state.
            phases: of the jobs made by this process: how often, and seconds in all.
            open_: requests under way.
        """
        with self._lock:
            requests, buckets, seconds = dict(self._requests), list(self._buckets), self._seconds
        counted = [
            ({"method": method, "status": str(status)}, float(count))
            for (method, status), count in sorted(requests.items())
        ]
        upto, ladder = 0, []
        for bound, count in zip((*BOUNDS, "+Inf"), buckets, strict=True):
            upto += count
            ladder.append(({"le": str(bound)}, float(upto)))
        name = "sfumato_request_seconds"
        lines = [
            *_family("sfumato_requests_total", "counter", "Requests answered.", counted),
            *_family("sfumato_requests_open", "gauge", "Requests under way.", [({}, open_)]),
            *_family(
                "sfumato_jobs", "gauge", "Jobs by state.", [({"state": s}, jobs.get(s, 0)) for s in STATES]
            ),
            *_family(
                "sfumato_job_phase_seconds",
                "summary",
                "Seconds of this process's jobs by phase.",
                [({"phase": phase}, total) for phase, (_, total) in sorted(phases.items())],
                "_sum",
            ),
            *(
                _row("sfumato_job_phase_seconds_count", {"phase": p}, n)
                for p, (n, _) in sorted(phases.items())
            ),
            *_family(name, "histogram", "Seconds until a request was answered.", ladder, "_bucket"),
            _row(f"{name}_sum", {}, seconds),
            _row(f"{name}_count", {}, upto),
        ]
        return "\n".join(lines) + "\n"


def _family(
    name: str, kind: str, help_: str, rows: Iterable[tuple[Mapping[str, str], float]], suffix: str = ""
) -> list[str]:
    head = [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
    return head + [_row(name + suffix, labels, value) for labels, value in rows]


def _row(name: str, labels: Mapping[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value:g}" if inner else f"{name} {value:g}"
