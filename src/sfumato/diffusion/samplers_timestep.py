"""Samplers on timesteps of their own: DDIM, its CFG++, PLMS and UniPC.

Their papers scale latents by sqrt(alpha_bar); here as everywhere they are clean + sigma · noise, which is the
same divided by that factor. `samplers` multiplies it back where others see the latents.

Shape letters: B pictures, C latent channels, H W latent size, N steps.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sfumato.diffusion.denoisers import Denoiser, PairDenoiser
from sfumato.diffusion.noise import NoiseSampler
from sfumato.diffusion.sampler_steps import ancestral, filled, levels_of
from sfumato.diffusion.samplers_k import sample_euler_ancestral


def sample_ddim(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float
) -> Iterator[Tensor]:
    """Step as DDIM does; beside levels, start and default eta this is the Euler ancestral step.

    With x divided by sqrt(alpha_bar), equation 12 reads x' = clean + sqrt(sigma'^2 - up^2) eps + up z, and
    equation 16 up^2 = eta^2 sigma'^2 (sigma^2 - sigma'^2) / sigma^2.

    Source: Song et al. 2020 (arXiv:2010.02502), equations 12 and 16. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), DDIM's own divided by sqrt(alpha_bar): starts of pure noise have
            standard deviation sqrt(sigmas[0]^2 + 1).
        sigmas: (N+1,) noise levels, falling.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = deterministic.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    return sample_euler_ancestral(denoise, x, sigmas, noise, eta=eta)


@torch.no_grad()
def sample_ddim_cfgpp(
    denoise: PairDenoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float
) -> Iterator[Tensor]:
    """Go to the guided estimate, and away from it along the noise that the negative prompt sees.

    Source: Chung et al. 2024 (arXiv:2406.08070), Algorithm 2; eta as in `sample_ddim`. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents, with a guidance scale between 0 and 1, and keeps the negative
            prompt's estimate in its attribute `uncond`.
        x: starting latents (B,C,H,W) as for `sample_ddim`.
        sigmas: (N+1,) noise levels, falling.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = deterministic.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        clean = denoise(x, filled(x, sigma))
        assert denoise.uncond is not None, "the denoiser keeps no estimate for the negative prompt"
        down, up = ancestral(sigma, sigma_next, eta)
        x = clean + down * (x - denoise.uncond) / sigma
        if up > 0:
            x = x + up * noise(sigma, sigma_next).to(x)
        yield x


@torch.no_grad()
def sample_plms(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    """Step along an extrapolation of the last four noise estimates; the first step averages its two ends.

    Source: Liu et al. 2022 (arXiv:2202.09778), equation 12, started by a step of Heun's instead of
    Runge-Kutta, as in the released latent diffusion code. N + 1 calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W) as for `sample_ddim`.
        sigmas: (N+1,) noise levels, falling; equal steps in time for the paper's order.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    weights = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
    slopes: list[Tensor] = []  # noise estimates, newest first
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        slope = (x - denoise(x, filled(x, sigma))) / sigma
        ahead = slope
        if slopes:
            both = zip(weights[len(slopes)], [slope, *slopes], strict=True)
            ahead = torch.stack([weight * each for weight, each in both]).sum(0)
        elif sigma_next > 0:
            x_next = x + (sigma_next - sigma) * slope
            ahead = (slope + (x_next - denoise(x_next, filled(x, sigma_next))) / sigma_next) / 2
        x = x + (sigma_next - sigma) * ahead
        slopes = [slope, *slopes[:2]]
        yield x


def plms_counts(levels: Sequence[float]) -> tuple[int, int]:
    """Count the steps and calls of `sample_plms`.

    Source: own.

    Args:
        levels: N + 1 noise levels, falling.
    """
    steps = len(levels) - 1
    return steps, steps + (steps > 0 and levels[1] > 0)


@torch.no_grad()
def sample_unipc(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    unipc_variant: Literal["bh1", "bh2", "vary_coeff"],
    unipc_order: int,
    unipc_lower_order_final: bool,
) -> Iterator[Tensor]:
    """Predict with the last estimates, then correct with the new one, which the next step uses again.

    Source: Zhao et al. 2023 (arXiv:2302.04867), Algorithms 5 to 8, predicting the clean latents. N calls of
    `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W) as for `sample_ddim`.
        sigmas: (N+1,) noise levels, falling, not to 0.
        unipc_variant: B(h) = h, B(h) = e^h - 1, or coefficients that match every power separately.
        unipc_order: estimates used, at most; no more than there are steps.
        unipc_lower_order_final: use fewer towards the end, where few steps are left.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    levels = levels_of(sigmas)
    steps = len(levels) - 1
    most = min(unipc_order, steps)
    past: list[tuple[Tensor, float]] = []  # estimates and their levels, newest first
    if steps > 0:
        past = [(denoise(x, filled(x, levels[0])), levels[0])]
    for i, sigma_next in enumerate(levels[1:], 1):
        order = min(most, i) if i < most or not unipc_lower_order_final else min(most, steps + 1 - i)
        start, used = x, past[:order]
        x = unipc_step(start, used, sigma_next, None, unipc_variant)
        if i < steps:
            clean = denoise(x, filled(x, sigma_next))
            x = unipc_step(start, used, sigma_next, clean, unipc_variant)
            past = [(clean, sigma_next), *past][:most]
        yield x


def unipc_step(
    x: Tensor,
    past: list[tuple[Tensor, float]],
    sigma_next: float,
    clean_next: Tensor | None,
    variant: Literal["bh1", "bh2", "vary_coeff"],
) -> Tensor:
    """Integrate the polynomial through estimates of the clean latents from past[0]'s level to sigma_next.

    Source: Zhao et al. 2023 (arXiv:2302.04867), equations 3 and 8 (B(h) forms) and appendix C (varying
    coefficients), with data prediction.

    Args:
        x: latents (B,C,H,W) at the level of past[0].
        past: estimates (B,C,H,W) and their levels, newest first.
        sigma_next: where the step ends, above 0.
        clean_next: the estimate there, which makes this the corrector; None = the predictor.
        variant: see `sample_unipc`.
    """
    (clean, sigma), *older = past
    h = math.log(sigma / sigma_next)
    points = [math.log(sigma / level) / h for _, level in older]
    changes = [each - clean for each, _ in older]
    if clean_next is not None:
        points, changes = [*points, 1.0], [*changes, clean_next - clean]
    x = sigma_next / sigma * x - math.expm1(-h) * clean
    for weight, change in zip(_unipc_weights(points, h, variant), changes, strict=True):
        x = x + weight * change
    return x


def _unipc_weights(points: list[float], h: float, variant: str) -> list[float]:
    """By what each change counts: the integral of the polynomial that is 1 at its point and 0 at others."""
    moments = [-math.expm1(-h)]  # of the powers of time from 0 to 1, over their factorials
    for k in range(1, len(points) + 1):
        moments.append(1 / math.factorial(k) - moments[-1] / h)
    if len(points) == 1:
        whole = {"bh1": h / 2, "bh2": -math.expm1(-h) / 2, "vary_coeff": moments[1]}[variant]
        return [whole / points[0]]
    powers = np.vander(points, increasing=True).T * np.array(points)
    wanted = [math.factorial(k) * moment for k, moment in enumerate(moments[1:], 1)]
    return [float(weight) for weight in np.linalg.solve(powers, wanted)]
