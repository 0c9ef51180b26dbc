"""The tab txt2img: pictures from words."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sfumato.errors import RequestError
from sfumato.ui.form import Form
from sfumato.ui.making import Making
from sfumato.ui.results import SENDS, Results
from sfumato.ui.site import Inlet, Sent, Site, Visit
from sfumato.ui.strings import t

TAB = "txt2img"


def build(site: Site) -> None:
    """Make the tab here."""
    form = Form(site, TAB)
    making = Making(site, form)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes=["sf-form"]):
            making.sampling()
            _hires(form)
            making.size()
            making.seed()
            making.more()
            making.script()
        with gr.Column(scale=6, min_width=320):
            results = Results(site, TAB, (*SENDS, "compare"))
    making.bind(results, lambda visit, request, values: request)

    def fill(visit: Visit, sent: Sent) -> list[Any]:
        if sent.request is not None:
            return form.fill(sent.request)
        if not sent.infotext:
            raise RequestError(visit.say("no_infotext"))
        return form.paste(sent.infotext)

    site.inlets[TAB] = Inlet(tab=TAB, outputs=form.inputs, fill=fill)


def _hires(form: Form) -> None:
    with gr.Accordion(t("group.hires"), open=False, elem_id=f"{TAB}_hires"):
        form.pairs("hires")
        with gr.Accordion(t("group.hires_more"), open=False):
            form.pairs("hires_more")
