"""How a job ends: what it met on its way becomes a state, and a fault with a code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch

from sfumato.app.jobs import Fault, Job, State
from sfumato.app.runner import Runner, StoppedError
from sfumato.errors import OutOfMemoryError, OutputError, SfumatoError, StorageError

log = logging.getLogger(__name__)

CODES: Mapping[str, str] = MappingProxyType(
    {  # of an error's class: the word programs go by
        "RequestError": "request",
        "WorkLimitError": "work_limit",
        "PromptError": "prompt",
        "ModelNotFoundError": "model_not_found",
        "WeightsError": "model_broken",
        "OutOfMemoryError": "out_of_memory",
        "QuotaError": "quota",
        "OutputError": "output",
        "StorageError": "storage",
        "JobNotFoundError": "job_not_found",
        "PictureNotFoundError": "picture_not_found",
        "QueueFullError": "queue_full",
        "ClosingError": "stopping",
        "ConflictError": "conflict",
    }
)


@dataclass(frozen=True, kw_only=True)
class End:
    """How a job, or this attempt at it, came to its end."""

    state: State  # "running" = it is to be begun again
    fault: Fault | None = None
    interrupted: bool = False  # done as far as it had come
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds by phase


def outcome(job: Job, runner: Runner, forget: Callable[[], object]) -> End:
    """Run a job; how it ended. Nothing it can meet ends the process.

    Args:
        job: the job.
        runner: what makes it.
        forget: lets go of what fills the memory.
    """
    try:
        return End(state="done", timings=runner.run(job))
    except StoppedError as stopped:
        if stopped.halt == "interrupt":
            return End(state="done", interrupted=True)
        return End(state="running" if stopped.halt == "stop" else "cancelled")
    except SfumatoError as error:
        if isinstance(error, OutOfMemoryError):
            forget()
        return End(state="failed", fault=fault_of(error))
    except (MemoryError, torch.OutOfMemoryError) as error:
        forget()
        text = f"out of memory: {str(error).splitlines()[0] if str(error) else 'no more to be had'}"
        return End(state="failed", fault=Fault(code="out_of_memory", message=text[:300]))
    except Exception:  # what nobody foresaw is the job's end, not the server's
        log.exception("job %s", job.id)
        text = "an unforeseen error; the log has its details"
        return End(state="failed", fault=Fault(code="internal", message=text))


def fault_of(error: SfumatoError) -> Fault:
    """An error as it stands in a job."""
    code = next((CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in CODES), "error")
    if isinstance(error, OutputError | StorageError) and _no_space(error):
        code = "no_space"
    return Fault(code=code, message=" ".join(str(error).split()))


def _no_space(error: Exception) -> bool:
    return any(words in str(error).lower() for words in ("no space", "disk is full", "quota"))
