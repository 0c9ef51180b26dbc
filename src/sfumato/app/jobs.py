"""The engine's nouns: a job, what it has made, what it says while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from sfumato.types import Request

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
LOWEST, HIGHEST = -10, 10  # of a job's priority


@dataclass(frozen=True, kw_only=True)
class Script:
    """What is done with a request, where it is more than making it: see `app.scripts`."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # JSON's types


@dataclass(frozen=True, kw_only=True)
class Made:
    """One finished picture of a job."""

    index: int  # place in the request, from 0; below 0 = a grid, the last one is that of all
    file: str  # below the outputs folder, with forward slashes
    sha256: str  # of the file
    width: int
    height: int
    seed: int
    infotext: str


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a job failed."""

    code: str  # stable, for programs: "out_of_memory", "no_space", "request" …
    message: str  # one line, for people


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request on its way: who asked, where it stands, what it has made."""

    id: str
    number: int  # rises with every job
    owner: str
    kind: str  # "txt2img", "img2img", or a script's name
    request: Request  # resolved: its seeds are drawn
    script: Script | None = None  # None = the pictures of the request, no more
    priority: int = 0  # LOWEST to HIGHEST; the higher is made first
    state: State = "queued"
    position: int | None = None  # jobs before it, while it waits
    key: str | None = None  # given by the client; the same key gives the same job
    created: float = 0.0  # seconds since 1970, UTC, like the next two
    started: float | None = None
    finished: float | None = None
    units: float = 0.0  # of work, see `app.pace`
    estimate: float | None = None  # seconds until it is done; None = that cannot be told yet
    made: tuple[Made, ...] = ()
    fault: Fault | None = None
    interrupted: bool = False  # done, but its owner would not wait for all of it
    timings: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # phase: seconds

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a running job is."""

    job: str
    share: float = 0.0  # 0 to 1
    step: int = 0
    steps: int = 0
    batch: int = 0
    batches: int = 0
    seconds_left: float | None = None
    posted: float = 0.0  # when this was, by the clock of the process that reads it
    preview: bytes | None = None  # a JPEG of what is being made
    version: int = 0  # rises with every change
    worker: str = ""  # that makes it; "" = this process


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened to a job."""

    kind: Literal["state", "progress", "picture"]
    job: Job
    progress: Progress | None = None
    made: Made | None = None
