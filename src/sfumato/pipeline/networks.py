"""The denoiser of a pass: its network with what that is told and shown, guided, and relieved on the way.

Shape letters: B pictures of a batch, C latent channels, E further channels, H W latent size (pixels / 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.denoisers import PairDenoiser, switch
from sfumato.diffusion.guidance import Guided, GuidedEdit, early_calls, guide, guide_edit
from sfumato.pipeline.conditioning import Script
from sfumato.pipeline.conditions import further_channels, kind_of
from sfumato.pipeline.models import Models
from sfumato.pipeline.opening import Opening
from sfumato.pipeline.plan import Pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What the networks of a pass see beside the latents; None = nothing."""

    own: Tensor | None = None  # (1,E,H,W)
    refiner: Tensor | None = None  # (1,E,H,W)


def shown(walked: Pass, opening: Opening) -> Shown:
    """Prepare what the networks of a pass see beside the latents, once for all batches.

    Raises OutputError: the depth map cannot be read.
    """

    def channels(models: Models) -> Tensor | None:
        return further_channels(models.spec, walked.request, models.vae, opening.picture, opening.mask)

    relief = walked.relief
    return Shown(own=channels(walked.models), refiner=None if relief is None else channels(relief.models))


def guided(walked: Pass, beside: Shown) -> PairDenoiser:
    """Make the denoiser of one run. It counts its calls: make a new one for each batch."""
    first = _guided(walked, walked.models, walked.script, beside.own)
    relief = walked.relief
    if relief is None:
        return first

    def second(made: int) -> PairDenoiser:
        taking_over = _guided(walked, relief.models, relief.script, beside.refiner)
        taking_over.calls = made  # prompts that change on the way go on from there
        return taking_over

    return switch(first, second, relief.at_sigma)


def _guided(walked: Pass, models: Models, script: Script, channels: Tensor | None) -> Guided | GuidedEdit:
    sampling, sampler, wraps = walked.request.sampling, walked.sampler, walked.request.canvas.tiling
    scale = sampling.guidance * sampler.guidance_share
    denoiser: Guided | GuidedEdit
    worn = script.worn

    def network(x: Tensor, timesteps: Tensor, context: Tensor, image: Tensor | None = channels) -> Tensor:
        if image is not None:
            x = torch.cat([x, image.expand(len(x), -1, -1, -1)], 1)  # (B,C+E,H,W)
        uses = worn.at(max(denoiser.calls - 1, 0))  # the denoiser has counted this call already
        return models.predict(x, timesteps, context, wraps=wraps, uses=uses, on_the_fly=worn.on_the_fly)

    denoise = sampler.denoiser(network, models.levels.to(models.device), models.spec.prediction)
    if kind_of(models.spec) == "edit":
        assert channels is not None
        denoiser = guide_edit(denoise, script.contexts, channels, scale, sampling.image_guidance)
        return denoiser
    denoiser = guide(
        denoise,
        script.contexts,
        scale,
        sampling.guidance_rescale,
        negative_min_sigma=sampling.negative_min_sigma,
        skip_early=early_calls(sampling.skip_early_guidance, sampling.steps * sampler.calls_per_step),
        keep_uncond=sampler.uses_uncond,
    )
    return denoiser
