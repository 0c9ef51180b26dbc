"""From noise to clean latents: one generator function per sampler, one row per name.

A sampler is handed a denoiser and the noise levels to visit and yields the latents after each step; progress,
previews and cancelling belong to whoever iterates. Latents are clean + sigma · noise throughout. The levels
become Python numbers before the first step, so a step launches tensor arithmetic and never waits for it.

Shape letters: B pictures, C latent channels, H W latent size, N steps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from sfumato.diffusion import lookup
from sfumato.diffusion.denoisers import Denoiser
from sfumato.diffusion.noise import NoiseKind, NoiseSampler
from sfumato.diffusion.schedules import SCHEDULES, NoiseLevels, ScheduleSpec, find_schedule
from sfumato.errors import RequestError
from sfumato.types import Levels, Solver

AUTOMATIC = "Automatic"


@torch.no_grad()
def sample_euler(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    """Follow the slope at each level to the next.

    Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1 without its correction. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(_levels(sigmas)):
        slope = (x - denoise(x, _filled(x, sigma))) / sigma
        x = x + (sigma_next - sigma) * slope
        yield x


@torch.no_grad()
def sample_euler_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, eta: float
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

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(_levels(sigmas)):
        slope = (x - denoise(x, _filled(x, sigma))) / sigma
        down, up = _ancestral(sigma, sigma_next, eta)
        x = x + (down - sigma) * slope
        if up > 0:
            x = x + up * noise(sigma, sigma_next).to(x)
        yield x


def sample_ddim(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, eta: float
) -> Iterator[Tensor]:
    """Step as DDIM does; beside levels, start and default eta this is the Euler ancestral step.

    With x divided by sqrt(alpha_bar), equation 12 reads x' = clean + sqrt(sigma'^2 - up^2) eps + up z, and
    equation 16 up^2 = eta^2 sigma'^2 (sigma^2 - sigma'^2) / sigma^2.

    Source: Song et al. 2020 (arXiv:2010.02502), equations 12 and 16. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), in units of sigma as for all samplers: DDIM's own divided by
            sqrt(alpha_bar). Starts of pure noise have standard deviation sqrt(sigmas[0]^2 + 1).
        sigmas: (N+1,) noise levels, falling to 0; those of the schedule "DDIM" for the paper's.
        noise: gives standard normal numbers, independent from step to step.
        eta: share of fresh noise in [0, 1]; 0 = deterministic.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    return sample_euler_ancestral(denoise, x, sigmas, noise, eta)


@torch.no_grad()
def sample_heun(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    """Average the slopes at both ends of each step.

    Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 1. 2N - 1 calls of `denoise` when sigmas
    ends at 0.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    for sigma, sigma_next in pairwise(_levels(sigmas)):
        slope = (x - denoise(x, _filled(x, sigma))) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, _filled(x, sigma_next))) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
        yield x


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
    levels = _levels(sigmas)
    slopes: list[Tensor] = []  # newest first
    for i, sigma in enumerate(levels[:-1]):
        slope = (x - denoise(x, _filled(x, sigma))) / sigma
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
    for sigma, sigma_next in pairwise(_levels(sigmas)):
        clean = denoise(x, _filled(x, sigma))
        if sigma_next == 0:
            x = clean
        else:
            h = math.log(sigma / sigma_next)
            ahead = clean if older is None else clean + h / (2 * h_last) * (clean - older)
            x = sigma_next / sigma * x - math.expm1(-h) * ahead
            older, h_last = clean, h
        yield x


@torch.no_grad()
def sample_dpmpp_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, eta: float
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

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """

    def part(clean: Tensor, sigma: float, sigma_next: float) -> Tensor:
        down, up = _ancestral(sigma, sigma_next, eta)
        ratio = down / sigma
        moved = ratio * x + (1 - ratio) * clean
        return moved + up * noise(sigma, sigma_next).to(x) if up > 0 else moved

    for sigma, sigma_next in pairwise(_levels(sigmas)):
        clean = denoise(x, _filled(x, sigma))
        if sigma_next == 0:
            x = clean
        else:
            middle = math.sqrt(sigma * sigma_next)
            x_middle = part(clean, sigma, middle)
            x = part(denoise(x_middle, _filled(x, middle)), sigma, sigma_next)
        yield x


@torch.no_grad()
def sample_dpmpp_2m_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, eta: float
) -> Iterator[Tensor]:
    """Extrapolate as DPM++ 2M does, in the stochastic equation.

    Source: Lu et al. 2022 (arXiv:2211.01095), appendix E.3, SDE-DPM-Solver++(2M), the midpoint form; eta as
    in k-diffusion. N calls of `denoise`.

    Args:
        denoise: estimates the clean latents; guidance is already inside it.
        x: starting latents (B,C,H,W), float32 or float64, with noise of standard deviation sigmas[0].
        sigmas: (N+1,) noise levels, falling, usually to 0.
        noise: gives the normalised increments of a Brownian path between two levels.
        eta: share of noise in [0, 1]; 0 = deterministic.

    Yields:
        Latents (B,C,H,W) after each step; the last is the sample. Stop iterating to cancel.
    """
    older, h_last = None, 0.0
    for sigma, sigma_next in pairwise(_levels(sigmas)):
        clean = denoise(x, _filled(x, sigma))
        if sigma_next == 0:
            x = clean
        else:
            h = math.log(sigma / sigma_next)
            ahead = clean if older is None else clean + h / (2 * h_last) * (clean - older)
            x = sigma_next / sigma * math.exp(-eta * h) * x - math.expm1(-h - eta * h) * ahead
            if eta > 0:
                x = x + sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise(sigma, sigma_next).to(x)
            older, h_last = clean, h
        yield x


def _levels(sigmas: Tensor) -> list[float]:
    levels: list[float] = sigmas.tolist()
    assert len(levels) > 1, "no step to take"
    assert all(a > b >= 0 for a, b in pairwise(levels)), f"sigmas must fall strictly, got {levels}"
    return levels


def _filled(x: Tensor, sigma: float) -> Tensor:
    return x.new_full((len(x),), sigma)  # (B,)


def _ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Split the step: the level to walk down to, and the noise that lifts it to sigma_next."""
    up = min(sigma_next, eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2))
    return math.sqrt(sigma_next**2 - up**2), up


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """A sampler: its names, its function and what it needs."""

    name: str
    aliases: tuple[str, ...]
    function: Callable[..., Iterator[Tensor]]
    default_schedule: str  # what "Automatic" means, a name in `SCHEDULES`
    calls_per_step: int = 1  # of the denoiser; prompt editing counts them
    noise: NoiseKind = "none"
    eta: float | None = None  # default; None = the sampler has no eta
    discards_penultimate: bool = False  # see `ScheduleSpec.sigmas`
    start_as: Literal["sigma", "unit"] = "sigma"  # see `start`

    blends_before: bool = False  # masks are applied to what the denoiser sees, not to what it gives

    def start(self, noise: Tensor, sigmas: Tensor, clean: Tensor | None = None) -> Tensor:
        """Give the latents a walk begins with.

        Args:
            noise: standard normal (B,C,H,W).
            sigmas: (N+1,) levels that will be visited.
            clean: latents (B,C,H,W) to begin from; None = none. "sigma": as if they were zero. "unit": as if
                latents of unit variance were all noise.

        Returns:
            (B,C,H,W).
        """
        sigma = float(sigmas[0])
        if clean is not None:
            return clean + noise * sigma
        return noise * (sigma if self.start_as == "sigma" else math.hypot(sigma, 1.0))

    def steps(self, sigmas: Tensor) -> int:
        """Count the steps that will be yielded."""
        return len(sigmas) - 1

    def sample(
        self, denoise: Denoiser, x: Tensor, sigmas: Tensor, noise: NoiseSampler, solver: Solver
    ) -> Iterator[Tensor]:
        """Run the sampler, whatever it needs.

        Args:
            denoise: estimates the clean latents; guidance is already inside it.
            x: starting latents (B,C,H,W), float32 or float64.
            sigmas: (N+1,) noise levels, falling, usually to 0.
            noise: `noise.noise_sampler(spec.noise, …)`; never asked by a deterministic sampler.
            solver: the finer choices.

        Returns:
            An iterator of N latents (B,C,H,W); the last is the sample. Stop iterating to cancel.
        """
        if self.noise == "none":
            return self.function(denoise, x, sigmas)
        return self.function(denoise, x, sigmas, noise, self.eta if solver.eta is None else solver.eta)


SAMPLERS: Mapping[str, SamplerSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            SamplerSpec(
                name="DPM++ 2M",
                aliases=("k_dpmpp_2m", "dpmpp_2m"),
                function=sample_dpmpp_2m,
                default_schedule="Karras",
            ),
            SamplerSpec(
                name="DPM++ SDE",
                aliases=("k_dpmpp_sde", "dpmpp_sde"),
                function=sample_dpmpp_sde,
                default_schedule="Karras",
                calls_per_step=2,
                noise="brownian",
                eta=1.0,
            ),
            SamplerSpec(
                name="DPM++ 2M SDE",
                aliases=("k_dpmpp_2m_sde", "dpmpp_2m_sde"),
                function=sample_dpmpp_2m_sde,
                default_schedule="Exponential",
                noise="brownian",
                eta=1.0,
            ),
            SamplerSpec(
                name="Euler a",
                aliases=("k_euler_a", "k_euler_ancestral", "euler_a", "euler_ancestral"),
                function=sample_euler_ancestral,
                default_schedule="Uniform",
                noise="fresh",
                eta=1.0,
            ),
            SamplerSpec(
                name="Euler", aliases=("k_euler",), function=sample_euler, default_schedule="Uniform"
            ),
            SamplerSpec(name="LMS", aliases=("k_lms",), function=sample_lms, default_schedule="Uniform"),
            SamplerSpec(
                name="Heun",
                aliases=("k_heun",),
                function=sample_heun,
                default_schedule="Uniform",
                calls_per_step=2,
            ),
            SamplerSpec(
                name="DDIM",
                aliases=(),
                function=sample_ddim,
                default_schedule="DDIM",
                noise="fresh",
                eta=0.0,
                start_as="unit",
            ),
        )
    }
)
"""Every sampler by name, in the order in which they are shown."""


def resolve(sampler: str, schedule: str = AUTOMATIC) -> tuple[SamplerSpec, ScheduleSpec]:
    """Find the sampler and the schedule that a request names.

    Old names that carry their schedule are understood: "DPM++ 2M Karras" is DPM++ 2M with Karras.

    Source: own; names as existing clients and picture files use them.

    Args:
        sampler: a name or alias in `SAMPLERS`, case ignored, with or without a schedule's name behind it.
        schedule: a name or alias in `SCHEDULES`, case ignored, or "Automatic" for the sampler's default.

    Raises:
        RequestError: no such sampler or schedule (names the nearest), or two different schedules.
    """
    asked = None if schedule.strip().casefold() == AUTOMATIC.casefold() else find_schedule(schedule)
    spec = lookup.find(SAMPLERS, sampler)
    if spec is not None:
        return spec, asked or SCHEDULES[spec.default_schedule]
    for row in SCHEDULES.values():
        for suffix in (row.name, *row.aliases):
            stem = sampler.strip()[: -len(suffix) - 1]
            if f"{stem} {suffix}".casefold() != sampler.strip().casefold():
                continue
            spec = lookup.find(SAMPLERS, stem)
            if spec is not None:
                if asked not in (None, row):
                    raise RequestError(
                        f"sampler={sampler!r} names a schedule, but schedule={schedule!r} is another;"
                        f" give sampler={spec.name!r}"
                    )
                return spec, row
    raise lookup.unknown(SAMPLERS, sampler, "sampler")


def trajectory(
    sampler: SamplerSpec,
    schedule: ScheduleSpec,
    noise_levels: NoiseLevels,
    steps: int,
    levels: Levels,
    *,
    strength: float | None = None,
    exact: bool = False,
) -> Tensor:
    """Give the levels a walk visits, from noise or from a picture.

    Source: the arithmetic of the field's interfaces.

    Args:
        sampler: a row of `SAMPLERS`.
        schedule: a row of `SCHEDULES`.
        noise_levels: what the network was trained on.
        steps: N.
        levels: the finer choices.
        strength: 0 to 1: how far a picture is taken back to noise; None = no picture.
        exact: take all steps whatever the strength.
    """
    if strength is None:
        return schedule.sigmas(noise_levels, steps, discard_penultimate=sampler.discards_penultimate)
    strength = min(strength, 0.999)
    if exact:
        if strength == 0:
            return schedule.sigmas(noise_levels, 1)[:1]
        total, encoded = int(steps / strength), steps - 1
    else:
        total, encoded = steps, int(strength * steps)
    sigmas = schedule.sigmas(noise_levels, total, discard_penultimate=sampler.discards_penultimate)
    return sigmas[total - encoded - 1 :]
