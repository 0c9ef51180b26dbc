"""Samplers that follow the slope dx/dsigma: Euler, Heun, multistep, DPM2, Restart; and that of LCM.

Latents are clean + sigma · noise throughout. See `samplers` for what every sampler has in common.

Shape letters: B pictures, C latent channels, H W latent size, N steps.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.noise import NoiseSampler
from sfumato.diffusion.sampler_steps import Churn, ancestral, filled, levels_of
from sfumato.diffusion.schedules import karras_levels


@torch.no_grad()
def sample_euler(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSampler,
    *,
    s_churn: float,
    s_tmin: float,
    s_tmax: float | None,
    s_noise: float,
) -> Iterator[Tensor]:
    """Follow the slope at each level to the next.

    Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 2 without its correction. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives standard normal numbers; not asked where s_churn = 0.
        s_churn: noise added before a step, see `Churn`.
        s_tmin: lowest sigma at which it is.
        s_tmax: highest; None = no limit.
        s_noise: standard deviation of that noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    levels = levels_of(sigmas)
    churn = Churn(levels, noise, s_churn, s_tmin, s_tmax, s_noise)
    for level, sigma_next in pairwise(levels):
        x, sigma = churn(x, level)
        slope = (x - denoise(x, filled(x, sigma))) / sigma
        x = x + (sigma_next - sigma) * slope
        yield x


@torch.no_grad()
def sample_euler_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float, s_noise: float = 1.0
) -> Iterator[Tensor]:
    """Step below each level and add fresh noise up to it.

    Source: Song et al. 2020 (arXiv:2010.02502), equations 12 and 16, with x divided by sqrt(alpha_bar); the
    name is k-diffusion's. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = `sample_euler`, 1 = the DDPM step.
        s_noise: standard deviation of the fresh noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        slope = (x - denoise(x, filled(x, sigma))) / sigma
        down, up = ancestral(sigma, sigma_next, eta)
        x = x + (down - sigma) * slope
        if up > 0:
            x = x + up * s_noise * noise(sigma, sigma_next).to(x)
        yield x


@torch.no_grad()
def sample_heun(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSampler,
    *,
    s_churn: float,
    s_tmin: float,
    s_tmax: float | None,
    s_noise: float,
) -> Iterator[Tensor]:
    """Average the slopes at both ends of each step.

    Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 2. 2N - 1 calls of `denoise` when sigmas
    ends at 0.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives standard normal numbers; not asked where s_churn = 0.
        s_churn: noise added before a step, see `Churn`.
        s_tmin: lowest sigma at which it is.
        s_tmax: highest; None = no limit.
        s_noise: standard deviation of that noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    levels = levels_of(sigmas)
    churn = Churn(levels, noise, s_churn, s_tmin, s_tmax, s_noise)
    for level, sigma_next in pairwise(levels):
        x, sigma = churn(x, level)
        x = _heun_step(denoise, x, sigma, sigma_next)
        yield x


def _heun_step(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    slope = (x - denoise(x, filled(x, sigma))) / sigma
    x_next = x + (sigma_next - sigma) * slope
    if sigma_next == 0:
        return x_next
    slope_next = (x_next - denoise(x_next, filled(x, sigma_next))) / sigma_next
    return x + (sigma_next - sigma) * (slope + slope_next) / 2


@torch.no_grad()
def sample_lms(denoise: Denoiser, x: Tensor, sigmas: Tensor, order: int = 4) -> Iterator[Tensor]:
    """Integrate the polynomial through the last slopes (linear multistep, Adams-Bashforth).

    Source: Hairer, Nørsett & Wanner 1993, section III.1, for unequal steps. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        order: slopes remembered, 1 to 4.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    levels = levels_of(sigmas)
    slopes: list[Tensor] = []  # newest first
    for i, sigma in enumerate(levels[:-1]):
        slope = (x - denoise(x, filled(x, sigma))) / sigma
        slopes = [slope, *slopes[: order - 1]]
        past = levels[i::-1][: len(slopes)]  # sigma of each slope
        for factor, each in zip(adams_bashforth(past, levels[i + 1]), slopes, strict=True):
            x = x + factor * each
        yield x


def adams_bashforth(past: Sequence[float], end: float) -> list[float]:
    """Integrate, from past[0] to `end`, each Lagrange polynomial through the points `past`.

    Source: Hairer, Nørsett & Wanner 1993, section III.1; two-point Gauss quadrature, exact up to degree 3.

    Args:
        past: one to four distinct points, newest first.
        end: where the step ends.

    Returns:
        One factor per point; they sum to end - past[0].
    """
    assert 1 <= len(past) <= 4, "the quadrature is exact for at most four points"
    half, centre = (end - past[0]) / 2, (end + past[0]) / 2
    nodes = (centre - half / math.sqrt(3), centre + half / math.sqrt(3))
    return [
        half
        * sum(
            math.prod((node - other) / (own - other) for k, other in enumerate(past) if k != j)
            for node in nodes
        )
        for j, own in enumerate(past)
    ]


@torch.no_grad()
def sample_dpm_2(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: NoiseSampler,
    *,
    s_churn: float,
    s_tmin: float,
    s_tmax: float | None,
    s_noise: float,
) -> Iterator[Tensor]:
    """Take each step with the slope at its middle in log sigma.

    Source: k-diffusion, after Karras et al. 2022 (arXiv:2206.00364), Algorithm 2, and Lu et al. 2022
    (arXiv:2206.00927), Algorithm 1. 2N - 1 calls of `denoise` when sigmas ends at 0.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives standard normal numbers; not asked where s_churn = 0.
        s_churn: noise added before a step, see `Churn`.
        s_tmin: lowest sigma at which it is.
        s_tmax: highest; None = no limit.
        s_noise: standard deviation of that noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    levels = levels_of(sigmas)
    churn = Churn(levels, noise, s_churn, s_tmin, s_tmax, s_noise)
    for level, sigma_next in pairwise(levels):
        x, sigma = churn(x, level)
        x = _midpoint_step(denoise, x, sigma, sigma_next)
        yield x


def _midpoint_step(denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    slope = (x - denoise(x, filled(x, sigma))) / sigma
    if sigma_next == 0:
        return x - sigma * slope
    middle = math.sqrt(sigma * sigma_next)
    x_middle = x + (middle - sigma) * slope
    slope = (x_middle - denoise(x_middle, filled(x, middle))) / middle
    return x + (sigma_next - sigma) * slope


@torch.no_grad()
def sample_dpm_2_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float, s_noise: float
) -> Iterator[Tensor]:
    """Step as DPM2 does to below each level and add fresh noise up to it.

    Source: k-diffusion; the parts are `sample_dpm_2` and `sample_euler_ancestral`. 2N - 1 calls of `denoise`
    when sigmas ends at 0.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = `sample_dpm_2`.
        s_noise: standard deviation of the fresh noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        down, up = ancestral(sigma, sigma_next, eta)
        x = _midpoint_step(denoise, x, sigma, down)
        if up > 0:
            x = x + up * s_noise * noise(sigma, sigma_next).to(x)
        yield x


def restart_legs(levels: Sequence[float]) -> list[list[float]]:
    """Lay out the levels of Restart: falling legs; before each but the first, noise leads up to its start.

    From 20 steps on, 9 of them go from 2.0 to 0.1 a second time; from 36 on, a quarter of them twice. The
    others are spread anew as Karras does, so that the number of steps stays.

    Source: Xu et al. 2023 (arXiv:2306.14878), Algorithm 1; the choice of steps is the field's.

    Args:
        levels: N + 1 noise levels, falling.
    """
    steps = len(levels) - 1
    if steps < 20:
        return [list(levels)]
    again, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    main = [*karras_levels(levels[0], levels[-2], steps - again * times).tolist(), 0.0]
    low, high = (min(range(len(main)), key=lambda i: abs(main[i] - level)) for level in (0.1, 2.0))
    if high >= low:  # it starts below what is to be taken again
        return [main]
    leg = karras_levels(main[high], main[low], again + 1).tolist()
    return [main[: low + 1], *[leg] * (times - 1), leg + main[low + 1 :]]


def restart_counts(levels: Sequence[float]) -> tuple[int, int]:
    """Count the steps and calls of `sample_restart`.

    Source: own.

    Args:
        levels: N + 1 noise levels, falling.
    """
    legs = restart_legs(levels)
    steps = sum(len(leg) - 1 for leg in legs)
    return steps, 2 * steps - sum(leg[-1] == 0 and len(leg) > 1 for leg in legs)


@torch.no_grad()
def sample_restart(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler) -> Iterator[Tensor]:
    """Step as Heun does, and go back up by fresh noise to take the middle part again.

    Source: Xu et al. 2023 (arXiv:2306.14878), Algorithm 1. 2N - 1 calls of `denoise` when sigmas ends at 0.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0; from 20 steps on only its ends count.
        noise: gives standard normal numbers, independent from time to time.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    below = 0.0
    for number, leg in enumerate(restart_legs(levels_of(sigmas))):
        if number > 0:
            x = x + math.sqrt(leg[0] ** 2 - below**2) * noise(below, leg[0]).to(x)
        for sigma, sigma_next in pairwise(leg):
            x = _heun_step(denoise, x, sigma, sigma_next)
            below = sigma_next
            yield x


@torch.no_grad()
def sample_lcm(denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler) -> Iterator[Tensor]:
    """Take the estimate as clean and noise it to the next level, for networks distilled for that.

    Source: Luo et al. 2023 (arXiv:2310.04378), Algorithm 3; multistep sampling of Song et al. 2023
    (arXiv:2303.01469), Algorithm 1. N calls of `denoise`.

    Args:
        denoise: a consistency function, see `denoisers.consistency`; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives standard normal numbers, independent from step to step.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(levels_of(sigmas)):
        x = denoise(x, filled(x, sigma))
        if sigma_next > 0:
            x = x + sigma_next * noise(sigma, sigma_next).to(x)
        yield x
