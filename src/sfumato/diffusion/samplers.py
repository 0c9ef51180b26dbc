"""From noise to clean latents: one row per sampler, the levels it visits, and how it is run.

A sampler is a generator function of a denoiser, starting latents and the noise levels to visit; it yields
the latents after each step. Progress, previews and cancelling belong to whoever iterates. The levels become
Python numbers before the first step, so a step launches tensor arithmetic and never waits for it.

    spec, schedule = resolve("DPM++ 2M", "Automatic")
    sigmas = trajectory(spec, schedule, noise_levels, steps)             # or with strength: image to image
    x = spec.start(noise.draw(), sigmas)                                 # or with clean latents
    for x in spec.sample(denoise, x, sigmas, noise_sampler(spec.noise, noise), solver): ...

Shape letters: B pictures, C latent channels, H W latent size, N steps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Concatenate, Literal

import torch
from torch import Tensor

from sfumato.diffusion import lookup, samplers_dpm, samplers_k, samplers_solver, samplers_timestep
from sfumato.diffusion.denoisers import Denoiser, Told, consistency, distilled_levels, parameterise
from sfumato.diffusion.noise import NoiseKind, NoiseSampler
from sfumato.diffusion.schedules import (
    AUTOMATIC,
    SCHEDULES,
    NoiseLevels,
    ScheduleSpec,
    ddim_timesteps,
    find_schedule,
)
from sfumato.errors import RequestError
from sfumato.types import Levels, Prediction, Solver

DEFAULT_LEVELS = Levels()
DEFAULT_SOLVER = Solver()

Path = Literal["schedule", "range", "timesteps", "unipc"]
"""Whose levels a sampler visits: the schedule's; its own between two ends; DDIM's timesteps; or UniPC's."""


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """A sampler: its names, its function and what it needs."""

    name: str
    aliases: tuple[str, ...] = ()
    function: Callable[..., Iterator[Tensor]]
    default_schedule: str = AUTOMATIC  # what "Automatic" means, a name in `SCHEDULES`
    path: Path = "schedule"
    calls_per_step: int = 1  # of the denoiser; prompt editing counts them
    counts: Callable[[Sequence[float]], tuple[int, int]] | None = None  # steps and calls, where not so simple
    estimated: bool = False  # the sampler chooses its steps on the way: `steps` and `calls` are estimates
    noise: NoiseKind = "none"
    takes: tuple[str, ...] = ()  # fields of `Solver`
    eta: float | None = None  # default; None = the sampler has no eta
    discards_penultimate: bool = False  # see `ScheduleSpec.sigmas`
    uses_uncond: bool = False  # the denoiser is a `PairDenoiser`, see `guidance.guide`
    guidance_share: float = 1.0  # by which the guidance scale is multiplied
    consistency: bool = False  # for distilled networks, see `denoisers.consistency`

    @property
    def own_levels(self) -> bool:
        """Whether the schedule is without effect."""
        return self.path != "schedule"

    @property
    def blends_before(self) -> bool:
        """Whether an inpainting mask is applied to what the denoiser is given, not to what it gives.

        These samplers see latents times sqrt(alpha_bar) = 1 / sqrt(sigma^2 + 1), as does who iterates; the
        denoiser is given clean + sigma · noise by all.
        """
        return self.path in ("timesteps", "unipc")

    @property
    def uses_seed_delta(self) -> bool:
        """Whether draws after the first change the picture (where eta is not 0)."""
        return self.noise == "fresh" and "eta" in self.takes and not self.blends_before

    def start(self, noise: Tensor, sigmas: Tensor, clean: Tensor | None = None) -> Tensor:
        """Give the starting latents (B,C,H,W).

        Args:
            noise: standard normal (B,C,H,W).
            sigmas: of `trajectory`.
            clean: latents of the picture to start from (B,C,H,W); None = from noise alone.
        """
        top = float(sigmas[0])
        if not self.blends_before:
            return noise * top if clean is None else clean + noise * top
        return noise if clean is None else (clean + noise * top) / math.hypot(top, 1)

    def sample(
        self,
        denoise: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        noise: NoiseSampler,
        solver: Solver = DEFAULT_SOLVER,
    ) -> Iterator[Tensor]:
        """Run the sampler, whatever it needs.

        Args:
            denoise: estimates the clean latents; guidance is already inside it.
            x: starting latents (B,C,H,W), float32 or float64, of `start`.
            sigmas: of `trajectory`.
            noise: `noise.noise_sampler(spec.noise, …)`; never asked by a deterministic sampler.
            solver: finer choices, of which those in `takes` count.

        Yields:
            Latents (B,C,H,W) after each step; the last is the finished sample. With a single level nothing:
            the start is finished. Stop iterating to cancel.
        """
        options = {name: getattr(solver, name) for name in self.takes}
        if "eta" in options and solver.eta is None:
            options["eta"] = self.eta
        arguments = () if self.noise == "none" else (noise,)
        if not self.blends_before:
            yield from self.function(denoise, x, sigmas, *arguments, **options)
        elif len(sigmas) > 1:
            first, *levels = sigmas[1:].tolist()
            walk = self.function(denoise, x * math.hypot(first, 1), sigmas[1:], *arguments, **options)
            for latents, level in zip(walk, levels, strict=True):
                yield latents / math.hypot(level, 1)

    def steps(self, sigmas: Tensor) -> int:
        """Count what `sample` yields on these levels of `trajectory`; an estimate where `estimated`."""
        return self._counted(sigmas)[0]

    def calls(self, sigmas: Tensor) -> int:
        """Count the calls of the denoiser that `sample` makes on these levels; an estimate as `steps`."""
        return self._counted(sigmas)[1]

    def _counted(self, sigmas: Tensor) -> tuple[int, int]:
        levels: list[float] = sigmas.tolist()
        if len(levels) == 1:
            return 0, 0
        visited = levels[1:] if self.blends_before else levels
        if self.counts is not None:
            return self.counts(visited)
        steps = len(visited) - 1
        return steps, steps * self.calls_per_step - (self.calls_per_step == 2 and visited[-1] == 0)

    def levels(self, noise_levels: NoiseLevels) -> NoiseLevels:
        """Give those of the trained levels that this sampler knows of."""
        return distilled_levels(noise_levels) if self.consistency else noise_levels

    def denoiser(
        self,
        network: Callable[Concatenate[Tensor, Tensor, Told], Tensor],
        noise_levels: NoiseLevels,
        prediction: Prediction,
    ) -> Callable[Concatenate[Tensor, Tensor, Told], Tensor]:
        """Turn a network's prediction into clean latents as this sampler needs them.

        Args:
            network: see `denoisers.parameterise`.
            noise_levels: what it (or its teacher) was trained on, on the latents' device.
            prediction: "eps" or "v".
        """
        return (consistency if self.consistency else parameterise)(network, noise_levels, prediction)


ETA = ("eta", "s_noise")
CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")

SAMPLERS: Mapping[str, SamplerSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            SamplerSpec(
                name="DPM++ 2M",
                aliases=("k_dpmpp_2m", "dpmpp_2m"),
                function=samplers_dpm.sample_dpmpp_2m,
                default_schedule="Karras",
            ),
            SamplerSpec(
                name="DPM++ SDE",
                aliases=("k_dpmpp_sde", "dpmpp_sde"),
                function=samplers_dpm.sample_dpmpp_sde,
                default_schedule="Karras",
                calls_per_step=2,
                noise="brownian",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="DPM++ 2M SDE",
                aliases=("k_dpmpp_2m_sde", "dpmpp_2m_sde"),
                function=samplers_dpm.sample_dpmpp_2m_sde,
                default_schedule="Exponential",
                noise="brownian",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="DPM++ 2M SDE Heun",
                aliases=("k_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun"),
                function=partial(samplers_dpm.sample_dpmpp_2m_sde, form="heun"),
                default_schedule="Exponential",
                noise="brownian",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="DPM++ 2S a",
                aliases=("k_dpmpp_2s_a", "dpmpp_2s_a"),
                function=samplers_dpm.sample_dpmpp_2s_ancestral,
                default_schedule="Karras",
                calls_per_step=2,
                noise="fresh",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="DPM++ 3M SDE",
                aliases=("k_dpmpp_3m_sde", "dpmpp_3m_sde"),
                function=samplers_dpm.sample_dpmpp_3m_sde,
                default_schedule="Exponential",
                discards_penultimate=True,
                noise="brownian",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="Euler a",
                aliases=("k_euler_a", "k_euler_ancestral", "euler_a", "euler_ancestral"),
                function=samplers_k.sample_euler_ancestral,
                noise="fresh",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="Euler",
                aliases=("k_euler",),
                function=samplers_k.sample_euler,
                noise="fresh",
                takes=CHURN,
            ),
            SamplerSpec(
                name="LMS",
                aliases=("k_lms",),
                function=samplers_k.sample_lms,
            ),
            SamplerSpec(
                name="Heun",
                aliases=("k_heun",),
                function=samplers_k.sample_heun,
                calls_per_step=2,
                noise="fresh",
                takes=CHURN,
            ),
            SamplerSpec(
                name="DPM2",
                aliases=("k_dpm_2", "dpm_2"),
                function=samplers_k.sample_dpm_2,
                default_schedule="Karras",
                calls_per_step=2,
                discards_penultimate=True,
                noise="fresh",
                takes=CHURN,
            ),
            SamplerSpec(
                name="DPM2 a",
                aliases=("k_dpm_2_a", "dpm_2_a"),
                function=samplers_k.sample_dpm_2_ancestral,
                default_schedule="Karras",
                calls_per_step=2,
                discards_penultimate=True,
                noise="fresh",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="DPM fast",
                aliases=("k_dpm_fast", "dpm_fast"),
                function=samplers_solver.sample_dpm_fast,
                path="range",
                counts=samplers_solver.fast_counts,
                noise="fresh",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="DPM adaptive",
                aliases=("k_dpm_ad", "dpm_adaptive"),
                function=samplers_solver.sample_dpm_adaptive,
                path="range",
                counts=samplers_solver.adaptive_counts,
                estimated=True,
                noise="fresh",
                takes=ETA,
                eta=1.0,
            ),
            SamplerSpec(
                name="Restart",
                function=samplers_k.sample_restart,
                default_schedule="Karras",
                calls_per_step=2,
                counts=samplers_k.restart_counts,
                noise="fresh",
            ),
            SamplerSpec(
                name="DDIM",
                function=samplers_timestep.sample_ddim,
                path="timesteps",
                noise="fresh",
                takes=("eta",),
                eta=0.0,
            ),
            SamplerSpec(
                name="DDIM CFG++",
                aliases=("ddim_cfgpp",),
                function=samplers_timestep.sample_ddim_cfgpp,
                path="timesteps",
                noise="fresh",
                takes=("eta",),
                eta=0.0,
                uses_uncond=True,
                guidance_share=1 / 12.5,
            ),
            SamplerSpec(
                name="PLMS",
                function=samplers_timestep.sample_plms,
                path="timesteps",
                counts=samplers_timestep.plms_counts,
            ),
            SamplerSpec(
                name="UniPC",
                function=samplers_timestep.sample_unipc,
                path="unipc",
                takes=("unipc_variant", "unipc_order", "unipc_lower_order_final"),
            ),
            SamplerSpec(
                name="LCM",
                aliases=("k_lcm",),
                function=samplers_k.sample_lcm,
                noise="fresh",
                consistency=True,
            ),
        )
    }
)
"""Every sampler by name, in the order in which they are shown."""


def resolve(sampler: str, schedule: str = AUTOMATIC) -> tuple[SamplerSpec, ScheduleSpec]:
    """Find the sampler and the schedule that a request names.

    Old names that carry their schedule are understood: "DPM++ 2M Karras" is DPM++ 2M with Karras. A sampler
    with levels of its own, or without a default, has the schedule "Automatic".

    Source: own; names as existing clients and picture files use them.

    Args:
        sampler: a name or alias in `SAMPLERS`, case ignored, with or without a schedule's name behind it.
        schedule: a name or alias in `SCHEDULES`, case ignored; "Automatic" for the sampler's default.

    Raises:
        RequestError: no such sampler or schedule (names the nearest), or two different schedules.
    """
    asked = find_schedule(schedule)
    spec = lookup.find(SAMPLERS, sampler)
    if spec is None:
        spec, carried = _split_name(sampler)
        if asked.name not in (AUTOMATIC, carried.name):
            raise RequestError(
                f"sampler={sampler!r} names a schedule, but schedule={schedule!r} is another;"
                f" give sampler={spec.name!r}"
            )
        asked = carried
    if spec.own_levels:
        return spec, SCHEDULES[AUTOMATIC]
    return spec, SCHEDULES[spec.default_schedule] if asked.name == AUTOMATIC else asked


def _split_name(sampler: str) -> tuple[SamplerSpec, ScheduleSpec]:
    for row in SCHEDULES.values():
        for suffix in (row.name, *row.aliases):
            stem = sampler.strip()[: -len(suffix) - 1]
            spec = lookup.find(SAMPLERS, stem)
            if spec is not None and f"{stem} {suffix}".casefold() == sampler.strip().casefold():
                return spec, row
    raise lookup.unknown(SAMPLERS, sampler, "sampler")


def trajectory(
    sampler: SamplerSpec,
    schedule: ScheduleSpec,
    noise_levels: NoiseLevels,
    steps: int,
    levels: Levels = DEFAULT_LEVELS,
    *,
    strength: float | None = None,
    exact: bool = False,
    solver: Solver = DEFAULT_SOLVER,
) -> Tensor:
    """Give the noise levels of a run, from the one of its starting latents on.

    Samplers with timesteps of their own start at the first level without a step: their first step goes from
    the second level to the third. Samplers between start and finish see `SamplerSpec.steps` of these.

    Image to image takes the last part of the steps: int(strength · steps) + 1 of them; with `exact`, as many
    as asked for, out of int(steps / strength).

    Source: own; the step arithmetic of the field's interfaces.

    Args:
        sampler: see `resolve`.
        schedule: see `resolve`.
        noise_levels: what the network was trained on.
        steps: N, at least 1.
        levels: finer choices of the schedule.
        strength: in [0, 1], how far to go back towards noise; None = text to image.
        exact: take all the steps, whatever the strength.
        solver: finer choices of the sampler; UniPC has its own spacing there.

    Returns:
        (M+1,) float64 on the CPU, falling. A single 0 where no step is to be taken (`exact`, strength 0).

    Raises:
        RequestError: see `ScheduleSpec.sigmas`.
    """
    if exact and strength == 0:
        return torch.zeros(1, dtype=torch.float64)
    total, kept = steps, steps
    if strength is not None:
        part = min(strength, 0.999)
        total, kept = (int(steps / part), steps) if exact else (steps, int(part * steps) + 1)
    if sampler.blends_before:
        return _own_timesteps(sampler, noise_levels, total, None if strength is None else kept - 1, solver)
    known, discard = sampler.levels(noise_levels), levels.discard_penultimate
    sigmas = schedule.sigmas(
        known,
        total,
        levels,
        discard_penultimate=sampler.discards_penultimate if discard is None else discard,
    )[total - kept :]
    if sampler.path == "schedule":
        return sigmas
    top = float(sigmas[0])  # equal steps in log sigma, as many, from there to the lowest level above 0
    bottom = float(sigmas[-2]) if len(sigmas) > 2 else min(known.sigma_min, top / 10)
    ramp = torch.linspace(0, 1, len(sigmas), dtype=torch.float64)
    return top * (bottom / top) ** ramp


def _own_timesteps(
    sampler: SamplerSpec, noise_levels: NoiseLevels, total: int, kept: int | None, solver: Solver
) -> Tensor:
    """The level of the start, then those that are visited: of `kept` timesteps, None = of all."""
    count = len(noise_levels)
    if total > count:  # there are no more timesteps: as far into the noise, in fewer steps
        total, kept = count, None if kept is None else kept * count // total
    grid = ddim_timesteps(count, total)
    start = count - 1 if kept is None else grid[min(kept, len(grid) - 1)]
    visited = [float(timestep) for timestep in reversed(grid[:kept])]
    if sampler.path == "unipc":
        top = start if kept is None else visited[0] if visited else start
        visited = _spaced(noise_levels, top, max(len(visited), 1), solver.unipc_skip)
    sigma = noise_levels.sigma(torch.tensor([start, *visited], dtype=torch.float64))
    if len(visited) < 2:  # no step between them: one from the start to clean latents
        return torch.stack([sigma[0], sigma[0], torch.zeros_like(sigma[0])])
    return sigma


def _spaced(levels: NoiseLevels, top: float, steps: int, skip: str) -> list[float]:
    """UniPC's timesteps, from `top` to 0: equal steps in time, in its root, or in log sigma."""
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if skip == "logSNR":
        ends = levels.sigma(torch.tensor([top, 0], dtype=torch.float64)).log()
        return [float(t) for t in levels.timestep(torch.lerp(ends[0], ends[1], ramp).exp())]
    power = 0.5 if skip == "time_quadratic" else 1.0
    first, last = (top + 1) ** power, 1.0  # time runs from 1/T to 1: one more than the timestep, over T
    return [float(t) for t in (first + ramp * (last - first)) ** (1 / power) - 1]
