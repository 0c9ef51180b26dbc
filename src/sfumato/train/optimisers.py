"""The optimisers a run may choose, each from the library that keeps it."""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from sfumato.errors import TrainingError
from sfumato.train.config import OptimiserConfig

Groups = list[dict[str, Any]]


def _adamw(groups: Groups, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Loshchilov & Hutter 2019, arXiv:1711.05101."""
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _adamw8bit(groups: Groups, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Dettmers et al. 2022, arXiv:2110.02861: moments in 8 bits."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise TrainingError(
            "optimiser.name='adamw8bit' needs bitsandbytes: pip install bitsandbytes, or choose adamw"
        ) from error
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        groups, lr=config.rate, betas=config.betas, weight_decay=config.weight_decay
    )
    return made


def _adafactor(groups: Groups, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Shazeer & Stern 2018, arXiv:1804.04235: second moments by row and column."""
    return torch.optim.Adafactor(groups, lr=config.rate, weight_decay=config.weight_decay)


def _lion(groups: Groups, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Chen et al. 2023, arXiv:2302.06675."""
    from pytorch_optimizer import Lion

    return Lion(groups, lr=config.rate, betas=config.betas, weight_decay=config.weight_decay)


def _prodigy(groups: Groups, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Mishchenko & Defazio 2023, arXiv:2306.06101: finds its rate, of which `rate` is a factor."""
    from pytorch_optimizer import Prodigy

    return Prodigy(
        groups,
        lr=config.rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        safeguard_warmup=config.warmup_steps > 0,
    )


OPTIMISERS: Mapping[str, Callable[[Groups, OptimiserConfig], torch.optim.Optimizer]] = MappingProxyType(
    {
        "adamw": _adamw,
        "adamw8bit": _adamw8bit,
        "adafactor": _adafactor,
        "lion": _lion,
        "prodigy": _prodigy,
    }
)


def make_optimiser(groups: Groups, config: OptimiserConfig) -> torch.optim.Optimizer:
    """Make the optimiser that a configuration asks for.

    Args:
        groups: of parameters, each with what else an optimiser is to keep with it.
        config: which, and its constants.

    Raises:
        TrainingError: it is not installed, or not for the device of the parameters.
    """
    device = groups[0]["params"][0].device
    if config.name == "adamw8bit" and device.type != "cuda":
        raise TrainingError(f"optimiser.name='adamw8bit' runs on CUDA, not on {device.type}; choose adamw")
    with warnings.catch_warnings():  # of what they miss in the installation
        warnings.simplefilter("ignore")
        return OPTIMISERS[config.name](groups, config)
