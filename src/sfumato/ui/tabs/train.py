"""The tab Train: adapters and embeddings from one's own pictures."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
