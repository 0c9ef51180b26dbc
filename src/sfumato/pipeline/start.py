"""Before the first step: every open choice of a request settled, and the noise from which it starts.

Shape letters: B pictures of a batch, C latent channels, H W latent size (pixels / 8), N steps.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.diffusion.noise import ImageNoise, image_seeds
from sfumato.diffusion.samplers import SamplerSpec, resolve
from sfumato.diffusion.schedules import NoiseLevels, sd_noise_levels
from sfumato.errors import RequestError
from sfumato.types import Request
from sfumato.weights.specs import ModelSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A request with nothing left open."""

    request: Request  # names as in the tables, size and first seed set; still of all its pictures
    sampler: SamplerSpec
    levels: NoiseLevels
    sigmas: Tensor  # (N+1,) float64 on the CPU, falling
    shape: tuple[int, int, int]  # (C,H,W) of one picture's latents
    seeds: tuple[int, ...]  # one per picture

    @property
    def calls(self) -> int:
        """Denoiser calls over which prompt editing lays its timeline."""
        return self.request.sampling.steps * self.sampler.calls_per_step

    def batches(self) -> list[tuple[int, ...]]:
        """The pictures' seeds, batch by batch."""
        size = self.request.canvas.batch_size
        return [self.seeds[k : k + size] for k in range(0, len(self.seeds), size)]

    def picture(self, index: int) -> Request:
        """The request that makes picture `index` (from 0) alone."""
        canvas = replace(self.request.canvas, seed=self.seeds[index], batch_size=1, batch_count=1)
        return replace(self.request, canvas=canvas)


def make_plan(request: Request, spec: ModelSpec, checkpoint: str, vae: str | None) -> Plan:
    """Settle names, size, seed and noise levels.

    Args:
        request: what was asked for.
        spec: of the checkpoint that answers.
        checkpoint: its name, as it will stand in the pictures.
        vae: name of another autoencoder in use, None for the checkpoint's own.

    Raises:
        RequestError: unknown sampler or schedule, more steps than the model has levels, a size or a
            checkpoint that cannot be used for text to image.
    """
    if spec.unet.in_channels != spec.vae.latent_channels:
        raise RequestError(
            f"{checkpoint} takes a picture beside the text ({spec.family}, {spec.unet.in_channels} input "
            f"channels); choose a checkpoint with {spec.vae.latent_channels}"
        )
    sampler, schedule = resolve(request.sampling.sampler, request.sampling.schedule)
    levels = sd_noise_levels(zero_snr=spec.zero_terminal_snr)
    sigmas = schedule.sigmas(levels, request.sampling.steps, discard_penultimate=sampler.discards_penultimate)
    width = request.canvas.width or spec.native_size
    height = request.canvas.height or spec.native_size
    seed = draw_seed() if request.canvas.seed < 0 else request.canvas.seed
    resolved = replace(
        request,
        sampling=replace(request.sampling, sampler=sampler.name, schedule=schedule.name),
        canvas=replace(request.canvas, width=width, height=height, seed=seed),
        model=replace(request.model, checkpoint=checkpoint, vae=vae),
    )
    return Plan(
        request=resolved,
        sampler=sampler,
        levels=levels,
        sigmas=sigmas,
        shape=latent_shape(spec, width, height),
        seeds=image_seeds(seed, request.canvas.batch_size * request.canvas.batch_count),
    )


def draw_seed() -> int:
    """A seed nobody chose: 0 to 2^32 - 3, the range of the field's interfaces."""
    return secrets.randbelow(2**32 - 2)


def latent_shape(spec: ModelSpec, width: int, height: int) -> tuple[int, int, int]:
    """(C,H,W) of the latents of one picture of `width` × `height` pixels.

    Raises RequestError: a side is no multiple of the autoencoder's reduction.
    """
    f = spec.vae.reduction
    for name, side in (("width", width), ("height", height)):
        if side % f:
            raise RequestError(f"{name}={side} is not a multiple of {f}, as this checkpoint needs")
    return spec.vae.latent_channels, height // f, width // f


def start_latents(plan: Plan, seeds: Sequence[int], device: torch.device) -> tuple[Tensor, ImageNoise]:
    """The noise a batch starts from, scaled to the first level, and the sequence it was drawn from.

    Args:
        plan: the settled request.
        seeds: of this batch's pictures.
        device: where the network is; noise is drawn on the CPU, the same for every device.

    Returns:
        Latents (B,C,H,W) float32, and the pictures' noise from its second draw on.
    """
    noise = ImageNoise(seeds, plan.shape, plan.request.canvas.noise_source)
    scale = plan.sampler.start_scale(float(plan.sigmas[0]))
    return noise.draw().to(device) * scale, noise
