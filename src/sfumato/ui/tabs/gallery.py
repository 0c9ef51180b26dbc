"""The tab Gallery: every picture there is, found by words, values and looks."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
