"""What the benchmarks of time and memory share: runs in turn, the machine, the results.

A figure is a ratio to a peer that ran in the same process or beside it, in turn with ours, so that whatever
else the machine was doing fell on both. The times themselves are noted, they hold for one machine.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "diffusers", "transformers")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure: what ours took and what the peer took, pair by pair."""

    name: str
    ours: Sequence[float]  # seconds
    theirs: Sequence[float]
    target: float  # the median ratio is to be at most this
    notes: dict[str, Any]

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, pair by pair."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def met(self) -> bool:
        """Whether the median ratio is at or below the target."""
        return statistics.median(self.ratios) <= self.target

    def fields(self) -> dict[str, Any]:
        """Everything, for the results' file."""
        return {
            "name": self.name,
            "pairs": len(self.ratios),
            "ours_seconds": [round(value, 4) for value in self.ours],
            "theirs_seconds": [round(value, 4) for value in self.theirs],
            "ours_median": round(statistics.median(self.ours), 4),
            "theirs_median": round(statistics.median(self.theirs), 4),
            "ratio_min": round(min(self.ratios), 4),
            "ratio_median": round(statistics.median(self.ratios), 4),
            "ratio_max": round(max(self.ratios), 4),
            "target": self.target,
            "met": self.met,
        } | self.notes


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], runs: int, *, warm_up: int = 1
) -> tuple[list[float], list[float]]:
    """Time two functions A B A B ….

    Args:
        ours: A.
        theirs: B.
        runs: pairs that count.
        warm_up: pairs before them that do not.

    Returns:
        Seconds of each run of A and of B.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(warm_up + runs):
        for function, seconds in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            function()
            if number >= warm_up:
                seconds.append(time.perf_counter() - began)
    return times


def options(description: str | None, *, runs: int) -> argparse.ArgumentParser:
    """Give a parser with the options that all have: `--runs` and `--small`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=runs, help="pairs that count (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="tiny networks, nothing written: does it run?")
    return parser


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on; `load` is what else ran when the measurement began."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or cores or 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    fields: dict[str, str] = {}
    for line in info.read_text("utf-8").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    silicon = [name for name in ("avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()]
    model = f"family {fields.get('cpu family')} model {fields.get('model')}"
    return " ".join([fields.get("model name", platform.processor()), model, *silicon])


def show(comparison: Comparison) -> Comparison:
    """Print one line of the table."""
    ratios = comparison.ratios
    print(
        f"{comparison.name:44} {statistics.median(comparison.ours):9.3f} s "
        f"{statistics.median(comparison.theirs):9.3f} s   ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}), target {comparison.target:.2f} "
        f"{'met' if comparison.met else 'MISSED'}",
        flush=True,
    )
    return comparison


def write(name: str, began: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write `results/NAME.json`: the machine as it was when the measurement began, and a row a figure."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": began, "rows": list(rows)}, indent=2) + "\n", "utf-8")
    print(f"written: {path}")
