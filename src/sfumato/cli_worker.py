"""`sfumato worker`: a process that makes the jobs that servers have taken in."""

from __future__ import annotations

import gc
import time

import typer

from sfumato.cli_options import Options, with_queue
from sfumato.cli_serve import Grace

LOOK = 0.1  # seconds between two looks at whether to leave


@with_queue
def worker(options: Options, grace: Grace = 30.0) -> None:
    """Make jobs beside other workers, here or on other machines. SIGTERM and Ctrl-C do as for a server."""
    from sfumato.app.engine import Engine
    from sfumato.app.leaving import Leaving

    settings = options.settings()
    engine = Engine(settings, "worker")
    leaving = Leaving(engine.drain, grace)
    leaving.listen()
    try:
        engine.start()
        gc.freeze()  # what was imported stays
        typer.echo(f"{engine.worker} is ready")
        while not leaving.now or (engine.works() and leaving.left):
            time.sleep(LOOK)
    finally:
        engine.close()
