"""The DPM-Solver++ family: exponential integrators of the clean latents over log sigma.

Latents are clean + sigma · noise throughout. See `samplers` for what every sampler has in common.

Shape letters: B pictures, C latent channels, H W latent size, N steps.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.noise import NoiseSampler
from sfumato.diffusion.sampler_steps import ancestral, filled, levels_of


@torch.no_grad()
def sample_dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    """Extrapolate the clean latents from the last two estimates; exact where they are linear in log sigma.

    Source: Lu et al. 2022 (arXiv:2211.01095), Algorithm 2, DPM-Solver++(2M). N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    older, h_last = None, 0.0
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        clean = denoise(x, filled(x, sigma))
        if sigma_next == 0:
            x = clean
        else:
            h = math.log(sigma / sigma_next)
            ahead = clean if older is None else clean + h / (2 * h_last) * (clean - older)
            x = sigma_next / sigma * x - math.expm1(-h) * ahead
            older, h_last = clean, h
        yield x


@torch.no_grad()
def sample_dpmpp_2s_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float, s_noise: float
) -> Iterator[Tensor]:
    """Step with the estimate at the middle (in log sigma) to below each level and add fresh noise up to it.

    Source: Lu et al. 2022 (arXiv:2211.01095), Algorithm 1 with r = 1/2; ancestral as in k-diffusion. 2N - 1
    calls of `denoise` when sigmas ends at 0.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = deterministic.
        s_noise: standard deviation of the fresh noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        down, up = ancestral(sigma, sigma_next, eta)
        clean = denoise(x, filled(x, sigma))
        if down > 0:
            middle = math.sqrt(sigma * down)
            x_middle = middle / sigma * x + (1 - middle / sigma) * clean
            clean = denoise(x_middle, filled(x, middle))
        x = down / sigma * x + (1 - down / sigma) * clean
        if up > 0:
            x = x + up * s_noise * noise(sigma, sigma_next).to(x)
        yield x


@torch.no_grad()
def sample_dpmpp_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float, s_noise: float
) -> Iterator[Tensor]:
    """Take each step with the estimate at its middle (in log sigma), adding noise on both ways.

    Source: Lu et al. 2022 (arXiv:2211.01095), Algorithm 1 with r = 1/2, made stochastic by k-diffusion's
    ancestral split of every part. 2N - 1 calls of `denoise` when sigmas ends at 0.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives the normalised increments of a Brownian path between two levels.
        eta: share of noise in [0, 1]; 0 = deterministic.
        s_noise: standard deviation of that noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """

    def part(clean: Tensor, sigma: float, sigma_next: float) -> Tensor:
        down, up = ancestral(sigma, sigma_next, eta)
        ratio = down / sigma
        moved = ratio * x + (1 - ratio) * clean
        return moved + up * s_noise * noise(sigma, sigma_next).to(x) if up > 0 else moved

    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        clean = denoise(x, filled(x, sigma))
        if sigma_next == 0:
            x = clean
        else:
            middle = math.sqrt(sigma * sigma_next)
            x_middle = part(clean, sigma, middle)
            x = part(denoise(x_middle, filled(x, middle)), sigma, sigma_next)
        yield x


@torch.no_grad()
def sample_dpmpp_2m_sde(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSampler,
    *,
    eta: float,
    s_noise: float,
    form: Literal["midpoint", "heun"] = "midpoint",
) -> Iterator[Tensor]:
    """Extrapolate as DPM++ 2M does, in the stochastic equation.

    Source: Lu et al. 2022 (arXiv:2211.01095), appendix E.3, SDE-DPM-Solver++(2M); both forms and eta as in
    k-diffusion. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives the normalised increments of a Brownian path between two levels.
        eta: share of noise in [0, 1]; 0 = deterministic.
        s_noise: standard deviation of that noise.
        form: how the change of the estimate is weighed: as at the middle of the step, or integrated.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    older, h_last = None, 0.0
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        clean = denoise(x, filled(x, sigma))
        if sigma_next == 0:
            x = clean
        else:
            h = math.log(sigma / sigma_next)
            rest, passed = h + eta * h, -math.expm1(-h - eta * h)
            x = sigma_next / sigma * math.exp(-eta * h) * x + passed * clean
            if older is not None:
                weight = passed / 2 if form == "midpoint" else 1 - passed / rest
                x = x + weight * h / h_last * (clean - older)
            if eta > 0:
                spread = sigma_next * math.sqrt(-math.expm1(-2 * eta * h))
                x = x + spread * s_noise * noise(sigma, sigma_next).to(x)
            older, h_last = clean, h
        yield x


@torch.no_grad()
def sample_dpmpp_3m_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float, s_noise: float
) -> Iterator[Tensor]:
    """Extrapolate the clean latents from the last three estimates, in the stochastic equation.

    Source: k-diffusion, after Lu et al. 2022 (arXiv:2211.01095), section 4.2, with divided differences of
    second order. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives the normalised increments of a Brownian path between two levels.
        eta: share of noise in [0, 1]; 0 = deterministic.
        s_noise: standard deviation of that noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    past: list[tuple[Tensor, float]] = []  # estimates and the steps taken with them, newest first
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        clean = denoise(x, filled(x, sigma))
        if sigma_next == 0:
            x = clean
        else:
            h = math.log(sigma / sigma_next)
            h_eta = h * (eta + 1)
            x = math.exp(-h_eta) * x - math.expm1(-h_eta) * clean
            if past:
                phi_2 = math.expm1(-h_eta) / h_eta + 1
                phi_3 = phi_2 / h_eta - 0.5
                slope = (clean - past[0][0]) * (h / past[0][1])
                if len(past) == 1:
                    x = x + phi_2 * slope
                else:
                    bend = slope - (past[0][0] - past[1][0]) * (h / past[1][1])
                    both = (past[0][1] + past[1][1]) / h
                    x = x + phi_2 * (slope + bend * past[0][1] / h / both) - phi_3 * bend / both
            if eta > 0:
                spread = sigma_next * math.sqrt(-math.expm1(-2 * eta * h))
                x = x + spread * s_noise * noise(sigma, sigma_next).to(x)
            past = [(clean, h), *past[:1]]
        yield x
