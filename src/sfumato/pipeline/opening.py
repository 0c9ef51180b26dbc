"""What the pictures of a request start from: nothing, a source picture, or the pass before.

Shape letters: B pictures of a batch, C latent channels, H W latent size (pixels / 8).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.masks import changed_share, keep_outside
from sfumato.diffusion.samplers import SamplerSpec
from sfumato.pipeline.latents import encode
from sfumato.pipeline.masks import PreparedMask, overlay, prepare_mask, seen_where_changed
from sfumato.pipeline.plan import Pass, Plan
from sfumato.pipeline.source import flatten, match_colors, resize, source_size
from sfumato.types import MaskedContent, SoftInpainting, Source

Extra = tuple[tuple[str, object], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Opening:
    """What a batch starts from; all of it None = pure noise."""

    clean: Tensor | None = None  # (1,C,H,W) or (B,C,H,W) of the source, on the network's device
    picture: Image | None = None  # RGB of which they are, for networks that are shown it
    mask: PreparedMask | None = None
    content: MaskedContent = "original"
    soft: SoftInpainting | None = None
    colors: Image | None = None  # whose colours the result is given
    source: Source = field(default_factory=Source)
    extra: Extra = ()  # for the infotext

    def latents(self, noise: Tensor) -> Tensor | None:
        """Clean latents (B,C,H,W) to start from, the masked part made what was asked for; None = none.

        Args:
            noise: the batch's starting noise (B,C,H,W).
        """
        if self.clean is None:
            return None
        clean = self.clean.expand_as(noise)
        if self.mask is None or self.mask.blank or self.content not in ("latent noise", "latent nothing"):
            return clean
        changes = self._changes(noise)
        return clean * (1 - changes) + (noise * changes if self.content == "latent noise" else 0)

    def start(self, sampler: SamplerSpec, noise: Tensor, sigmas: Tensor) -> Tensor:
        """Noisy latents (B,C,H,W) from which the sampler walks."""
        clean = self.latents(noise)
        if clean is None:
            return sampler.start(noise, sigmas)
        x = sampler.start(noise * self.source.noise_multiplier, sigmas, clean)
        return x + noise * self.source.extra_noise if self.source.extra_noise else x

    def guard(self, denoise: Denoiser, noise: Tensor, *, before: bool) -> Denoiser:
        """Have the denoiser leave alone what the mask does not free.

        Args:
            denoise: the denoiser.
            noise: the batch's starting noise (B,C,H,W).
            before: keep it in what the denoiser sees, not in what it gives: as samplers over timesteps do.
        """
        if self.mask is None or self.clean is None:
            return denoise
        kept = self.clean.expand_as(noise)
        return keep_outside(denoise, kept, self._changes(noise), noise if before else None, self.soft)

    def settle(self, latents: Tensor) -> Tensor:
        """Finished latents (B,C,H,W) with the source's own outside the mask, unless it is soft."""
        if self.mask is None or self.clean is None or self.soft is not None:
            return latents
        changes = self._changes(latents)
        return latents * changes + self.clean * (1 - changes)

    def finish(self, image: Image, latents: Tensor) -> Image:
        """The picture as it is handed over: its colours corrected, the source laid over it.

        Args:
            image: as decoded.
            latents: what it was decoded from (C,H,W).
        """
        if self.colors is not None:
            image = match_colors(image, self.colors)
        if self.mask is None:
            return image
        if self.soft is None:
            return overlay(image, self.mask)
        assert self.clean is not None
        changes = self._changes(latents)
        (share,) = changed_share(latents[None], self.clean, changes, self.soft)  # (H,W)
        return overlay(image, seen_where_changed(self.mask, share))

    def _changes(self, like: Tensor) -> Tensor:
        assert self.mask is not None
        return self.mask.latent_mask.to(like)  # (1,1,H,W)


def open_source(plan: Plan) -> Opening:
    """Read, resize and encode what the pictures of a plan start from.

    Raises:
        OutputError: the mask cannot be read.
        WeightsError: the autoencoder is damaged.
    """
    request, first = plan.request, plan.passes[0]
    if plan.source is None:
        return Opening(source=request.source)
    source = flatten(plan.source, request.source.background)
    width, height = request.canvas.width or 0, request.canvas.height or 0
    mode = request.source.resize_mode
    mask = None
    if request.mask.image is not None:
        wanted = replace(request.mask, round=False) if request.soft.enabled else request.mask
        mask = prepare_mask(wanted, source, width, height, mode, first.models.spec.vae.reduction)
        start = mask.picture
    elif mode == "Just resize (latent upscale)":
        start = resize(source, *source_size(source), "Just resize")
    else:
        start = resize(source, width, height, mode)
    clean = F.interpolate(image_latents(start, first), first.shape[1:], mode="bilinear")
    return Opening(
        clean=clean,
        picture=start,
        mask=mask,
        content=request.mask.content,
        soft=request.soft if request.soft.enabled else None,
        colors=start if request.source.color_correction else None,
        source=request.source,
        extra=(("Init image hash", picture_hash(plan.source)),),
    )


def image_latents(image: Image, walked: Pass) -> Tensor:
    """Latents (1,C,h,w) float32 of an RGB picture, on the device of the pass."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))[None]  # (1,8h,8w,3)
    return encode(pixels, walked.models.vae, wraps=walked.request.canvas.tiling)


def picture_hash(image: Image) -> str:
    """Ten hexadecimal digits that stand for a picture's pixels."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:10]
