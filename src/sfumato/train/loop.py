"""One loop for every method: an iterator of steps, with saves, pictures and a log on the way."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from sfumato.errors import TrainingError
from sfumato.train import report
from sfumato.train.config import PreviewConfig, TrainConfig
from sfumato.train.state import Fingerprint, TrainState

STATE = "state.safetensors"
_SILENT = (  # fields that change no number
    *("output", "name", "device", "steps", "save_every", "sample_every", "threads", "provenance"),
    *("diffusion.prompts", "diffusion.guidance", "diffusion.sample_steps"),
    *(f"preview.{name}" for name in PreviewConfig.model_fields),
)


class Task(Protocol):
    """A method: which parameters train, and what is measured. The loop knows nothing else."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name what is trained."""

    def loss(self, rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        """Measure batch `number` of the run, counted from 0; all randomness comes from `rng`."""

    def pictures(self) -> Tensor | None:
        """Show what has been learned on fixed inputs: (B,3,H,W) in [-1, 1]; None = nothing to show."""


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """One step done."""

    step: int  # steps done so far
    steps: int
    rate: float
    parts: dict[str, float]  # "loss", "norm" of the gradient, and the task's own
    saved: bool


def train(
    task: Task, config: TrainConfig, state: TrainState, save: Callable[[Mapping[str, float]], None]
) -> Iterator[TrainStep]:
    """Train from the state's step to the configured one; stop iterating to stop training.

    Step k draws everything random from a generator seeded by (seed, k), so the result does not depend on how
    often the run was stopped and resumed from a save.

    Args:
        task: the method.
        config: the run; writes into `config.output`: log.jsonl, loss.png, pictures/.
        state: where to start.
        save: keeps the state, where one is due; it is given the parts of the step.

    Yields:
        A report after each step.

    Raises:
        TrainingError: the loss or gradient is not finite. The last save stands.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    while state.step < config.steps:
        began = time.perf_counter()
        rng = np.random.default_rng((config.seed, state.step))
        rate = state.rate(config.steps)
        parts = _measure(task, config, state.step, rng, rate)
        parts["norm"] = state.apply_gradients(rate)
        seconds = time.perf_counter() - began
        report.append_log(config.output, {"step": state.step, "rate": rate, "seconds": seconds} | parts)
        last = state.step == config.steps
        saved = last or state.step % config.save_every == 0
        if saved:
            state.require_finite(rate)
            save(parts)
        if last or state.step % config.sample_every == 0:
            with averaged_weights(state):
                images = task.pictures()
            if images is not None:
                report.write_grid(images, config.output / "pictures" / f"{state.step:07d}.png")
            report.plot_loss(config.output)
        yield TrainStep(step=state.step, steps=config.steps, rate=rate, parts=parts, saved=saved)


def _measure(
    task: Task, config: TrainConfig, step: int, rng: np.random.Generator, rate: float
) -> dict[str, float]:
    """Sum the gradients of a step's batches; the means of "loss" and the task's own parts."""
    sums: dict[str, float] = {}
    for number in range(step * config.accumulate, (step + 1) * config.accumulate):
        loss, parts = task.loss(rng, number)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {step}: the loss is {float(loss.detach())}; lower optimiser.rate "
                f"(now {rate:.2e}) and resume from the last save"
            )
        (loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        for name, value in {"loss": float(loss.detach()), **parts}.items():
            sums[name] = sums.get(name, 0.0) + value / config.accumulate
    return sums


class averaged_weights:  # noqa: N801  a context manager reads like a function
    """Put the averaged weights into the network for a while, then the trained ones back, bit for bit."""

    def __init__(self, state: TrainState) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.state.put(self.state.average)

    def __exit__(self, *_: object) -> None:
        self.state.put(self.state.master)


def fingerprint(config: TrainConfig, inputs: Mapping[str, str]) -> Fingerprint:
    """Say what decides a run's numbers: its settings and what its files hold, wherever they lie.

    Its folder, its reports and previews do not; nor does its length, where the rate does not depend on it.

    Args:
        config: the run.
        inputs: hashes of what it reads, by the field that names it.
    """
    fields = {name: value for name, value in _fields(config) if name not in _SILENT}
    if config.optimiser.decay != "constant":
        fields["steps"] = config.steps
    found: Fingerprint = json.loads(json.dumps(fields | dict(inputs)))
    return found


def _fields(table: BaseModel, prefix: str = "") -> Iterator[tuple[str, object]]:
    """List all fields of all tables but those that are paths."""
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.")
        elif not isinstance(value, Path):
            yield f"{prefix}{name}", value
