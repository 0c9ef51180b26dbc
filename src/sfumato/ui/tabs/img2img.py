"""The tab img2img: a picture changed by words, painted over, or continued beyond its edges."""

from __future__ import annotations

from sfumato.ui.site import Builder

build: Builder | None = None
