"""Every weight of a checkpoint's networks."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sfumato.errors import TrainingError
from sfumato.train.config import TrainConfig
from sfumato.train.method import Trainee, Weights, of_network
from sfumato.weights.load import Checkpoint, load_networks, save_checkpoint


def finetune(config: TrainConfig, checkpoint: Checkpoint) -> Trainee:
    """Train the U-Net, and the text encoder where that has a rate.

    Raises:
        TrainingError: neither is to train.
    """
    table = config.dreambooth if config.method == "dreambooth" else config.finetune
    networks: dict[str, nn.Module] = {"unet": checkpoint.unet} if table.unet else {}
    if config.optimiser.text_rate is not None:
        networks["text"] = checkpoint.text
    if not networks:
        raise TrainingError(
            f"{config.method}.unet is false and optimiser.text_rate not given, so nothing would train"
        )
    parameters: dict[str, nn.Parameter] = {}
    for network, module in networks.items():
        module.requires_grad_(True)
        for name, parameter in module.named_parameters():
            parameter.data = parameter.data.clone(memory_format=torch.preserve_format)  # not the file's own
            parameters[f"{network}.{name}"] = parameter
    kept = [name for name in ("unet", "vae", "text") if name not in networks]
    zero_snr = config.loss.zero_terminal_snr
    spec = checkpoint.spec if zero_snr is None else replace(checkpoint.spec, zero_terminal_snr=zero_snr)

    def export(path: Path, weights: Weights, metadata: Mapping[str, str]) -> None:
        _, parts = load_networks(checkpoint.path, kept, device="cpu", dtype=None)  # as they are stored
        trained = {name: of_network(name, weights) for name in networks}
        written: dict[str, nn.Module | Weights] = {**parts, **trained}
        save_checkpoint(
            path,
            spec=spec,
            unet=written["unet"],
            vae=written["vae"],
            text=written["text"],
            metadata=metadata,
            dtype=getattr(torch, table.dtype),
        )

    return Trainee(parameters=parameters, export=export)
