"""The controls of one tab: made from the table, read into a request, filled from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from sfumato.pipeline import metadata
from sfumato.pipeline.scripts.fields import with_values
from sfumato.types import Request
from sfumato.ui import controls
from sfumato.ui.controls import Control, component, of_tab, within
from sfumato.ui.effects import depends, usable
from sfumato.ui.site import Site
from sfumato.ui.strings import LANGUAGES, table


class Form:
    """The components of a tab's controls, by field."""

    def __init__(self, site: Site, tab: str) -> None:
        """Make none yet: `group` does, where they are to stand."""
        self.site, self.tab = site, tab
        self.components: dict[str, Any] = {}
        self._controls: dict[str, Control] = {}
        start = with_values(Request(), {"model.checkpoint": site.checkpoint})
        self._channels = site.channels(site.checkpoint)
        self._start = controls.shown(start, controls.CONTROLS, site.native(site.checkpoint))

    def group(self, name: str) -> list[Any]:
        """Make the controls of a group here, in their order."""
        return [self.make(each) for each in of_tab(self.tab, name)]

    def pairs(self, name: str) -> None:
        """Make the controls of a group here, two a row."""
        rows = of_tab(self.tab, name)
        for place in range(0, len(rows), 2):
            with gr.Row():
                for each in rows[place : place + 2]:
                    self.make(each)

    def make(self, control: Control) -> Any:
        """Make one control here."""
        made = component(control, self._start[control.field], self.site.choices, self.tab)
        made.interactive = usable(control.field, self._start, self._channels)
        self.components[control.field] = made
        self._controls[control.field] = control
        return made

    def adopt(self, field: str, made: Any) -> None:
        """Take a component that stands elsewhere, for all tabs, as the control of a field."""
        self.components[field] = made
        self._controls[field] = next(each for each in controls.CONTROLS if each.field == field)

    def __getitem__(self, field: str) -> Any:
        """The component of a field."""
        return self.components[field]

    @property
    def inputs(self) -> list[Any]:
        """All components, for an event; `read` takes their values."""
        return list(self.components.values())

    def read(self, values: Sequence[Any]) -> Request:
        """The request that the values of `inputs` describe. Raises RequestError: see `controls.read`."""
        return controls.read(dict(zip(self.components, values, strict=True)))

    def fill(self, request: Request) -> list[Any]:
        """What `inputs` show for a request."""
        if request.model.checkpoint is None:
            request = replace(request, model=replace(request.model, checkpoint=self.site.checkpoint))
        known = self._controls.values()
        shown = controls.shown(request, known, self.site.native(request.model.checkpoint))
        channels = self.site.channels(request.model.checkpoint)
        filled = []
        for each in known:
            held = shown[each.field]
            tied = depends(each.field)
            changes = {"interactive": usable(each.field, shown, channels)} if tied else {}
            filled.append(within(each, held, **changes))
        return filled

    def paste(self, infotext: str) -> list[Any]:
        """What `inputs` show for a text of generation parameters.

        Raises RequestError: a value in it is none; names it.
        """
        return self.fill(metadata.read(infotext))


def tool(sign: str, name: str, tab: str) -> gr.Button:
    """A small button with a sign in place of a word.

    Args:
        sign: what is seen.
        name: of what it does: the word `tool.<name>`, read aloud and shown on hovering.
        tab: where it stands.
    """
    assert f"tool.{name}" in table(LANGUAGES[0]), name
    return gr.Button(
        sign,
        elem_id=f"{tab}_tool_{name}",
        elem_classes=["sf-tool"],
        min_width=40,
        scale=0,
        size="sm",
    )
