"""The guard put before an application."""

from __future__ import annotations

from fastapi import FastAPI

from sfumato.app.settings import Settings
from sfumato.server.accounts import Accounts
from sfumato.server.guard import Guard
from sfumato.server.metrics import Metrics
from sfumato.server.policy import Policy, is_loopback


def add_guard(app: FastAPI, settings: Settings, bind: str) -> str | None:
    """Let nobody reach `app` but through the guard. It has to be the last layer that is added.

    Who is at this machine needs no token, as long as only this machine can ask: where the server is bound to
    another address, shown by a proxy, or has users, everybody does.

    Args:
        app: the application.
        settings: of the server.
        bind: address that it will listen at.

    Returns:
        The token, where it was made just now: to be shown once.

    Raises:
        RequestError: a setting that makes no sense; see `Policy.of`.
    """
    accounts = Accounts(settings)
    open_ = not (settings.login or accounts.any or settings.hosts or settings.subpath or settings.tls_cert)
    policy = Policy.of(settings, bind, login=not (open_ and is_loopback(bind)))
    token = accounts.first_token() if policy.login else None
    app.add_middleware(Guard, policy=policy, accounts=accounts, metrics=Metrics())
    return token
