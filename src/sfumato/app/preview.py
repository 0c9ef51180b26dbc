"""What latents look like, at next to no cost: colours as a linear function of the channels.

Shape letters: C latent channels, H W latent size.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.nn.vae import AutoencoderKL

SIDE = 256  # of a preview, at most


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearPreview:
    """Colours of latents: a matrix and an offset, fitted to an autoencoder."""

    matrix: Tensor  # (C,3)
    offset: Tensor  # (3,)

    @classmethod
    @torch.no_grad()
    def fit(cls, vae: AutoencoderKL, samples: int = 48, side: int = 8) -> LinearPreview:
        """Fit by least squares: what does the autoencoder make of smooth latents, on the average of a place?

        Args:
            vae: the autoencoder.
            samples: of random latents, of slowly changing values.
            side: of the latents.
        """
        generator = torch.Generator().manual_seed(0)
        channels = vae.config.latent_channels
        coarse = torch.randn(samples, channels, 2, 2, generator=generator)
        latents = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")  # (N,C,side,side)
        weight = next(vae.parameters())
        pictures = vae.decode((latents / vae.config.scale_factor).to(weight))  # (N,3,f·side,f·side)
        means = torch.nn.functional.avg_pool2d(pictures.float().cpu(), vae.config.reduction)
        known = latents.permute(0, 2, 3, 1).reshape(-1, channels)
        wanted = means.permute(0, 2, 3, 1).reshape(-1, 3)
        solved = torch.linalg.lstsq(torch.cat([known, torch.ones(len(known), 1)], 1), wanted).solution
        return cls(matrix=solved[:-1], offset=solved[-1])

    def picture(self, latents: Tensor) -> Image.Image:
        """A small picture of latents (C,H,W)."""
        small = latents.detach().float().cpu().permute(1, 2, 0)  # (H,W,C)
        colours = (small @ self.matrix + self.offset + 1).div(2).clamp(0, 1)
        image = Image.fromarray(np.rint(colours.mul(255).numpy()).astype(np.uint8))
        scale = max(1, SIDE // max(image.size))
        return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)

    def jpeg(self, latents: Tensor) -> bytes:
        """The same as a JPEG file."""
        buffer = io.BytesIO()
        self.picture(latents).save(buffer, format="JPEG", quality=80)
        return buffer.getvalue()
