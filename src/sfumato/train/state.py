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
from sfumato.train.config import OptimiserConfig
from sfumato.weights import files

Fingerprint = dict[str, Any]  # what decides a run's numbers, by the field's name, as JSON has it

MUON_MOMENTUM = 0.95
_MASTER, _AVERAGE, _FIRST, _SECOND = "master", "average", "first_moment", "second_moment"


class TrainState:
    """Trainable parameters with their float32 masters, AdamW moments and exponential moving average.

    The network may hold its parameters in bfloat16: gradients are widened to float32, the optimiser steps on
    the masters, and the rounded result is written back. That is mixed precision without casting every weight
    at every step.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: OptimiserConfig, ema_decay: float):
        self.step = 0
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.master = [p.detach().float().clone() for p in self.parameters]
        self.average = [m.clone() for m in self.master]
        self.config = config
        self.ema_decay = ema_decay
        self.optimiser = torch.optim.AdamW(
            self.master, lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
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
            group["lr"] = rate
        self.optimiser.step()  # parameters without a gradient are passed over
        self.put(self.master)
        for parameter, master in zip(self.parameters, self.master, strict=True):
            parameter.grad = master.grad = None
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, self.master, 1 - decay)
        return float(norm)

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
        for index, name in enumerate(self.names):
            moments = self.optimiser.state[self.master[index]]
            tensors[f"{_MASTER}.{name}"] = self.master[index]
            tensors[f"{_AVERAGE}.{name}"] = self.average[index]
            if moments:
                tensors[f"{_FIRST}.{name}"] = moments["exp_avg"]
            if "exp_avg_sq" in moments:
                tensors[f"{_SECOND}.{name}"] = moments["exp_avg_sq"]
        header = {"training_state": json.dumps({"step": self.step, "run": fingerprint})}
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
        tensors = files.read_safetensors(path)
        wanted = {f"{_MASTER}.{name}" for name in self.names}
        if wanted - tensors.keys():
            raise TrainingError(f"{path} lacks {sorted(wanted - tensors.keys())[:3]} …: other networks?")
        self.step = saved["step"]
        for index, name in enumerate(self.names):
            self.master[index].copy_(tensors[f"{_MASTER}.{name}"])
            self.average[index].copy_(tensors[f"{_AVERAGE}.{name}"])
            moments = {"exp_avg": f"{_FIRST}.{name}", "exp_avg_sq": f"{_SECOND}.{name}"}
            found = {
                moment: torch.empty_like(self.master[index]).copy_(tensors[key])
                for moment, key in moments.items()
                if key in tensors
            }
            if "exp_avg_sq" in found:
                found["step"] = torch.tensor(float(self.step))
            if found:
                self.optimiser.state[self.master[index]] = found
        self.put(self.master)


def _changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Name what differs between two runs, one phrase each."""
    names = [name for name in before | now if before.get(name) != now.get(name)]
    return [
        f"{name} was {before.get(name, 'not set')!s:.60}, is {now.get(name, 'not set')!s:.60}"
        for name in names
    ]


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
