"""From a configuration to a trained checkpoint: build the method, resume, iterate, write the result."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
from sfumato.train.loop import STATE, Task, TrainStep, fingerprint, train
from sfumato.train.state import TrainState
from sfumato.train.text import TextTask, padded_ids
from sfumato.weights.files import file_sha256, read_header
from sfumato.weights.load import load_networks, load_vae, save_checkpoint
from sfumato.weights.specs import ModelSpec

MODEL = "model.safetensors"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NORMALISING_PICTURES = 1024

Provenance = Mapping[str, str]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A task, and how its result is written from the averaged float32 weights, by the task's names."""

    task: Task
    export: Callable[[Path, Weights, Provenance], None]
    provenance: Provenance  # of what the run started from


def run(config: TrainConfig, *, resume: bool = False) -> Iterator[TrainStep]:
    """Train as configured and write `model.safetensors` into the output folder at every save.

    Args:
        config: the run.
        resume: go on from the folder's saved state; without it a folder that holds one is refused.

    Yields:
        A report after each step; stop iterating to stop. The last save is complete whatever happens.

    Raises:
        TrainingError: data, configuration or arithmetic; a state that belongs to another configuration.
        WeightsError, ModelNotFoundError: a checkpoint that the run starts from.
    """
    state_file = config.output / STATE
    if state_file.exists() and not resume:
        raise TrainingError(f"{state_file} exists: resume with --resume, or choose another output folder")
    if resume and not state_file.exists():
        raise TrainingError(f"nothing to resume: {state_file} does not exist; leave --resume out to start")
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)  # fresh weights only; every later draw comes from (seed, step)
    method = METHODS[config.method](config)
    state = TrainState(method.task.parameters(), config.optimiser, config.ema_decay)
    if resume:
        state.load(state_file, fingerprint(config))
    for step in train(method.task, config, state):
        if step.saved:
            made = dict(method.provenance) | _provenance(config, state.step, step.parts)
            method.export(config.output / MODEL, state.averaged(), made)
        yield step


def _provenance(config: TrainConfig, step: int, parts: dict[str, float]) -> dict[str, str]:
    fields = config.model_dump(mode="json", exclude={"output", "threads", "provenance"})
    return config.provenance | {
        f"{config.method}.config": json.dumps(fields, sort_keys=True),
        f"{config.method}.steps": str(step),
        f"{config.method}.last": json.dumps({name: round(value, 5) for name, value in parts.items()}),
        "sfumato": __version__,
    }


def _autoencoder(config: TrainConfig) -> Method:
    assert config.autoencoder is not None
    assert config.data is not None
    table = config.autoencoder
    network = (
        load_vae(table.start, device="cpu", dtype=torch.float32) if table.start else build_autoencoder(table)
    )
    data = open_pictures(config.data.folder)
    _prepare(network, config)

    def export(path: Path, weights: Weights, provenance: Provenance) -> None:
        made = build_autoencoder(table)
        made.load_state_dict(network.state_dict() | dict(weights))
        if not table.freeze_encoder:  # else the latents must stay what a diffusion model learned
            rows = np.linspace(0, len(data) - 1, min(len(data), NORMALISING_PICTURES)).astype(int)
            normalise_latents(made, encode_all(made, replace(data, pictures=data.pictures[rows])))
        spec = ModelSpec(family=path.parent.name, vae=made.config, native_size=data.pictures.shape[1])
        save_checkpoint(path, spec=spec, vae=made, provenance=provenance)

    return Method(task=AutoencoderTask(config, network, data), export=export, provenance={})


def _text(config: TrainConfig) -> Method:
    assert config.text is not None
    table = config.text
    spec, parts = load_networks(table.base, ["vae"], device="cpu", dtype=None)
    try:
        sentences = table.sentences.read_text("utf-8").splitlines()
        vectors = np.load(table.vectors, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot read the sentences or their vectors: {error}") from error
    if vectors.ndim != 2 or len(vectors) != len(sentences) or len(sentences) < config.batch_size:
        raise TrainingError(
            f"{len(sentences)} sentences and vectors of shape {vectors.shape}: expected one row a sentence, "
            f"and at least batch_size={config.batch_size} of them"
        )
    shape = CLIPTextConfig(width=table.width, layers=table.layers, heads=table.heads)
    network = CLIPText(shape)
    ids = torch.tensor([_encode(Tokenizer.load(), shape.max_length)(text) for text in sentences])
    _prepare(network, config)

    def export(path: Path, weights: Weights, provenance: Provenance) -> None:
        made = replace(spec, family=path.parent.name, text=shape)
        text = _of("text", weights)
        save_checkpoint(path, spec=made, vae=parts["vae"], text=text, provenance=provenance)

    task = TextTask(config, network, ids, vectors)
    return Method(task=task, export=export, provenance=_told(table.base))


def _diffusion(config: TrainConfig) -> Method:
    assert config.diffusion is not None
    assert config.data is not None
    table = config.diffusion
    spec, parts = load_networks(table.base, ["vae", "text"], device="cpu", dtype=torch.float32)
    vae, text = parts["vae"], parts["text"]
    assert isinstance(vae, AutoencoderKL)
    assert isinstance(text, CLIPText)
    fields = table.unet.model_dump() | {
        "in_channels": spec.vae.latent_channels,
        "out_channels": spec.vae.latent_channels,
        "context_dim": spec.text.width,
    }
    shape = UNetConfig(**fields)
    unet: nn.Module = UNet(shape)
    if table.start:
        started, networks = load_networks(table.start, ["unet"], device="cpu", dtype=torch.float32)
        unet = networks["unet"]
        if started.unet != shape:
            raise TrainingError(f"{table.start} holds a U-Net of another shape: {started.unet}")
    assert isinstance(unet, UNet)
    data = open_pictures(config.data.folder)
    captions = CaptionTable(data, _encode(Tokenizer.load(), spec.text.max_length), table.prompts)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    latents = cached_latents(vae, data, config.output / "cache", file_sha256(table.base))
    _prepare(unet, config)
    made = replace(spec, family=config.output.name, unet=shape, prediction=table.prediction)

    def export(path: Path, weights: Weights, provenance: Provenance) -> None:
        save_checkpoint(
            path,
            spec=made,
            unet=_of("unet", weights),
            vae=vae,
            text=_of("text", weights) or text,
            provenance=provenance,
            dtype=torch.float16,
        )

    def show(images: Tensor) -> Tensor:
        return vae.decode(images / vae.config.scale_factor)

    task = DiffusionTask(config, unet, text, latents, captions, show)
    return Method(task=task, export=export, provenance=_told(table.base))


def _of(network: str, weights: Weights) -> dict[str, Tensor]:
    prefix = f"{network}."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def _told(path: Path) -> Provenance:
    """Read what a file of ours says of its making, to be carried on."""
    told = json.loads(read_header(path).metadata.get("sfumato", "{}")).get("provenance", {})
    return {str(name): str(value) for name, value in told.items()}


def _prepare(network: nn.Module, config: TrainConfig) -> None:
    network.requires_grad_(True).train()
    network.to(DTYPES[config.precision])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs


def _encode(tokenizer: Tokenizer, length: int) -> Callable[[str], list[int]]:
    return lambda text: padded_ids(tokenizer.encode(text), length, START_ID, END_ID)


METHODS: Mapping[str, Callable[[TrainConfig], Method]] = {
    "autoencoder": _autoencoder,
    "text": _text,
    "diffusion": _diffusion,
}
