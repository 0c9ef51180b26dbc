"""Gradio behind our doors, as one application for the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr

from sfumato.app.engine import Engine
from sfumato.ui.doors import App, Doors
from sfumato.ui.page import build
from sfumato.ui.strings import translations

UPLOADS_KEPT = 86400  # seconds that an upload is kept


def open_page(engine: Engine, outer: Any, otherwise: App, uploads: Path) -> Doors:
    """Build the page and put it into an application.

    Args:
        engine: that makes the jobs.
        outer: a bare FastAPI application, whose lifespan becomes Gradio's.
        otherwise: answers what is not the page's.
        uploads: the folder of what visitors send; the environment's GRADIO_TEMP_DIR names it, too.
    """
    uploads.mkdir(parents=True, exist_ok=True)
    asyncio.run(_mount(engine, outer))  # where none runs, Gradio makes event loops and leaves them open
    return Doors(outer, engine, uploads, otherwise)


async def _mount(engine: Engine, outer: Any) -> None:
    settings = engine.settings
    blocks = build(engine)
    blocks.delete_cache = (3600, UPLOADS_KEPT)
    gr.mount_gradio_app(
        outer,
        blocks,
        path="/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        allowed_paths=[],
        blocked_paths=[str(each.resolve()) for each in (settings.outputs, settings.models) if each.exists()],
        show_error=False,
        max_file_size=settings.max_body,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        i18n=translations(),
        theme=theme(),
    )


def theme() -> Any:
    """Calm, and with the machine's own fonts: nothing is loaded from elsewhere."""
    return gr.themes.Base(
        primary_hue="amber",
        secondary_hue="stone",
        neutral_hue="stone",
        spacing_size="sm",
        radius_size="md",
        text_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Consolas", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="0px",
        block_label_text_weight="500",
        block_title_text_weight="500",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
    )
