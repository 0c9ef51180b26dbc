"""DPM-Solver with single steps of third order: a fixed number of calls, or steps as long as the error allows.

Time is t = -log sigma. Latents are clean + sigma · noise throughout. See `samplers` for what every sampler
has in common.

Shape letters: B pictures, C latent channels, H W latent size, N calls.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.noise import NoiseSampler
from sfumato.diffusion.sampler_steps import ancestral, levels_of

Array = npt.NDArray[np.float64]

_FIRST_STEP = 0.05
_ABSOLUTE, _RELATIVE = 0.0078, 0.05  # error allowed in a step
_ACCEPTED = 0.81  # least growth of the step length that the error must suggest


@torch.no_grad()
def sample_dpm_fast(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float, s_noise: float
) -> Iterator[Tensor]:
    """Spend N calls on steps of third order, equal in log sigma, and the rest on a shorter last one.

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3.4, "DPM-Solver-fast"; eta as in k-diffusion. N calls
    of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, not to 0; their ends and their number count.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = deterministic.
        s_noise: standard deviation of the fresh noise.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    levels = levels_of(sigmas)
    steps, calls = fast_counts(levels)
    orders = [3] * (steps - 2) + [2, 1] if calls % 3 == 0 else [3] * (steps - 1) + [calls % 3]
    times = np.linspace(-math.log(levels[0]), -math.log(levels[-1]), steps + 1)
    for order, start, stop in zip(orders, times[:-1], times[1:], strict=True):
        reached, up = _split(start, stop, times[-1], eta)
        t, h = np.array([start]), np.array([reached - start])
        slope = _slope(denoise, x, t)
        if order == 3:
            x = third_order(denoise, x, slope, t, h)[1]
        else:
            x_next = x - _column(x, np.exp(-t - h) * np.expm1(h)) * slope
            if order == 2:
                x_middle = x - _column(x, np.exp(-t - h / 2) * np.expm1(h / 2)) * slope
                bend = _slope(denoise, x_middle, t + h / 2) - slope
                x_next = x_next - _column(x, np.exp(-t - h) * np.expm1(h)) * bend
            x = x_next
        if up > 0:
            x = x + up * s_noise * noise(math.exp(-start), math.exp(-stop)).to(x)
        yield x


def fast_counts(levels: Sequence[float]) -> tuple[int, int]:
    """Count the steps and calls of `sample_dpm_fast`.

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3.4.

    Args:
        levels: N + 1 noise levels.
    """
    calls = len(levels) - 1
    return calls // 3 + 1, calls


@torch.no_grad()
def sample_dpm_adaptive(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, *, eta: float, s_noise: float
) -> Iterator[Tensor]:
    """Take steps as long as the difference between second and third order allows, each picture its own.

    Source: Lu et al. 2022 (arXiv:2206.00927), section 3.4, "DPM-Solver-23"; control of the step length and
    eta as in k-diffusion. Three calls of `denoise` for each step tried.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: noise levels, falling, not to 0; only the first and the last count.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = deterministic.
        s_noise: standard deviation of the fresh noise.

    Yields:
        Latents (B,C,H,W) after each step that brings a picture on; the last is the sample. Stop iterating to
        cancel.
    """
    levels, count = levels_of(sigmas), len(x)
    end = -math.log(levels[-1])
    t, h = np.full(count, -math.log(levels[0])), np.full(count, _FIRST_STEP)
    taken, draws, x_low = [0] * count, list[Tensor](), x
    while (going := t < end - 1e-5).any():
        stop = np.where(going, np.minimum(end, t + h), t + h)  # who has arrived computes along, unused
        reached, up = np.array(
            [_split(*each, max(end, each[1]), eta) for each in zip(t, stop, strict=True)]
        ).T
        low, high = third_order(denoise, x, _slope(denoise, x, t), t, reached - t)
        allowed = (_RELATIVE * torch.maximum(low.abs(), x_low.abs())).clamp(min=_ABSOLUTE)
        error = ((low - high) / allowed).square().mean((1, 2, 3)).sqrt().double().cpu().numpy()  # (B,)
        growth = 1 + np.arctan((error + 1e-8) ** (-1 / (1.5 if eta > 0 else 3)) - 1)
        passed = going & (growth >= _ACCEPTED)
        h = np.where(going, h * growth, h)
        if not passed.any():
            continue
        if up.any():
            while len(draws) <= max(taken):
                draws.append(noise(math.exp(-t.max()), math.exp(-stop.max())).to(x))
            fresh = torch.stack([draws[number][k] for k, number in enumerate(taken)])  # its own next draw
            high = high + _column(x, up) * s_noise * fresh
        chosen = torch.as_tensor(passed, device=x.device).view(-1, 1, 1, 1)
        x, x_low = torch.where(chosen, high, x), torch.where(chosen, low, x_low)
        t, taken = np.where(passed, stop, t), [n + int(p) for n, p in zip(taken, passed, strict=True)]
        yield x


def adaptive_counts(levels: Sequence[float]) -> tuple[int, int]:
    """Estimate the steps and calls of `sample_dpm_adaptive`: what they really are depends on the picture.

    Source: own; about five steps for each unit of log sigma were measured.

    Args:
        levels: noise levels, of which the first and the last count.
    """
    steps = math.ceil(5 * math.log(levels[0] / levels[-1]))
    return steps, 3 * steps


def third_order(denoise: Denoiser, x: Tensor, slope: Tensor, t: Array, h: Array) -> tuple[Tensor, Tensor]:
    """Step from t to t + h by second and by third order, in two more calls of `denoise`.

    Source: Lu et al. 2022 (arXiv:2206.00927), Algorithms 1 and 2 with r1 = 1/3, r2 = 2/3.

    Args:
        denoise: estimates the clean latents.
        x: latents (B,C,H,W).
        slope: their noise estimate at t (B,C,H,W).
        t: (B,) or (1,) time of each picture.
        h: (B,) or (1,) length of each step, above 0.
    """
    one, two, whole = h / 3, 2 * h / 3, np.exp(-t - h)
    u = x - _column(x, np.exp(-t - one) * np.expm1(one)) * slope
    first = _slope(denoise, u, t + one) - slope
    u = x - _column(x, np.exp(-t - two) * np.expm1(two)) * slope
    u = u - _column(x, np.exp(-t - two) * 2 * (np.expm1(two) / two - 1)) * first
    second = _slope(denoise, u, t + two) - slope
    straight = x - _column(x, whole * np.expm1(h)) * slope
    low = straight - _column(x, whole * 1.5 * np.expm1(h)) * first
    return low, straight - _column(x, whole * 1.5 * (np.expm1(h) / h - 1)) * second


def _slope(denoise: Denoiser, x: Tensor, t: Array) -> Tensor:
    sigma = _column(x, np.exp(-t))
    return (x - denoise(x, sigma.flatten().expand(len(x)))) / sigma


def _column(x: Tensor, numbers: Array) -> Tensor:
    return torch.as_tensor(numbers, dtype=x.dtype).to(x.device).view(-1, 1, 1, 1)


def _split(start: float, stop: float, end: float, eta: float) -> tuple[float, float]:
    """The time to walk to, no later than `end`, and the noise that lifts the level from there to `stop`."""
    if eta == 0:
        return stop, 0.0
    down, _ = ancestral(math.exp(-start), math.exp(-stop), eta)
    reached = min(end, -math.log(down)) if down > 0 else end
    return reached, math.sqrt(max(math.exp(-stop) ** 2 - math.exp(-reached) ** 2, 0.0))
