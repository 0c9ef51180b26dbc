"""The place of presets in a form: whole settings under a name, each visitor's own."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sfumato.ui.form import Form, tool
from sfumato.ui.site import Load, Site, Visit
from sfumato.ui.strings import t


class Presets:
    """The choice of a preset in a tab, and the buttons beside it."""

    def __init__(self, site: Site, tab: str) -> None:
        """Make them here."""
        self._site = site
        with gr.Row(elem_classes=["sf-beside"]):
            self.choice = gr.Dropdown(
                choices=[], value=None, label=t("preset.preset"), info=t("help.preset.preset"),
                elem_id=f"{tab}_preset", allow_custom_value=True, min_width=140,
            )  # fmt: skip
            self._save = tool("+", "save_preset", tab)
            self._remove = tool("−", "remove_preset", tab)

    def bind(self, form: Form) -> None:
        """Bind them, when the form is made."""
        on = self._site.on
        on(self.choice.select, self._choosing(form), [], form.inputs, select=True)
        on(self._save.click, self._saving(form), [self.choice, *form.inputs], [self.choice])
        on(self._remove.click, self._forget, [self.choice], [self.choice])
        on(self.choice.focus, lambda visit: gr.Dropdown(choices=self._names(visit)), [], [self.choice])
        self._site.loads.append(Load(lambda visit: self._shown(visit, None), [self.choice]))

    def _choosing(self, form: Form) -> Any:
        def choose(visit: Visit, event: gr.SelectData) -> list[Any]:
            return form.fill(self._site.engine.presets.get(visit.owner, str(event.value)))

        return choose

    def _saving(self, form: Form) -> Any:
        def save(visit: Visit, name: str | None, *values: Any) -> Any:
            self._site.engine.presets.put(visit.owner, name or "", form.read(values))
            return self._shown(visit, name)

        return save

    def _forget(self, visit: Visit, name: str | None) -> Any:
        self._site.engine.presets.remove(visit.owner, name or "")
        return self._shown(visit, None)

    def _shown(self, visit: Visit, name: str | None) -> Any:
        return gr.Dropdown(choices=self._names(visit), value=name)

    def _names(self, visit: Visit) -> list[str]:
        return self._site.engine.presets.names(visit.owner)
