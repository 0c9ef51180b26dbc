"""What the tabs share: the engine, who looks, how events are bound, how pictures are sent about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from sfumato.app.counter import PromptCounter
from sfumato.app.engine import Engine
from sfumato.app.outcome import fault_of
from sfumato.app.settings import shown
from sfumato.errors import ModelNotFoundError, RequestError, SfumatoError
from sfumato.pipeline.upscalers import upscalers
from sfumato.text.styles import Style, find_styles
from sfumato.types import Request, ResizeMode
from sfumato.ui import controls
from sfumato.ui.strings import language_of, word
from sfumato.weights import store
from sfumato.weights.info import ModelInfo, describe

log = logging.getLogger(__name__)
NATIVE = 512  # pixels, where a checkpoint does not say its own size


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Who looks at the page, as the guard says, and in which language."""

    owner: str = "local"
    role: str = "admin"
    language: str = "en"

    @property
    def reader(self) -> str | None:
        """Whose jobs and pictures may be seen; None = everybody's."""
        return None if self.role == "admin" else self.owner

    def say(self, key: str, **places: object) -> str:
        """A word in the visitor's language, below `say`."""
        return word(f"say.{key}", self.language, **places)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A picture on its way from one tab to another, with the text of how it was made."""

    image: Path | None = None
    infotext: str = ""
    before: Path | None = None  # the picture that it was made from
    fit: ResizeMode = "Just resize"  # how that one came to this one's shape
    request: Request | None = None  # where the settings are known better than by their text

    def picture(self, visit: Visit) -> Path:
        """The picture. Raises RequestError: there is none."""
        if self.image is None:
            raise RequestError(visit.say("no_picture"))
        return self.image


@dataclass(frozen=True, kw_only=True)
class Inlet:
    """A place that takes what is sent to it."""

    tab: str  # that is shown then
    outputs: Sequence[Any]  # components
    fill: Callable[[Visit, Sent], Sequence[Any]]  # their new values


@dataclass(frozen=True, kw_only=True)
class Outlet:
    """A button that sends something."""

    button: Any
    inlet: str
    inputs: Sequence[Any]  # components
    send: Callable[..., Sent]  # (visit, *values of the inputs)
    js: str | None = None  # a function of the browser that gives the values of the inputs


@dataclass(frozen=True)
class Load:
    """What is done when the page is loaded."""

    fn: Callable[..., Any]  # (visit)
    outputs: Sequence[Any]  # components
    raw: bool = False  # whether `fn` gives what the page takes, and not what Gradio makes that from


Builder = Callable[["Site"], None]  # makes a tab where it is called


@dataclass(kw_only=True, eq=False)
class Site:
    """One for each page that is built. Tabs add what they have while they are built; `wire` joins it."""

    engine: Engine
    checkpoint_choice: Any = None  # the component above the tabs
    checkpoint_picked: Any = None  # a hidden field beside it, for a card's name
    checkpoint_pick: Any = None  # a hidden button: take that name
    counter: PromptCounter = field(init=False)
    inlets: dict[str, Inlet] = field(default_factory=dict)
    outlets: list[Outlet] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    sizes: list[tuple[Any, Any, Any]] = field(
        default_factory=list
    )  # see `Making`: width, height, native size

    def __post_init__(self) -> None:
        self.counter = PromptCounter(self.engine.shelf.adapters.embeddings)

    def on(
        self,
        trigger: Callable[..., Any],
        fn: Callable[..., Any],
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        *,
        select: bool = False,
        **more: Any,
    ) -> Any:
        """Bind an event: `fn(visit, *values of the inputs)` gives the new values of the outputs.

        What the engine refuses is shown in words, with its code. No event has a name that programs call.

        Args:
            trigger: of a component: `button.click`.
            fn: what is done. With one output it gives one value, with more a sequence.
            inputs: components.
            outputs: components.
            select: whether `fn` gets a `gr.SelectData` behind the visit.
            more: for Gradio, like `trigger_mode="always_last"`.
        """
        options = {"show_progress": "hidden", "queue": False, "api_visibility": "private", **more}
        return trigger(self.handler(fn, select=select), list(inputs), list(outputs), **options)

    def here(
        self, trigger: Callable[..., Any], js: str, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> Any:
        """Bind an event that the browser does by itself.

        Args:
            trigger: of a component: `button.click`.
            js: a function from the values of the inputs to an array of the outputs' (one by itself).
            inputs: components.
            outputs: components.
        """
        return trigger(
            None, list(inputs), list(outputs), js=js, show_progress="hidden", api_visibility="private"
        )

    def handler(self, fn: Callable[..., Any], *, select: bool = False) -> Callable[..., Any]:
        """A function as Gradio calls it; see `on`."""

        def plain(request: gr.Request, *values: Any) -> Any:
            return self._guarded(visit_of(request), fn, *values)

        def selected(request: gr.Request, event: gr.SelectData, *values: Any) -> Any:
            return self._guarded(visit_of(request), fn, event, *values)

        return selected if select else plain

    def _guarded(self, visit: Visit, fn: Callable[..., Any], *values: Any) -> Any:
        try:
            return fn(visit, *values)
        except SfumatoError as error:
            raise gr.Error(self.refusal(error), title=visit.say("refused"), print_exception=False) from error
        except gr.Error:
            raise
        except Exception:  # the interface's outermost handler
            log.exception("unforeseen")
            raise gr.Error(visit.say("unforeseen"), title="internal", print_exception=False) from None

    def refusal(self, error: SfumatoError) -> str:
        """An error's line with its code, as HTML: the page shows messages as such."""
        fault = fault_of(error)
        return escape(f"{shown(fault.message, self.engine.settings)} ({fault.code})")

    def wire(self, tabs: Any) -> None:
        """Join outlets to inlets.

        Args:
            tabs: the page's `gr.Tabs`.
        """
        for outlet in self.outlets:
            inlet = self.inlets.get(outlet.inlet)
            if inlet is None:  # of a tab that is not here yet
                outlet.button.visible = False
                continue
            passing, outputs = _passing(outlet, inlet), [*inlet.outputs, tabs]
            self.on(outlet.button.click, passing, outlet.inputs, outputs, js=outlet.js)

    def choices(self, kind: controls.Choices) -> list[Any]:
        """What can be chosen."""
        folder = self.engine.settings.models
        if kind == "samplers":
            return controls.sampler_names()
        if kind == "schedules":
            return controls.schedule_names()
        if kind == "upscalers":
            return controls.latent_upscalers() + [each.name for each in upscalers(folder)]
        wanted = "checkpoint" if kind == "checkpoints" else "vae"
        found = [each.name for each in store.scan(folder) if not each.fault and each.kind == wanted]
        return [store.EMBEDDED, *found] if kind == "checkpoints" else found

    def native(self, checkpoint: str | None) -> tuple[int, int]:
        """Width and height that a checkpoint was trained for."""
        info = self.model(checkpoint)
        side = (info and info.native_size) or NATIVE
        return side, side

    def model(self, checkpoint: str | None) -> ModelInfo | None:
        """What a checkpoint's file tells; None = there is none of that name."""
        try:
            return describe(self.engine.shelf.find(checkpoint or None), read_pickles=False)
        except ModelNotFoundError:
            return None

    def channels(self, checkpoint: str | None) -> int | None:
        """How many channels the U-Net takes, more than 4 where it sees a picture; None = unknown."""
        info = self.model(checkpoint)
        return info.in_channels if info else None

    def text_width(self, checkpoint: str | None) -> int | None:
        """Width of a checkpoint's text encoder; None where that is not known."""
        try:
            return self.engine.shelf.text_width(checkpoint or None)
        except SfumatoError:
            return None

    @property
    def checkpoint(self) -> str:
        """The checkpoint that is chosen at first."""
        return self.engine.settings.checkpoint or store.EMBEDDED

    @property
    def styles(self) -> dict[str, Style]:
        """Those there are, by name."""
        return find_styles(self.engine.settings.styles)


def visit_of(request: gr.Request) -> Visit:
    """Who sends a request of the page."""
    assert request.request is not None
    return visit_in(request.request.scope.get("state", {}), request.headers.get("accept-language", ""))


def visit_in(state: Any, accept_language: str) -> Visit:
    """Who it is by what the guard has left in the scope."""
    return Visit(
        owner=str(state.get("owner", "local")),
        role=str(state.get("role", "admin")),
        language=language_of(accept_language),
    )


def as_upload(picture: Path, component: Any) -> str:
    """A file as it is, its texts included, among the uploads, from where a component may show it."""
    return str(save_file_to_cache(picture, component.GRADIO_CACHE))


def _passing(outlet: Outlet, inlet: Inlet) -> Callable[..., Any]:
    def send(visit: Visit, *values: Any) -> list[Any]:
        return [*inlet.fill(visit, outlet.send(visit, *values)), gr.Tabs(selected=inlet.tab)]

    return send
