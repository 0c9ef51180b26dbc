"""Pictures of fixed prompts on fixed noise, to see what has been learned.

Shape letters: B prompts, C latent channels, H W latent size, T tokens, E text width.
"""

import torch
from torch import Tensor

from sfumato.diffusion.denoisers import parameterise
from sfumato.diffusion.guidance import Contexts, Part, guide
from sfumato.diffusion.samplers_dpm import sample_dpmpp_2m
from sfumato.diffusion.schedules import NoiseLevels, find_schedule
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.types import Prediction


@torch.no_grad()
def draw_latents(
    unet: UNet,
    levels: NoiseLevels,
    prediction: Prediction,
    contexts: Contexts,
    noise: Tensor,
    *,
    guidance: float,
    steps: int,
) -> Tensor:
    """Draw latents of unit variance.

    Args:
        unet: in any dtype and on any device.
        levels: its noise levels.
        prediction: what it predicts.
        contexts: of B prompts and their negatives, (B,T,E) each, on its device.
        noise: standard normal (B,C,H,W).
        guidance: scale.
        steps: of DPM++ 2M on Karras' schedule.

    Returns:
        (B,C,H,W) float32, on its device.
    """
    parameter = next(unet.parameters())

    def predict(x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        x = x.to(parameter.dtype).contiguous(memory_format=torch.channels_last)
        out: Tensor = unet(x, timesteps, context.to(parameter.dtype))
        return out

    levels = levels.to(parameter.device)
    denoise = guide(parameterise(predict, levels, prediction), contexts, guidance)
    sigmas = find_schedule("Karras").sigmas(levels, steps).float().to(parameter.device)
    *_, latents = sample_dpmpp_2m(denoise, noise.to(parameter.device) * sigmas[0], sigmas)
    return latents


def contexts_of(positive: Tensor, negative: Tensor) -> Contexts:
    """Pair prompts with their negatives, (B,T,E) each."""
    return Contexts(positive=(Part(context=positive),), negative=negative)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Turn latents of unit variance into pictures (B,3,8H,8W) in [-1, 1], float32."""
    dtype = next(vae.parameters()).dtype
    images = [vae.decode((each / vae.config.scale_factor).to(dtype)).float() for each in latents[:, None]]
    return torch.cat(images)
