"""The tab Gallery: every picture there is, found by words, values and looks.

The page's own script (`static/gallery*.js`) fills it over /api/v1/gallery; here are its place, its words, and
the hidden buttons by which it sends pictures to other tabs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from sfumato.errors import RequestError
from sfumato.ui.site import Outlet, Sent, Site, Visit
from sfumato.ui.strings import t, words_below

ROOT = '<div id="gallery_root" class="sf-g"></div>'
SENDS = ("txt2img", "img2img", "inpaint", "extras", "png_info", "compare")  # inlets
_SENT = "() => document.getElementById('gallery_root').dataset.sent"


def build(site: Site) -> None:
    """Make the tab here."""
    gr.Markdown(t("gallery.help"), elem_classes=["sf-help"])
    gr.HTML(ROOT, apply_default_css=False, padding=False)
    chosen = gr.Textbox(visible="hidden", show_label=False)

    def send(visit: Visit, ids: str) -> Sent:
        return _sent(site, visit, ids)

    for inlet in SENDS:
        button = gr.Button(t(f"gallery.send_{inlet}"), visible="hidden", elem_id=f"gallery_send_{inlet}")
        site.outlets.append(Outlet(button=button, inlet=inlet, inputs=[chosen], send=send, js=_SENT))


def _sent(site: Site, visit: Visit, ids: str) -> Sent:
    """One picture, or the second of two with the first as what was before it.

    Raises:
        RequestError: there is none.
        PictureNotFoundError: it is another owner's, or gone.
        OutputError: its file has vanished.
    """
    gallery = site.engine.gallery
    found = [gallery.get(each, visit.reader) for each in (ids or "").split(",")[:2] if each]
    if not found:
        raise RequestError(visit.say("no_picture"))
    paths: list[Path] = [gallery.path(each) for each in found]
    return Sent(image=paths[-1], infotext=found[-1].infotext, before=paths[0] if len(paths) == 2 else None)


def told(visit: Visit) -> dict[str, Any]:
    """What the script has to know: its words, and whether the visitor may import folders."""
    return {"words": words_below(visit.language, "gallery"), "imports": visit.role == "admin"}
