"""From a configuration to a trained checkpoint: build the method, resume, iterate, write the result."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sfumato import __version__
from sfumato.errors import TrainingError
from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import AutoencoderKL
from sfumato.text.tokenizer import END_ID, START_ID, Tokenizer
from sfumato.train.autoencoder import AutoencoderTask, build_autoencoder, encode_all, normalise_latents
from sfumato.train.config import TrainConfig
from sfumato.train.data import open_pictures
from sfumato.train.diffusion import CaptionTable, DiffusionTask, cached_latents
from sfumato.train.loop import STATE, Task, TrainStep, averaged_weights, fingerprint, train
from sfumato.train.state import TrainState
from sfumato.train.text import TextTask, padded_ids
from sfumato.weights.load import Checkpoint, load_checkpoint, save_checkpoint
from sfumato.weights.specs import ModelSpec

MODEL = "model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NORMALISING_PICTURES = 2048


def run(config: TrainConfig, *, resume: bool = False) -> Iterator[TrainStep]:
    """Train as configured and write `model.safetensors` into the output folder at every save.

    Args:
        config: the run.
        resume: go on from the folder's saved state; without it a folder that holds one is refused.

    Yields:
        A report after each step; stop iterating to stop. The last save is complete whatever happens.

    Raises:
        TrainingError: data, configuration or arithmetic; a state that belongs to another configuration.
    """
    state_file = config.output / STATE
    if state_file.exists() and not resume:
        raise TrainingError(f"{state_file} exists: resume with --resume, or choose another output folder")
    if resume and not state_file.exists():
        raise TrainingError(f"nothing to resume: {state_file} does not exist")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # fresh weights only; every later draw comes from (seed, step)
    method = METHODS[config.method](config)
    state = TrainState(method.task.parameters(), config.optimiser, config.ema_decay)
    if resume:
        state.load(state_file, fingerprint(config))
    for step in train(method.task, config, state):
        if step.saved:
            with averaged_weights(state):
                method.export(config.output / MODEL, _provenance(config, state.step, step.parts))
        yield step


def _provenance(config: TrainConfig, step: int, parts: dict[str, float]) -> dict[str, str]:
    fields = config.model_dump(mode="json", exclude={"output", "threads", "provenance"})
    return config.provenance | {
        f"{config.method}.config": json.dumps(fields, sort_keys=True),
        f"{config.method}.steps": str(step),
        f"{config.method}.last": json.dumps({name: round(value, 5) for name, value in parts.items()}),
        "sfumato": __version__,
    }
