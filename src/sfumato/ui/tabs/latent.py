"""The tab Latent space: walks between prompts or pictures, and a map of those there are."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
