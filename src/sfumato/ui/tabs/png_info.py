"""The tab PNG Info: what a picture was made from, and where to send it."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
