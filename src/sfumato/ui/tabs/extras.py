"""The tab Extras: pictures enlarged, faces restored, one or many at once."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
