"""`sfumato serve`: the engine, and the server in front of it."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli_options import Options, with_server

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from sfumato.app.engine import Engine
    from sfumato.server.interface import Make

Host = Annotated[str, typer.Option(help="Address to listen at.")]
Port = Annotated[int, typer.Option(help="Port to listen at; 0 = any that is free.", min=0, max=65535)]
Grace = Annotated[float, typer.Option(help="Seconds that a running job has when the server stops.", min=0)]
JsonLogs = Annotated[
    bool, typer.Option("--json-logs", help="Tell of every request on standard error, as JSON.")
]
Work = Annotated[
    bool,
    typer.Option(
        "--work/--no-work", help="Make pictures here, or leave that to workers.", show_default=False
    ),
]
Page = Annotated[
    bool, typer.Option("--page/--nowebui", help="Show the page in browsers, or serve the API alone.")
]


@with_server
def serve(
    options: Options,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    grace: Grace = 30.0,
    json_logs: JsonLogs = False,
    work: Work = True,
    page: Page = True,
) -> None:
    """Serve the page and the API. SIGTERM or Ctrl-C ends it after the running job, a second at once."""
    import uvicorn

    from sfumato.app.engine import Engine
    from sfumato.app.leaving import Leaving
    from sfumato.server.app import create_app
    from sfumato.server.gate import add_guard
    from sfumato.server.interface import Interface
    from sfumato.server.logs import log_json
    from sfumato.server.punctual import Punctual
    from sfumato.server.serving import Server

    settings = options.settings()
    engine = Engine(settings, "both" if work else "server")
    if json_logs:
        log_json()
    leaving = Leaving(engine.drain, grace)
    leaving.listen()
    try:
        engine.start()
        app = create_app(engine, leaving)
        interface = Interface(app, _page_of(engine)) if page else None
        token = add_guard(app, settings, host)
        if token is not None:
            typer.echo(f"The token for every client, shown this once: {token}")
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=int(grace) + 5,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            http=Punctual,
            server_header=False,
            ws_max_size=2**16,
        )
        if work:
            threading.Thread(target=_warm, args=(engine,), daemon=True, name="warm").start()
        gc.freeze()  # what was imported stays: to look for garbage in it would halt everything for a moment
        Server(config, leaving, typer.echo, engine.works, interface).run()
    finally:
        engine.close()


def _page_of(engine: Engine) -> Make:
    """Make the page, with what Gradio reads from the environment before it is imported."""

    def make(outer: FastAPI, otherwise: ASGIApp) -> ASGIApp:
        uploads = engine.settings.data.absolute() / "uploads"
        os.environ |= {
            "GRADIO_TEMP_DIR": str(uploads),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        from sfumato.ui.mount import open_page

        page = open_page(engine, outer, otherwise, uploads)
        gc.freeze()
        return page

    return make


def _warm(engine: Engine) -> None:
    """Load what requests that name no checkpoint need; what is wrong with it, the first of them will say."""
    from contextlib import suppress

    from sfumato.errors import SfumatoError
    from sfumato.types import ModelChoice

    with suppress(SfumatoError):
        engine.shelf.load(ModelChoice())
