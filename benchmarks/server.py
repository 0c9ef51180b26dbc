"""What the server costs: beside the bare pipeline, under a crowd of watchers, and until its first job.

    python -m benchmarks.server                  # some minutes, all three; writes results/server.json
    python -m benchmarks.server --part crowd     # one of overhead, crowd, start; nothing written
    python -m benchmarks.server --small          # few steps and clients, nothing written: does it run?

overhead  One picture of the embedded model, of its own size, 20 steps: POST /sdapi/v1/txt2img to a server
          beside `pipeline.generate` in this process, in turn, the model warm in both, the same pictures.
crowd     A job of many steps with 50 clients that poll /sdapi/v1/progress twice a second and 20 that read its
          events, and without, in turn, at one server. The clients' processor is the sampling's, too: they
          run in one process at the lowest priority (benchmarks/crowd.py).
start     From the start of the process to the answer to the first POST /api/v1/jobs, the files in memory; the
          model is loaded meanwhile. The folder is one that has been served before.
"""

import base64
import http.client
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from benchmarks import timing
from sfumato.pipeline.generate import generate
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Result, Sampling

PARTS = ("overhead", "crowd", "start")
PROMPT, SEED = "a slice of pizza, 3d", 1
SERVE = (sys.executable, "-c", "from sfumato.cli_entry import main; main()", "serve", "--port", "0")
SHARE, LEAST = 0.03, 0.05  # of the picture's time, and seconds, whichever is larger: what the server may add
SLOWER = 1.05  # sampling in front of a crowd to sampling alone
SOON = 5.0  # seconds from the start to the first job
PATIENCE = 600.0  # seconds until something hangs


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    steps: int = 20  # of the one picture
    long: int = 400  # of the job that is watched
    pollers: int = 50
    streams: int = 20
    runs: int = 7


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A server, and a connection to it that stays open."""

    process: subprocess.Popen[str]
    host: str
    port: int
    line: http.client.HTTPConnection

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The body of the answer. Raises SystemExit: it is no success."""
        data = None if body is None else json.dumps(body)
        self.line.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = self.line.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:500]!r}")
        return content

    def settle(self) -> None:
        """Wait until the page is there, which is made after the start."""
        status = 0
        while status != 200:
            time.sleep(0.5)
            self.line.request("GET", "/")
            answer = self.line.getresponse()
            answer.read()
            status = answer.status


@contextmanager
def serving(
    home: Path, python: tuple[str, ...] = (), errors: int | None = None, options: tuple[str, ...] = ()
) -> Iterator[Served]:
    """Start a server with everything it keeps below `home`, and with as many threads as this process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "XDG_DATA_HOME": str(home)}
    command = [SERVE[0], *python, *SERVE[1:], "--output", str(home / "outputs"), "--device", "cpu"]
    command += ["--threads", str(torch.get_num_threads()), *options]
    process = subprocess.Popen(
        command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        host, _, port = address.removeprefix("http://").rpartition(":")
        if not port:
            raise SystemExit(f"the server ended: {address}")
        line = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        yield Served(process=process, host=host, port=int(port), line=line)
        line.close()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
        process.stdout.close()


def overhead(home: Path, size: Size) -> dict[str, Any]:
    """One picture, by the server and without it."""
    with serving(home) as server:
        server.settle()
        shelf = ModelShelf(home / "models", device="cpu")
        models = shelf.load(ModelChoice())
        side = models.spec.native_size
        request = Request(
            prompt=Prompt(text=PROMPT),
            sampling=Sampling(sampler="DPM++ 2M", schedule="Karras", steps=size.steps, guidance=7.0),
            canvas=Canvas(seed=SEED, width=side, height=side),
        )
        body = {
            "prompt": PROMPT,
            "sampler_name": "DPM++ 2M",
            "scheduler": "Karras",
            "steps": size.steps,
            "cfg_scale": 7.0,
            "seed": SEED,
            "width": side,
            "height": side,
        }
        answers: list[bytes] = []
        results: list[Image.Image] = []

        def ours() -> None:
            answers.append(server.ask("POST", "/sdapi/v1/txt2img", body))

        def theirs() -> None:
            results.extend(event.image for event in generate(request, shelf) if isinstance(event, Result))

        seconds = timing.in_turn(ours, theirs, size.runs, warm_up=2)
    for answer, image in zip(answers, results, strict=True):
        sent = Image.open(io.BytesIO(base64.b64decode(json.loads(answer)["images"][0])))
        assert sent.tobytes() == image.tobytes(), "the server's picture is another"
    added = statistics.median(a - b for a, b in zip(*seconds, strict=True))
    bare = statistics.median(seconds[1])
    allowed = max(SHARE * bare, LEAST)
    return {
        "name": f"one picture of sfumato-mini, {size.steps} steps",
        "pairs": size.runs,
        "server_seconds": [round(each, 4) for each in seconds[0]],
        "pipeline_seconds": [round(each, 4) for each in seconds[1]],
        "server_median": round(statistics.median(seconds[0]), 4),
        "pipeline_median": round(bare, 4),
        "added_ms": round(added * 1000, 1),
        "added_percent": round(added / bare * 100, 1),
        "target_ms": round(allowed * 1000, 1),
        "met": added <= allowed,
        "dtype": str(shelf.dtype).removeprefix("torch."),
        "pixels": f"{side}x{side}",
    }


@dataclass(frozen=True, kw_only=True)
class Made:
    """One job of many steps."""

    sampling: float  # seconds, as the job tells
    whole: float  # seconds from its beginning to its end
    processor: float  # seconds of the server's process
    crowd: dict[str, Any]  # what the clients tell; {} = there were none


def make(server: Served, size: Size, crowded: bool) -> Made:
    """Make the job, watched or not."""
    command = [sys.executable, "-m", "benchmarks.crowd", server.host, str(server.port)]
    command += ["--pollers", str(size.pollers), "--streams", str(size.streams)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    crowd = subprocess.Popen(command, text=True, **pipes) if crowded else None  # type: ignore[call-overload]
    if crowd is not None:
        assert crowd.stdout.readline() == "ready\n"
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    request = {"prompt": {"text": PROMPT}, "canvas": {"seed": SEED}}
    request |= {"sampling": {"sampler": "Euler", "steps": size.long}}
    job = json.loads(server.ask("POST", "/api/v1/jobs", {"request": request}))
    if crowd is not None:
        crowd.stdin.write(f"{job['id']}\n")
        crowd.stdin.flush()
    while job["state"] in ("queued", "running"):
        time.sleep(0.5)
        job = json.loads(server.ask("GET", f"/api/v1/jobs/{job['id']}"))
    processor = sum(process.cpu_times()[:2]) - before
    assert job["state"] == "done", job
    told = json.loads(crowd.communicate()[0]) if crowd is not None else {}
    return Made(
        sampling=job["timings"]["sample"],
        whole=job["finished"] - job["started"],
        processor=processor,
        crowd=told,
    )


def crowd(home: Path, size: Size) -> dict[str, Any]:
    """The job in front of a crowd and alone."""
    crowded: list[Made] = []
    alone: list[Made] = []
    with serving(home) as server:
        server.settle()
        timing.in_turn(
            lambda: crowded.append(make(server, size, True)),
            lambda: alone.append(make(server, size, False)),
            size.runs,
        )
    crowded, alone = crowded[1:], alone[1:]
    seen: dict[str, Any] = {
        key: statistics.median(each.crowd[key] for each in crowded) for key in crowded[0].crowd
    }
    rate = seen["polls"] / statistics.median(each.whole for each in crowded)
    assert not seen["wrong"], "not all answers were right"

    def steps(jobs: list[Made]) -> float:
        return round(statistics.median(each.sampling for each in jobs) / size.long * 1000, 2)

    row = timing.Comparison(
        name=f"sampling, {size.pollers} clients poll twice a second, {size.streams} read events",
        ours=[each.sampling for each in crowded],
        theirs=[each.sampling for each in alone],
        target=SLOWER,
        notes={
            "steps": size.long,
            "step_ms": steps(crowded),
            "step_alone_ms": steps(alone),
            "whole_job_ratio_median": round(
                statistics.median(a.whole / b.whole for a, b in zip(crowded, alone, strict=True)), 4
            ),
            "server_cpu_seconds": round(statistics.median(each.processor for each in crowded), 2),
            "server_cpu_seconds_alone": round(statistics.median(each.processor for each in alone), 2),
            "polls_a_second": round(rate, 1),
            **seen,
        },
    )
    return timing.show(row).fields()


def start(home: Path, size: Size) -> dict[str, Any]:
    """Start a server, again and again, and give it a job."""
    listening: list[float] = []
    accepted: list[float] = []
    for _ in range(1 + max(size.runs - 2, 1)):
        began = time.perf_counter()
        with serving(home) as server:
            listening.append(time.perf_counter() - began)
            request = {"prompt": {"text": PROMPT}, "sampling": {"steps": 1}}
            job = json.loads(server.ask("POST", "/api/v1/jobs", {"request": request}))
            accepted.append(time.perf_counter() - began)
            while job["state"] != "done":
                time.sleep(0.1)
                job = json.loads(server.ask("GET", f"/api/v1/jobs/{job['id']}"))
    accepted, listening = accepted[1:], listening[1:]
    return {
        "name": "from the start to the first accepted job",
        "runs": len(accepted),
        "seconds": [round(each, 3) for each in accepted],
        "best": round(min(accepted), 3),
        "median": round(statistics.median(accepted), 3),
        "listening_median": round(statistics.median(listening), 3),
        "imports_seconds": imports(home),
        "target": SOON,
        "met": statistics.median(accepted) <= SOON,
    }


def imports(home: Path) -> dict[str, float]:
    """Seconds that the largest packages take to import, of one start; the measuring makes them longer."""
    with tempfile.TemporaryFile("w+") as errors:
        with serving(home, ("-X", "importtime"), errors.fileno()):
            pass
        errors.seek(0)
        lines = [line.removeprefix("import time:").split("|") for line in errors if line.count("|") == 2]
    packages: Counter[str] = Counter()
    for own, _, module in lines:
        if own.strip().isdigit():
            packages[module.strip().partition(".")[0]] += int(own)
    return {name: round(own / 1e6, 3) for name, own in packages.most_common(12)}


def main() -> int:
    parser = timing.options(__doc__, runs=7)
    parser.add_argument("--part", choices=PARTS, help="only this one, and nothing written")
    chosen = parser.parse_args()
    began = timing.machine()
    size = Size(runs=chosen.runs)
    if chosen.small:
        size = Size(steps=2, long=40, pollers=5, streams=2, runs=2)
    measures: dict[str, Callable[[Path, Size], dict[str, Any]]] = dict(
        zip(PARTS, (overhead, crowd, start), strict=True)
    )
    rows = []
    for part in PARTS if chosen.part is None else (chosen.part,):
        with tempfile.TemporaryDirectory() as home:
            rows.append(measures[part](Path(home), size))
        print(json.dumps(rows[-1], indent=2), flush=True)
    if not chosen.small and chosen.part is None:
        timing.write("server", began, rows)
    return int(not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
