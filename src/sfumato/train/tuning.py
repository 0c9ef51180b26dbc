"""Training a checkpoint, or something small that goes with it: one loss, whatever trains.

Shape letters: B pictures, C latent channels, H W latent size, T tokens, E text width.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.diffusion import losses
from sfumato.diffusion.schedules import (
    scaled_linear_alphas_cumprod,
    sd_noise_levels,
    zero_terminal_snr,
)
from sfumato.errors import TrainingError
from sfumato.pipeline.models import DTYPES, choose_device, find_checkpoint
from sfumato.train.batches import Batch, Batches
from sfumato.train.caches import TensorStore
from sfumato.train.catalogue import Scanned
from sfumato.train.config import LossConfig, TrainConfig
from sfumato.train.dreambooth import draw_class
from sfumato.train.embedding import embedding, worded
from sfumato.train.finetune import finetune
from sfumato.train.hypernetwork import hypernetwork
from sfumato.train.latents import open_latents, vae_encoder
from sfumato.train.lora import lora
from sfumato.train.method import Method, Provenance, Trainee, Weights
from sfumato.train.preview import contexts_of, decode, draw_latents
from sfumato.train.texts import Kept, Texts
from sfumato.train.told import metadata_of
from sfumato.weights.folders import weights_sha256
from sfumato.weights.load import Checkpoint, load_checkpoint, load_vae

TRAINEES: Mapping[str, Callable[[TrainConfig, Checkpoint], Trainee]] = {
    "lora": lora,
    "embedding": embedding,
    "dreambooth": finetune,
    "finetune": finetune,
    "hypernetwork": hypernetwork,
}


class TuningTask:
    """Predict noise or velocity of latents at random noise levels (Rombach et al. 2022, equation 3)."""

    def __init__(
        self,
        config: TrainConfig,
        checkpoint: Checkpoint,
        trainee: Trainee,
        batches: Batches,
        kept: Kept | None = None,
    ) -> None:
        """Train what the trainee names in the checkpoint's networks, as they are.

        Args:
            config: the run.
            checkpoint: what trains, or what something trains for.
            trainee: what trains of it.
            batches: the data.
            kept: where encoded captions outlast the run; None = nowhere.

        Raises:
            TrainingError: a loss that this checkpoint cannot have.
        """
        assert config.model is not None
        self.config, self.checkpoint, self.trainee, self.batches = config, checkpoint, trainee, batches
        self.unet, self.spec = checkpoint.unet, checkpoint.spec
        self.unet.checkpointing = config.model.checkpointing
        self.zero_snr = config.loss.zero_terminal_snr
        if self.zero_snr is None:
            self.zero_snr = self.spec.zero_terminal_snr
        if self.zero_snr and self.spec.prediction == "eps":
            raise TrainingError(
                f"loss.zero_terminal_snr needs a checkpoint that predicts v; {checkpoint.name} predicts eps"
            )
        alphas = scaled_linear_alphas_cumprod()
        self.alphas = (zero_terminal_snr(alphas) if self.zero_snr else alphas).float()  # (1000,)
        parameter = next(self.unet.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        trained = any(name.startswith("text.") for name in trainee.parameters)
        self.texts = Texts(
            checkpoint.text, self.spec.pad_token, config.model, trainee.words, trained=trained, kept=kept
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name what is trained."""
        return dict(self.trainee.parameters)

    def loss(self, rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        """Measure the prediction for a batch at random noise levels.

        Args:
            rng: of this step: decides noise and levels.
            number: of the batch: decides pictures and prompts.

        Returns:
            The weighted loss, and "mse", which is it without weights.

        Raises:
            TrainingError: the data cannot be used.
        """
        batch = self.batches.draw(number)
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        clean = batch.latents  # (B,C,H,W)
        noise = torch.randn(clean.shape, generator=generator)
        if self.config.loss.noise_offset:
            shifts = torch.randn(*clean.shape[:2], 1, 1, generator=generator)
            noise = losses.offset_noise(noise, shifts, self.config.loss.noise_offset)
        timesteps = draw_timesteps(len(clean), self.config.loss, generator)  # (B,)
        return self.measure(batch, noise, timesteps)

    def measure(self, batch: Batch, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Measure the prediction for a batch with given noise (B,C,H,W) at given levels (B,); see `loss`."""
        prediction, table = self.spec.prediction, self.config.loss
        alpha_bar = self.alphas[timesteps]  # (B,)
        noisy = losses.add_noise(batch.latents, noise, alpha_bar).to(self.device, self.dtype)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        context = self.texts.encode(batch.prompts).to(self.dtype)  # (B,T,E)
        predicted = self.unet(noisy, timesteps.to(self.device), context)  # (B,C,H,W)
        if not predicted.requires_grad:  # no prompt has the word that is learnt: they were dropped
            predicted = predicted + 0 * sum(each.sum() for each in self.trainee.parameters.values())
        wanted = losses.target(batch.latents, noise, alpha_bar, prediction).to(self.device)
        weights = batch.weights
        if table.min_snr_gamma is not None:
            weights = weights * losses.min_snr_weights(alpha_bar, table.min_snr_gamma, prediction)
        if table.debiased:
            weights = weights * losses.debiased_weights(alpha_bar, prediction)
        mask = None if batch.mask is None else batch.mask.to(self.device)
        loss = losses.weighted_mse(predicted, wanted, weights.to(self.device), mask)
        plain = losses.weighted_mse(predicted.detach(), wanted, torch.ones_like(weights).to(self.device))
        return loss, {"mse": float(plain)}

    @torch.no_grad()
    def pictures(self) -> Tensor | None:
        """Sample the configured prompts, each on its own fixed noise: (B,3,8H,8W) in [-1, 1]."""
        table = self.config.preview
        if not table.prompts:
            return None
        vae, side = self.checkpoint.vae, self.spec.native_size
        size = [(table.height or side) // vae.config.reduction, (table.width or side) // vae.config.reduction]
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(table.prompts), self.spec.vae.latent_channels, *size, generator=generator)
        both = self.texts.encode([*table.prompts, *[table.negative] * len(table.prompts)])  # (2B,T,E)
        latents = draw_latents(
            self.unet,
            sd_noise_levels(zero_snr=bool(self.zero_snr)),
            self.spec.prediction,
            contexts_of(*both.chunk(2)),
            noise,
            guidance=table.guidance,
            steps=table.steps,
        )
        return decode(vae, latents)


def draw_timesteps(count: int, table: LossConfig, generator: torch.Generator) -> Tensor:
    """Draw noise levels, one from each of B equal parts, so that a batch sees all of them: (B,)."""
    least, most = table.timesteps
    spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timesteps = (least + spread * (most + 1 - least)).long().clamp(max=most)
    return timesteps[torch.randperm(count, generator=generator)]


class Reworded:
    """Batches whose captions are changed, as the number of the batch decides."""

    def __init__(
        self, batches: Batches, reword: Callable[[str, np.random.Generator], str], seed: int
    ) -> None:
        """Change each caption by `reword`."""
        self.batches, self.reword, self.seed = batches, reword, seed

    def __len__(self) -> int:
        return len(self.batches)

    def draw(self, number: int) -> Batch:
        """See `Batches`."""
        batch = self.batches.draw(number)
        rng = np.random.default_rng((self.seed, number, 1))
        return replace(batch, prompts=tuple(self.reword(prompt, rng) for prompt in batch.prompts))

    def hashes(self) -> Mapping[str, str]:
        """See `Batches`."""
        return self.batches.hashes()

    def metadata(self) -> Mapping[str, str]:
        """See `Batches`."""
        return self.batches.metadata()


def tuning(config: TrainConfig, models: Path) -> Generator[Scanned, None, Method]:
    """Build a method that starts from a checkpoint, and look through its pictures, a step each.

    Raises:
        TrainingError: the configuration and the checkpoint do not go together, or the data are broken.
        WeightsError, ModelNotFoundError: the checkpoint.
    """
    assert config.model is not None
    assert config.pictures is not None
    device, dtype = choose_device(config.device), DTYPES[config.precision]
    base = find_checkpoint(str(config.model.base), models)
    digest = weights_sha256(base)
    checkpoint = load_checkpoint(base, device=device, dtype=dtype, prediction=config.model.prediction)
    _require(config, checkpoint)
    checkpoint = replace(checkpoint, vae=load_vae(base, device=device, dtype=torch.float32))
    for network in (checkpoint.unet, checkpoint.vae, checkpoint.text):
        network.requires_grad_(False)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    pictures = config.pictures
    if "resolution" not in pictures.model_fields_set:
        pictures = pictures.model_copy(update={"resolution": checkpoint.spec.native_size})
    if config.method == "dreambooth":
        folder = pictures.regularisation or config.output / "class"
        pictures = pictures.model_copy(update={"regularisation": folder})
        yield from draw_class(config, checkpoint, pictures)
    encoder, cache = vae_encoder(checkpoint.vae, digest), config.output / "cache"
    batches: Batches = yield from open_latents(
        pictures,
        encoder,
        cache,
        size=config.batch_size,
        seed=config.seed,
        most_rows=config.model.max_chunks,
    )
    if config.method == "embedding":
        word, use = config.file_name, config.embedding.use
        batches = Reworded(batches, lambda caption, rng: worded(caption, word, use, rng), config.seed)
    trainee = TRAINEES[config.method](config, checkpoint)

    def export(path: Path, weights: Weights, provenance: Provenance) -> None:
        step = int(provenance[f"{config.method}.steps"])
        trainee.export(path, weights, metadata_of(config, checkpoint, digest, batches, step))

    return Method(
        task=TuningTask(config, checkpoint, trainee, batches, Kept(store=TensorStore(cache), encoder=digest)),
        export=export,
        provenance={},
        inputs={f"pictures.{name}": value for name, value in batches.hashes().items()}
        | {"model.base": digest[:16]},
        file=f"{config.file_name}{trainee.suffix}",
    )


def _require(config: TrainConfig, checkpoint: Checkpoint) -> None:
    """Refuse what does not go together. Raises TrainingError."""
    spec, name = checkpoint.spec, config.file_name
    if spec.unet.in_channels != spec.vae.latent_channels:
        raise TrainingError(
            f"{checkpoint.name} takes {spec.unet.in_channels} channels (inpainting, depth, editing); choose "
            f"a checkpoint that takes {spec.vae.latent_channels}"
        )
    if name.casefold() == checkpoint.name.casefold():
        raise TrainingError(f"the result would be called {name!r} like its base; give it another name")
    if config.optimiser.text_rate is not None and config.method in ("embedding", "hypernetwork"):
        raise TrainingError(f"method {config.method!r} trains no text encoder; leave optimiser.text_rate out")
    for side in ("width", "height"):
        value = getattr(config.preview, side)
        if value is not None and value % spec.vae.reduction:
            raise TrainingError(
                f"preview.{side}={value} is not a multiple of {spec.vae.reduction}; change it"
            )
