"""The tab Compare: two pictures under one slider."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
