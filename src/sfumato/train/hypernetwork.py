"""Small networks before the keys and values of attention, trained while the checkpoint stays."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.train.config import HypernetworkConfig, TrainConfig
from sfumato.train.method import Trainee, Weights
from sfumato.weights.adapters.hypernetworks import Hyper, write_hypernetwork
from sfumato.weights.load import Checkpoint

_SIDES = (".to_k", ".to_v")


def hypernetwork(config: TrainConfig, checkpoint: Checkpoint) -> Trainee:
    """Put two small networks, for keys and for values, before every attention of each width."""
    table = config.hypernetwork
    generator = torch.Generator().manual_seed(config.seed)
    layers = {
        name: layer
        for name, layer in checkpoint.unet.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(_SIDES)
    }
    parameters: dict[str, nn.Parameter] = {}
    hypers: dict[tuple[int, int], Hyper] = {}
    for width in sorted({layer.in_features for layer in layers.values()}):
        for side in (0, 1):
            made = {
                f"unet.{width}.{side}.{name}": nn.Parameter(tensor.to(next(iter(layers.values())).weight))
                for name, tensor in first_layers(table, width, generator).items()
            }
            parameters |= made
            hypers[width, side] = _hyper(made, table)
    for name, layer in layers.items():
        _wear(layer, hypers[layer.in_features, _SIDES.index(name[-5:])])

    def export(path: Path, weights: Weights, metadata: Mapping[str, str]) -> None:
        facts: dict[str, object] = {
            "step": int(metadata["ss_steps"]),
            "name": config.file_name,
            "layer_structure": list(table.layers),
            "activation_func": table.activation,
            "is_layer_norm": table.layer_norm,
            "weight_initialization": "Normal",
            "use_dropout": False,
            "activate_output": False,
            "sd_checkpoint": metadata["ss_new_sd_model_hash"],
            "sd_checkpoint_name": metadata["ss_sd_model_name"],
        }
        tensors = {name.removeprefix("unet."): tensor for name, tensor in weights.items()}
        write_hypernetwork(path, tensors, facts)

    return Trainee(parameters=parameters, export=export, suffix=".pt")


def first_layers(table: HypernetworkConfig, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the first weights of one small network, named by their places in the sequence.

    Activations take places, too: so the field's interfaces number them.
    """
    made: dict[str, Tensor] = {}
    place, sizes = 0, [int(width * factor) for factor in table.layers]
    for number, (inside, out) in enumerate(pairwise(sizes)):
        made[f"linear.{place}.weight"] = torch.randn(out, inside, generator=generator) * 0.01
        made[f"linear.{place}.bias"] = torch.zeros(out)
        place += 1 if table.activation == "linear" or number == len(sizes) - 2 else 2
        if table.layer_norm:
            made |= {f"linear.{place}.weight": torch.ones(out), f"linear.{place}.bias": torch.zeros(out)}
            place += 1
    return made


def _hyper(parameters: Mapping[str, nn.Parameter], table: HypernetworkConfig) -> Hyper:
    tensors = list(parameters.values())
    pairs = tuple(zip(tensors[::2], tensors[1::2], strict=True))
    return Hyper(layers=pairs, activation=table.activation, last_too=False)


def _wear(layer: nn.Linear, hyper: Hyper) -> None:
    original: Callable[[Tensor], Tensor] = layer.forward
    layer.forward = lambda x: original(hyper(x, 1.0))  # type: ignore[assignment,method-assign]
