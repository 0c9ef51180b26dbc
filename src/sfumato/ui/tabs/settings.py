"""The tab Settings: what is set once, presets, who may use the server."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
