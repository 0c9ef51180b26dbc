"""The tab Queue: the jobs that wait, run and have ended."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
