"""From a configuration to a trained checkpoint: build the method, resume, iterate, write the result."""

import copy
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sfumato import __version__
from sfumato.errors import TrainingError
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline.models import DTYPES, find_checkpoint
from sfumato.text.tokenizer import END_ID, START_ID, Tokenizer
from sfumato.train import report
from sfumato.train.autoencoder import AutoencoderTask, build_autoencoder, encode_all, normalise_latents
from sfumato.train.catalogue import Scanned
from sfumato.train.config import TUNING, TrainConfig
from sfumato.train.data import PictureSet, open_pictures, require_sides
from sfumato.train.diffusion import CaptionTable, DiffusionTask, cached_latents
from sfumato.train.loop import STATE, TrainStep, fingerprint, train
from sfumato.train.method import Method, Provenance, Weights, of_network
from sfumato.train.state import TrainState
from sfumato.train.text import TextTask, padded_ids
from sfumato.train.tuning import tuning
from sfumato.weights.files import file_sha256
from sfumato.weights.folders import weights_sha256
from sfumato.weights.info import describe
from sfumato.weights.load import load_networks, load_vae, save_checkpoint
from sfumato.weights.specs import ModelSpec

NORMALISING_PICTURES = 1024


def run(config: TrainConfig, *, models: Path, resume: bool = False) -> Iterator[TrainStep | Scanned]:
    """Train as configured and write the result into the output folder at every save.

    Args:
        config: the run.
        models: the folder where names of checkpoints are looked up.
        resume: go on from the folder's saved state; without it a folder that holds one is refused.

    Yields:
        Pictures as they are looked through, where a method does that; then a report after each step. Stop
        iterating to stop. The last save is complete whatever happens.

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
    made = METHODS[config.method](config, models)
    method = made if isinstance(made, Method) else (yield from made)
    mark = fingerprint(config, method.inputs)
    state = TrainState(method.task.parameters(), config.optimiser, config.ema_decay, _factors(config))

    def export(parts: Mapping[str, float]) -> None:
        made = dict(method.provenance) | _provenance(config, state.step, parts)
        method.export(config.output / method.file, state.averaged(), made)

    def save(parts: Mapping[str, float]) -> None:
        export(parts)  # first: a run that is killed here does these steps again, and no model is older
        state.save(state_file, mark)

    if resume:
        state.load(state_file, mark)
        if state.step >= config.steps:  # nothing is left to do but to write the result
            export(report.parts_at(config.output, state.step))
    yield from train(method.task, config, state, save)


def _factors(config: TrainConfig) -> dict[str, float]:
    rate = config.optimiser.text_rate
    return {} if rate is None else {"text": rate / config.optimiser.rate}


def _provenance(config: TrainConfig, step: int, parts: Mapping[str, float]) -> dict[str, str]:
    fields = config.model_dump(mode="json", exclude={"output", "threads", "provenance"})
    return config.provenance | {
        f"{config.method}.config": json.dumps(fields, sort_keys=True),
        f"{config.method}.steps": str(step),
        f"{config.method}.last": json.dumps({name: round(value, 5) for name, value in parts.items()}),
        "sfumato": __version__,
    }


def _autoencoder(config: TrainConfig, models: Path) -> Method:
    assert config.autoencoder is not None
    assert config.data is not None
    table = config.autoencoder
    network, start = build_autoencoder(table), _found(table.start, models)
    if start:
        shape = network.config
        network = load_vae(start, device="cpu", dtype=torch.float32)
        if replace(network.config, scale_factor=shape.scale_factor) != shape:
            raise TrainingError(f"{start} holds an autoencoder of another shape: {network.config}")
    data = open_pictures(config.data.folder)
    require_sides(data, config.data, network.config.reduction)
    _prepare(network, config)

    def export(path: Path, weights: Weights, provenance: Provenance) -> None:
        made = build_autoencoder(table)
        made.load_state_dict(network.state_dict() | dict(weights))
        if not table.freeze_encoder:  # else the latents must stay what a diffusion model learned
            rows = np.linspace(0, len(data) - 1, min(len(data), NORMALISING_PICTURES)).astype(int)
            normalise_latents(made, encode_all(made, replace(data, pictures=data.pictures[rows])))
        spec = ModelSpec(family=path.parent.name, vae=made.config, native_size=data.pictures.shape[1])
        save_checkpoint(path, spec=spec, vae=made, provenance=provenance)

    task = AutoencoderTask(config, network, data)
    inputs = _data_hashes(data) | _hashes({"autoencoder.start": start})
    return Method(task=task, export=export, provenance={}, inputs=inputs)


def _text(config: TrainConfig, models: Path) -> Method:
    assert config.text is not None
    table = config.text
    base, start = find_checkpoint(str(table.base), models), _found(table.start, models)
    spec, parts = load_networks(base, ["vae"], device="cpu", dtype=None)
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
    shape = table.network()
    network: nn.Module = CLIPText(shape)
    if start:
        started, networks = load_networks(start, ["text"], device="cpu", dtype=torch.float32)
        network = networks["text"]
        if started.text != shape:
            raise TrainingError(f"{start} holds a text encoder of another shape: {started.text}")
    assert isinstance(network, CLIPText)
    ids = torch.tensor([_encode(Tokenizer.load(), shape.max_length)(text) for text in sentences])
    _prepare(network, config)

    def export(path: Path, weights: Weights, provenance: Provenance) -> None:
        made = replace(spec, family=path.parent.name, text=shape)
        text = of_network("text", weights)
        save_checkpoint(path, spec=made, vae=parts["vae"], text=text, provenance=provenance)

    task = TextTask(config, network, ids, vectors)
    inputs = {"text.sentences": file_sha256(table.sentences), "text.vectors": file_sha256(table.vectors)}
    inputs |= _hashes({"text.base": base, "text.start": start})
    return Method(task=task, export=export, provenance=_told(base), inputs=inputs)


def _diffusion(config: TrainConfig, models: Path) -> Method:
    assert config.diffusion is not None
    assert config.data is not None
    table = config.diffusion
    base, start = find_checkpoint(str(table.base), models), _found(table.start, models)
    spec, parts = load_networks(base, ["vae", "text"], device="cpu", dtype=torch.float32)
    vae, text = parts["vae"], parts["text"]
    assert isinstance(vae, AutoencoderKL)
    assert isinstance(text, CLIPText)
    shape = table.unet.network(latent_channels=spec.vae.latent_channels, context_dim=spec.text.width)
    unet: nn.Module = UNet(shape)
    if start:
        started, networks = load_networks(start, ["unet"], device="cpu", dtype=torch.float32)
        unet = networks["unet"]
        if "unet" not in table.model_fields_set:
            shape = started.unet
        if started.unet != shape:
            raise TrainingError(f"{start} holds a U-Net of another shape: {started.unet}")
    assert isinstance(unet, UNet)
    data = open_pictures(config.data.folder)
    require_sides(data, config.data, vae.config.reduction)
    captions = CaptionTable(data, _encode(Tokenizer.load(), spec.text.max_length), table.prompts)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    inputs = _data_hashes(data) | _hashes({"diffusion.base": base, "diffusion.start": start})
    encoder = copy.deepcopy(vae).to(DTYPES[config.precision])
    latents = cached_latents(encoder, data, config.output / "cache", inputs["diffusion.base"])
    _prepare(unet, config)
    made = replace(spec, family=config.output.name, unet=shape, prediction=table.prediction)

    def export(path: Path, weights: Weights, provenance: Provenance) -> None:
        save_checkpoint(
            path,
            spec=made,
            unet=of_network("unet", weights),
            vae=vae,
            text=of_network("text", weights) or text,
            provenance=provenance,
            dtype=torch.float16,
        )

    def show(images: Tensor) -> Tensor:
        return vae.decode(images / vae.config.scale_factor)

    task = DiffusionTask(config, unet, text, latents, captions, show)
    return Method(task=task, export=export, provenance=_told(base), inputs=inputs)


def _found(given: Path | None, models: Path) -> Path | None:
    return None if given is None else find_checkpoint(str(given), models)


def _hashes(checkpoints: Mapping[str, Path | None]) -> dict[str, str]:
    return {name: weights_sha256(path)[:16] for name, path in checkpoints.items() if path is not None}


def _data_hashes(data: PictureSet) -> dict[str, str]:
    return {f"data.{name}": value for name, value in data.hashes().items()}


def _told(path: Path) -> Provenance:
    """Read what a checkpoint of ours says of its making, to be carried on."""
    told = json.loads(describe(path).metadata.get("sfumato", "{}")).get("provenance", {})
    return {str(name): str(value) for name, value in told.items()}


def _prepare(network: nn.Module, config: TrainConfig) -> None:
    network.requires_grad_(True).train()
    network.to(DTYPES[config.precision])
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs


def _encode(tokenizer: Tokenizer, length: int) -> Callable[[str], list[int]]:
    return lambda text: padded_ids(tokenizer.encode(text), length, START_ID, END_ID)


METHODS: Mapping[str, Callable[[TrainConfig, Path], Method | Generator[Scanned, None, Method]]] = {
    "autoencoder": _autoencoder,
    "text": _text,
    "diffusion": _diffusion,
    **dict.fromkeys(TUNING, tuning),
}
