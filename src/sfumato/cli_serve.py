"""`sfumato serve`: the engine, and the server in front of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli_options import Options, with_server

if TYPE_CHECKING:
    from sfumato.app.engine import Engine

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


@with_server
def serve(
    options: Options,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    grace: Grace = 30.0,
    json_logs: JsonLogs = False,
    work: Work = True,
) -> None:
    """Serve AUTOMATIC1111's API. SIGTERM or Ctrl-C ends it when the running job is done, a second at once."""
    import uvicorn

    from sfumato.app.engine import Engine
    from sfumato.server.app import create_app
    from sfumato.server.desk import Leaving
    from sfumato.server.gate import add_guard
    from sfumato.server.logs import log_json
    from sfumato.server.serving import Server

    settings = options.settings()
    engine = Engine(settings, "both" if work else "server")
    if json_logs:
        log_json()
    leaving = Leaving(engine.drain)
    try:
        engine.start()
        app = create_app(engine, leaving)
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
            server_header=False,
            ws_max_size=2**16,
        )
        if work:
            threading.Thread(target=_warm, args=(engine,), daemon=True, name="warm").start()
        Server(config, leaving, grace, say=typer.echo).run()
    finally:
        engine.close(leaving.left if leaving.now else 0.0)


def _warm(engine: Engine) -> None:
    """Load what requests that name no checkpoint need; what is wrong with it, the first of them will say."""
    from contextlib import suppress

    from sfumato.errors import SfumatoError
    from sfumato.types import ModelChoice

    with suppress(SfumatoError):
        engine.shelf.load(ModelChoice())
