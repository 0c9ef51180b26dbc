"""The page of an engine with the tiny checkpoint, and a browser where there is one."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from sfumato.app.first_start import MARK

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def serving(
    folder: Path,
    *options: str,
    page: Any = None,
    processes: list[Any] | None = None,
    first: bool = False,
) -> Iterator[str]:
    """A server as a process, with the page made; its address. It is killed at the end.

    A `page` of it is closed before, so that nothing it still loads is missing. Where it is not to be the
    `first` start, nobody is asked which models to use.
    """
    (folder / "data").mkdir(exist_ok=True)
    if not first:
        (folder / "data" / MARK).touch()
    command = [sys.executable, "-c", "from sfumato.cli import main; main()", "serve"]
    command += () if "--port" in options else ("--port", "0")
    command += ["--data", str(folder / "data"), "--output", str(folder / "outputs")]
    command += ["--models", str(folder / "models"), *options]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        if processes is not None:
            processes.append(process)
        try:
            assert process.stdout is not None
            address = next(line.strip() for line in process.stdout if line.startswith("http"))
            while requests.get(address, timeout=300).status_code == 503:
                assert process.poll() is None
            yield address
        finally:
            if page is not None:
                page.close()
            process.kill()
            process.communicate()


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for tests that leave nothing behind; its address."""
    with serving(tmp_path_factory.mktemp("served")) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test where a script does, or where it asks another host for something."""
    context = browser.new_context(locale="en-US", viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(120_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if _foreign(request.url) else None)
    yield page
    context.close()
    assert wrong == []


def _foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))
