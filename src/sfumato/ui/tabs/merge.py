"""The tab Checkpoint Merger: a checkpoint made from two or three."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
