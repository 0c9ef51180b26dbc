"""`sfumato serve` as a process: it says where it is, answers at once, and leaves in order."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

TIMEOUT = 300  # seconds after which something hangs


@contextmanager
def serving(folder: Path, checkpoint: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", "from sfumato.cli import main; main()", "serve", "--port", "0"]
    command += ["--data", str(folder / "data"), "--output", str(folder / "outputs"), *options]
    command += ["--models", str(checkpoint.parent), "--checkpoint", "tiny", "--dtype", "float32"]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    environment["SFUMATO_RATE_LIMIT"] = "1e9"  # the tests ask again and again
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def asked(address: str, jobs: int = 1, **body: Any) -> tuple[Thread, list[requests.Response]]:
    """Ask for a picture and go on when one is being made and `jobs` are there in all."""
    answers: list[requests.Response] = []

    def ask() -> None:
        answers.append(
            requests.post(
                f"{address}/sdapi/v1/txt2img", json={"width": 64, "height": 64, **body}, timeout=TIMEOUT
            )
        )

    thread = Thread(target=ask)
    thread.start()
    state = {"sampling_step": 0, "job_count": 0}
    while state["sampling_step"] < 1 or state["job_count"] < jobs:
        assert thread.is_alive(), answers
        state = requests.get(f"{address}/sdapi/v1/progress", timeout=TIMEOUT).json()["state"]
    return thread, answers


@pytest.mark.slow
def test_a_signal_lets_what_runs_be_finished_and_keeps_what_waits(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    with serving(tmp_path, tiny_checkpoint, "--grace", "3600") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        running, answers = asked(address, steps=200)
        waiting, refused = asked(address, jobs=2, steps=1)
        process.send_signal(signal.SIGTERM)
        running.join(TIMEOUT)
        waiting.join(TIMEOUT)
        assert process.wait(TIMEOUT) == 0
        assert [answer.status_code for answer in answers] == [200]
        assert [answer.status_code for answer in refused] == [503]
        assert {"error", "detail", "body", "errors", "code", "request_id"} <= set(refused[0].json())
        assert process.stderr is not None
        assert process.stderr.read() == ""
    with serving(tmp_path, tiny_checkpoint) as (process, address):  # what waited is made now
        while requests.get(f"{address}/internal/pending-tasks", timeout=TIMEOUT).json()["size"]:
            assert process.poll() is None
        assert len(list((tmp_path / "outputs").rglob("*.png"))) == 2


@pytest.mark.slow
def test_what_runs_is_watched_and_stopped_while_the_server_waits_for_it(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    body = {"fields": {"steps": 1000, "n_iter": 1000, "width": 64, "height": 64}}
    with serving(tmp_path, tiny_checkpoint, "--grace", "3600") as (process, address):
        jobs = f"{address}/api/v1/jobs"
        here = f"{jobs}/{requests.post(jobs, json=body, timeout=TIMEOUT).json()['id']}"
        while requests.get(here, timeout=TIMEOUT).json()["state"] != "running":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        while (refused := requests.post(jobs, json=body, timeout=TIMEOUT)).status_code == 202:
            assert process.poll() is None
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert requests.get(here, timeout=TIMEOUT).json()["state"] == "running"
        requests.post(f"{here}/cancel", timeout=TIMEOUT)
        while requests.get(here, timeout=TIMEOUT).json()["state"] != "cancelled":
            assert process.poll() is None
        assert process.wait(TIMEOUT) == 0


@pytest.mark.slow
def test_a_second_signal_hastens_whether_somebody_waits_or_not(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with serving(tmp_path, tiny_checkpoint, "--grace", "3600") as (process, address):
        thread, answers = asked(address, steps=1000, n_iter=1000)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        thread.join(TIMEOUT)
        assert [answer.status_code for answer in answers] == [503]
        assert answers[0].headers["Retry-After"]
    with serving(tmp_path, tiny_checkpoint, "--grace", "3600") as (process, address):  # it is begun again
        state = f"{address}/sdapi/v1/progress"
        while requests.get(state, timeout=TIMEOUT).json()["state"]["sampling_step"] < 1:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        while requests.get(f"{address}/readyz", timeout=TIMEOUT).status_code != 503:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
