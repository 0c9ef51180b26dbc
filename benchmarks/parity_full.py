"""Every network of MODELS at full size against diffusers and transformers: random weights, float32.

    python -m benchmarks.parity_full    # about 6 GB, a minute; writes benchmarks/results/parity_full.json

Each row gives ‖a - b‖ / ‖b‖ of our output against the peer's. Both hold the same storage, so the weights
are in memory once. The exit code is 1 when a row is above the tolerance.
"""

import gc
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from benchmarks.peers import final_norm, peer_text, peer_unet, peer_vae, randomised, relative_error
from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.weights.specs import MODELS

TOLERANCE = 1e-5
RESULTS = Path(__file__).parent / "results" / "parity_full.json"
LATENT_SIDE = 64

Row = dict[str, str | int | float]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def row(network: str, module: torch.nn.Module, ours: Tensor, theirs: Tensor) -> Row:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    error = relative_error(ours, theirs)
    print(f"{network:40} {parameters:>12,} {error:10.2e}", flush=True)
    return {"network": network, "parameters": parameters, "relative_error": error}


def unet_rows(name: str, config: UNetConfig) -> Iterator[Row]:
    ours = randomised(UNet(config), 0)
    theirs = peer_unet(ours)
    x = noise(1, config.in_channels, LATENT_SIDE, LATENT_SIDE, seed=1)
    context, timesteps = noise(1, 77, config.context_dim, seed=2), torch.tensor([741])
    yield row(name, ours, ours(x, timesteps, context), theirs(x, timesteps, context).sample)


def vae_rows(name: str, config: VAEConfig) -> Iterator[Row]:
    ours = randomised(AutoencoderKL(config), 0)
    theirs = peer_vae(ours)
    image, latents = noise(1, 3, 256, 256, seed=1).clamp(-1, 1), noise(1, 4, 32, 32, seed=2)
    mean, logvar = ours.encode(image)
    wanted = theirs.encode(image).latent_dist
    yield row(f"{name}: encode, mean", ours, mean, wanted.mean)
    yield row(f"{name}: encode, log-variance", ours, logvar, wanted.logvar)
    yield row(f"{name}: decode", ours, ours.decode(latents), theirs.decode(latents).sample)


def text_rows(name: str, config: CLIPTextConfig) -> Iterator[Row]:
    penultimate = config.skip == "penultimate"
    ours = randomised(CLIPText(config), 0)
    theirs = peer_text(ours, extra_layers=int(penultimate))
    ids = torch.randint(0, config.vocab_size, (2, 77), generator=torch.Generator().manual_seed(1))
    states = theirs(ids, output_hidden_states=True)
    last_but_one = final_norm(theirs)(states.hidden_states[-2])
    if penultimate:
        yield row(f"{name}: penultimate layer", ours, ours(ids), last_but_one)
    else:
        yield row(f"{name}: clip skip 1", ours, ours(ids), states.last_hidden_state)
        yield row(f"{name}: clip skip 2", ours, ours(ids, 2), last_but_one)


def distinct(part: str) -> dict[Any, str]:
    """Name each configuration of a part ("unet", "vae", "text") by the first family that has it."""
    names: dict[Any, str] = {}
    for family, spec in MODELS.items():
        names.setdefault(getattr(spec, part), f"{family} {part}")
    return names


@torch.no_grad()
def main() -> int:
    print(f"{'network':40} {'parameters':>12} {'error':>10}")
    rows: list[Row] = []
    for part, compare in (("text", text_rows), ("vae", vae_rows), ("unet", unet_rows)):
        for config, name in distinct(part).items():
            rows += compare(name, config)
            gc.collect()
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    report = {"tolerance": TOLERANCE, "dtype": "float32", "machine": platform.machine(), "versions": versions}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report | {"rows": rows}, indent=2) + "\n", "utf-8")
    return int(any(float(entry["relative_error"]) > TOLERANCE for entry in rows))


if __name__ == "__main__":
    sys.exit(main())
