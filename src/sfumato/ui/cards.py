"""Extra networks under the prompt: cards of adapters and checkpoints, as `static/cards.js` asks for them.

They are fetched when they are looked at, a page at a time, so that a page with thousands of files opens as
fast as one with none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from typing import Any

import gradio as gr

from sfumato.app.cards import KINDS, Kind
from sfumato.app.engine import Engine
from sfumato.errors import SfumatoError
from sfumato.ui.site import Visit
from sfumato.ui.strings import t, words_below

AT_ONCE = 60  # cards
_MAX_QUERY = 200  # characters


def panel(tab: str) -> None:
    """Make the place of the cards of a tab here."""
    with gr.Accordion(t("group.cards"), open=False, elem_id=f"{tab}_cards"):
        gr.HTML(f'<div class="sf-cards" data-tab="{escape(tab)}"></div>')


def page(engine: Engine, visit: Visit, query: Mapping[str, str]) -> dict[str, Any]:
    """Some cards, as JSON's types.

    Args:
        engine: whose models they are.
        visit: who asks.
        query: kind, query (words that stand on them), start (how many are passed over).
    """
    kind, words = _kind(query), words_below(visit.language, "cards")
    found = engine.cards.find(kind, query.get("query", "")[:_MAX_QUERY])
    given = query.get("start", "")[:9]
    start = int(given) if given.isdecimal() else 0
    cards = [asdict(each) for each in found[start : start + AT_ONCE]]
    return {"kinds": KINDS, "kind": kind, "words": words, "cards": cards, "total": len(found), "start": start}


def picture(engine: Engine, query: Mapping[str, str]) -> bytes | None:
    """The picture of a card; None = there is none that can be shown."""
    try:
        return engine.cards.picture(_kind(query), query.get("name", ""))
    except (SfumatoError, OSError):
        return None


def _kind(query: Mapping[str, str]) -> Kind:
    """The kind that is asked for; the first where it is none."""
    return next((each for each in KINDS if each == query.get("kind")), KINDS[0])
