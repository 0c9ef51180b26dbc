"""What a method hands to the run: a task, and how its result is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from sfumato.train.loop import Task

MODEL = "model.safetensors"

Provenance = Mapping[str, str]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A task, and how its result is written from the averaged float32 weights, by the task's names."""

    task: Task
    export: Callable[[Path, Weights, Provenance], None]
    provenance: Provenance  # of what the run started from
    inputs: Mapping[str, str]  # hashes of what the run reads, by the field that names it
    file: str = MODEL  # in the output folder


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainee:
    """What trains of a checkpoint, in place in its networks, and how it is written."""

    parameters: Mapping[str, nn.Parameter]  # "unet.…", "text.…"
    export: Callable[[Path, Weights, Mapping[str, str]], None]  # the last: strings for the header
    words: Mapping[str, nn.Parameter] = field(default_factory=dict)  # vectors (V,E) by their word
    suffix: str = ".safetensors"


def of_network(network: str, weights: Weights) -> dict[str, Tensor]:
    """Give the weights of one network by their names in it."""
    prefix = f"{network}."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
