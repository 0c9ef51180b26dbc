"""`sfumato worker`: a process that makes the jobs that servers have taken in."""

from __future__ import annotations

import gc
import signal
import threading
import time
from types import FrameType

import typer

from sfumato.cli_options import Options, with_queue
from sfumato.cli_serve import Grace


@with_queue
def worker(options: Options, grace: Grace = 30.0) -> None:
    """Make jobs beside other workers, here or on other machines. SIGTERM and Ctrl-C do as for a server."""
    from sfumato.app.engine import Engine

    settings = options.settings()
    leaving, hurry = threading.Event(), threading.Event()

    def told(_signal: int, _frame: FrameType | None) -> None:
        (hurry if leaving.is_set() else leaving).set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, told)
    engine = Engine(settings, "worker")
    try:
        engine.start()
        gc.freeze()  # what was imported stays
        typer.echo(f"{engine.worker} is ready")
        while not leaving.wait(1.0):
            pass
        engine.drain()
        until = time.monotonic() + grace
        while engine.works() and time.monotonic() < until and not hurry.wait(0.2):
            pass
    finally:
        engine.close()
