"""The tab ControlNet: pictures that guide others."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
