"""What a training run is at a step: weights, optimiser, average. Nothing random lives here.

Randomness is derived anew at every step from (seed, step), so a run resumed from a saved state goes on bit
for bit as one that was never stopped.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.errors import TrainingError
from sfumato.train.config import OptimiserConfig, default_of
from sfumato.train.optimisers import make_optimiser
from sfumato.weights import files

Fingerprint = dict[str, Any]  # what decides a run's numbers, by the field's name, as JSON has it

MUON_MOMENTUM = 0.95
_MASTER, _AVERAGE = "master", "average"
_MOMENTS = {"exp_avg": "first_moment", "exp_avg_sq": "second_moment"}  # what files call them
_GROUPS = "group"


class TrainState:
    """Trainable parameters with their float32 masters, the optimiser and an exponential moving average.

    The network may hold its parameters in bfloat16: gradients are widened to float32, the optimiser steps on
    the masters, and the rounded result is written back. That is mixed precision without casting every weight
    at every step.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimiserConfig,
        ema_decay: float,
        factors: Mapping[str, float] | None = None,
    ):
        """Begin at step 0.

        Args:
            parameters: what trains, by name.
            config: how.
            ema_decay: of the average; 0 = there is none, and the weights stand for it.
            factors: of the rate, by the first part of the parameters' names ("text"); 1 for the others.
        """
        self.step = 0
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.master = [p.detach().float().clone() for p in self.parameters]
        self.average = [m.clone() for m in self.master] if ema_decay else self.master
        self.config = config
        self.ema_decay = ema_decay
        grouped: dict[float, list[Tensor]] = {}
        for name, master in zip(self.names, self.master, strict=True):
            grouped.setdefault((factors or {}).get(name.partition(".")[0], 1.0), []).append(master)
        groups = [{"params": masters, "factor": factor} for factor, masters in grouped.items()]
        self.optimiser = make_optimiser(groups, config)
        self.orthogonal = [
            config.matrices == "muon" and is_matrix(name, master)
            for name, master in zip(self.names, self.master, strict=True)
        ]

    def rate(self, steps: int) -> float:
        """Give the learning rate of the step to come: linear warm-up, then the chosen decay over `steps`."""
        peak, warmup = self.config.rate, self.config.warmup_steps
        if self.step < warmup:
            return peak * (self.step + 1) / warmup
        left = 1 - (self.step - warmup) / max(1, steps - warmup)
        factor = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
        return peak * factor[self.config.decay]

    @torch.no_grad()
    def apply_gradients(self, rate: float) -> float:
        """Clip the gradients, step, average.

        Args:
            rate: the learning rate.

        Returns:
            The gradients' norm before clipping.

        Raises:
            TrainingError: the norm is not finite; nothing has been changed.
        """
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        wide = [g.to(torch.float32, memory_format=torch.preserve_format) for g in gradients]
        norm = torch.nn.utils.get_total_norm(wide)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"step {self.step}: the gradient is not finite; lower optimiser.rate (now {rate:.2e}) "
                "and resume from the last save"
            )
        if norm > self.config.clip_norm:
            torch._foreach_mul_(wide, self.config.clip_norm / float(norm))
        for index, (master, gradient) in enumerate(zip(self.master, wide, strict=True)):
            if self.orthogonal[index]:
                self._muon_step(master, gradient, rate)
            else:
                master.grad = gradient
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.step()  # parameters without a gradient are passed over
        self.put(self.master)
        for parameter, master in zip(self.parameters, self.master, strict=True):
            parameter.grad = master.grad = None
        self.step += 1
        if self.ema_decay:
            decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, self.master, 1 - decay)
        return float(norm)

    def require_finite(self, rate: float) -> None:
        """Refuse to keep weights that are no numbers. Raises TrainingError."""
        if not all(bool(master.isfinite().all()) for master in self.master):
            raise TrainingError(
                f"step {self.step}: the weights are not finite; lower optimiser.rate (now {rate:.2e}) "
                "and resume from the last save"
            )

    def _muon_step(self, master: Tensor, gradient: Tensor, rate: float) -> None:
        state = self.optimiser.state[master]
        if not state:
            state["exp_avg"] = torch.zeros_like(master)
        momentum = state["exp_avg"].lerp_(gradient, 1 - MUON_MOMENTUM)
        rows = gradient.lerp(momentum, MUON_MOMENTUM).flatten(1)  # Nesterov; (out, in·k·k)
        step = orthogonalise(rows) * (0.2 * max(rows.shape) ** 0.5)
        master.mul_(1 - rate * self.config.weight_decay).sub_(step.view_as(master), alpha=rate)

    @torch.no_grad()
    def put(self, weights: list[Tensor]) -> None:
        """Copy float32 weights, in the order of `names`, into the network's parameters, rounded."""
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)

    def averaged(self) -> dict[str, Tensor]:
        """Give the averaged float32 weights by name."""
        return dict(zip(self.names, self.average, strict=True))

    def save(self, path: Path, fingerprint: Fingerprint) -> None:
        """Write the whole state to one safetensors file, complete or not at all.

        Args:
            path: the file.
            fingerprint: of the run, from `loop.fingerprint`.
        """
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, Any] = {}

        def keep(key: str, value: Any) -> None:
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                numbers[key] = value

        for name, master, average in zip(self.names, self.master, self.average, strict=True):
            keep(f"{_MASTER}.{name}", master)
            if self.ema_decay:
                keep(f"{_AVERAGE}.{name}", average)
            for key, value in self.optimiser.state[master].items():
                keep(f"{_MOMENTS.get(key, key)}.{name}", value)
        for place, group in enumerate(self.optimiser.param_groups):
            for key, value in group.items():
                if key != "params":
                    keep(f"{_GROUPS}.{place}.{key}", value)
        header = {"training_state": json.dumps({"step": self.step, "run": fingerprint, "numbers": numbers})}
        files.write_safetensors(path, tensors, header)

    @torch.no_grad()
    def load(self, path: Path, fingerprint: Fingerprint) -> None:
        """Go back to a saved state.

        Args:
            path: the file.
            fingerprint: of the run that goes on.

        Raises:
            TrainingError: the state belongs to another configuration, other data or other networks; what
                differs is named.
        """
        header = files.read_header(path)
        saved = json.loads(header.metadata.get("training_state", "{}"))
        if changes := _changes(saved.get("run", {}), fingerprint):
            raise TrainingError(
                f"{path} was made by another run: {'; '.join(changes)}; restore that, or choose "
                "another output folder"
            )
        kept: dict[str, Any] = files.read_safetensors(path) | saved.get("numbers", {})
        wanted = {f"{_MASTER}.{name}" for name in self.names}
        if wanted - kept.keys():
            raise TrainingError(f"{path} lacks {sorted(wanted - kept.keys())[:3]} …: other networks?")
        self.step = saved["step"]
        endings = {name: place for place, name in enumerate(self.names)}
        for key, value in kept.items():
            kind, _, name = key.partition(".")
            if kind == _GROUPS:
                place, _, field = name.partition(".")
                group = self.optimiser.param_groups[int(place)]
                group[field] = tuple(value) if isinstance(value, list) else _own(value)
                continue
            master = self.master[endings[name]]
            if kind == _MASTER:
                master.copy_(value)
            elif kind == _AVERAGE:
                self.average[endings[name]].copy_(value)
            else:
                field = next((ours for ours, theirs in _MOMENTS.items() if theirs == kind), kind)
                self.optimiser.state[master][field] = _own(value, master)
        for moments in self.optimiser.state.values():
            if self.config.name == "adamw" and "exp_avg_sq" in moments:  # older states do not say it
                moments.setdefault("step", torch.tensor(float(self.step)))
        self.put(self.master)


def _own(value: Any, like: Tensor | None = None) -> Any:
    """Copy a tensor out of a mapped file, laid out like a parameter of its shape and beside it."""
    if not isinstance(value, Tensor):
        return value
    if like is None:
        return value.clone()
    if value.shape != like.shape:
        return value.to(like.device, copy=True)
    return torch.empty_like(like, dtype=value.dtype).copy_(value)


def _changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Name what differs between two runs, one phrase each; a field that is not told had its default."""
    pairs = {name: tuple(each.get(name, default_of(name)) for each in (before, now)) for name in before | now}
    return [f"{name} was {_said(old)}, is {_said(new)}" for name, (old, new) in pairs.items() if old != new]


def _said(value: Any) -> str:
    return "not set" if value is None else f"{value!s:.60}"


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Say whether a parameter maps vectors to vectors; tables of embeddings do not."""
    return tensor.ndim >= 2 and min(tensor.flatten(1).shape) >= 16 and "embedding" not in name


def orthogonalise(matrix: Tensor) -> Tensor:
    """Replace a matrix (M,N) by one of the same singular vectors with all singular values near 1.

    Source: Jordan et al. 2024, "Muon", Newton-Schulz iteration of order 5 with their coefficients; the factor
    that makes its step as large as AdamW's is Liu et al. 2025 (arXiv:2502.16982), equation 4.

    Args:
        matrix: (M,N) float32.

    Returns:
        (M,N) float32; singular values about 0.7 to 1.2.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).bfloat16().contiguous()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    out: Tensor = (x if wide else x.T).float()
    return out
