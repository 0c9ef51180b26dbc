"""The tab Queue: the visitor's jobs that run, wait and have ended."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sfumato.errors import RequestError
from sfumato.ui.lists import CHOSEN, LIST, PLAIN
from sfumato.ui.results import Pictures
from sfumato.ui.site import Outlet, Sent, Site, Visit
from sfumato.ui.strings import t

TAB = "queue"


def build(site: Site) -> None:
    """Make the tab here."""
    engine = site.engine
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            with gr.Row(elem_classes=["sf-beside"]):
                gr.Markdown(t("help.queue"), elem_classes=["sf-help"])
                clear = gr.Button(t("button.clear_queue"), size="sm", scale=0, elem_id=f"{TAB}_do_clear")
            gr.HTML(LIST.format(name=TAB), elem_id=f"{TAB}_list")
        with gr.Column(scale=5, min_width=320):
            pictures = Pictures(site, TAB)
    chosen = gr.Textbox(visible="hidden", show_label=False)
    js = CHOSEN.format(name=TAB)

    def show(visit: Visit, job_id: str) -> list[Any]:
        job = engine.job(job_id, visit.owner)
        if not job.made:
            raise RequestError(visit.say("no_picture"))
        return pictures.values(job)

    site.on(clear.click, lambda visit: engine.line.clear(visit.owner) and None)
    site.on(action("open").click, show, [chosen], pictures.outputs, postprocess=False, js=js)
    for name, do in {
        "interrupt": engine.interrupt,
        "cancel": engine.cancel,
        "first": engine.line.first,
    }.items():
        site.on(action(name).click, _doing(do), [chosen], js=js)

    def again(visit: Visit, job_id: str) -> Sent:
        return Sent(request=engine.job(job_id, visit.owner).request)

    for tab, inlet in zip(PLAIN, ("txt2img", "img2img_again"), strict=True):
        button = action(f"again_{tab}")
        site.outlets.append(Outlet(button=button, inlet=inlet, inputs=[chosen], send=again, js=js))


def action(name: str) -> gr.Button:
    """A button that no one sees: those of the list press it, with the job that they stand beside."""
    return gr.Button("…", visible="hidden", elem_id=f"{TAB}_do_{name}")


def _doing(do: Any) -> Any:
    def act(visit: Visit, job_id: str) -> None:
        do(job_id, visit.owner)

    return act
