"""The noise levels a network knows, and the order in which a sampler visits them.

A network is trained on T discrete levels, numbered by timestep. Sampling speaks of sigma: the standard
deviation of the noise when the clean latents are not scaled down, sigma^2 = (1 - alpha_bar) / alpha_bar.
Both are joined by `NoiseLevels`. A schedule picks sigmas from the noisiest down to zero.

Shape letters: T trained levels (1000 in Stable Diffusion), B pictures, N steps.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfumato.diffusion import lookup
from sfumato.errors import RequestError

Array = npt.NDArray[np.float64]

_SMALLEST_ALPHA_BAR = 2.0**-24  # in place of zero, so that sigma (4096) stays finite


def scaled_linear_alphas_cumprod(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Give the share of signal variance at each trained level: (T,) float64, falling.

    Source: Rombach et al. 2022 (arXiv:2112.10752), the released training configuration: the square root of
    beta is linear.

    Args:
        steps: trained levels T.
        first: beta at timestep 0.
        last: beta at timestep T - 1.
    """
    betas = torch.linspace(math.sqrt(first), math.sqrt(last), steps, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and stretch the levels so that the last has no signal left and the first stays.

    Source: Lin et al. 2023 (arXiv:2305.08891), Algorithm 1.

    Args:
        alphas_cumprod: (T,) share of signal variance, falling.

    Returns:
        (T,), from alphas_cumprod[0] to exactly 0.
    """
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The levels a network was trained on; between two of them log sigma is linear in the timestep."""

    log_sigmas: Tensor  # (T,), rising

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> "NoiseLevels":
        """Take the levels from the share of signal variance (T,), falling, in [0, 1)."""
        share = alphas_cumprod.double().clamp(min=_SMALLEST_ALPHA_BAR)
        return cls(((1 - share) / share).log() / 2)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "NoiseLevels":
        """Keep the table where the latents are, so that no step has to copy it."""
        return NoiseLevels(self.log_sigmas.to(device, dtype))

    def __len__(self) -> int:
        return len(self.log_sigmas)

    @property
    def sigma_min(self) -> float:
        """Sigma at timestep 0."""
        return math.exp(float(self.log_sigmas[0]))

    @property
    def sigma_max(self) -> float:
        """Sigma at timestep T - 1."""
        return math.exp(float(self.log_sigmas[-1]))

    def sigma(self, timestep: Tensor) -> Tensor:
        """Give sigma at timesteps of any shape, fractions included, in [0, T - 1]."""
        table = self.log_sigmas.to(timestep)
        low = timestep.floor().long().clamp(0, len(table) - 2)
        return torch.lerp(table[low], table[low + 1], timestep - low).exp()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Give the timestep, a fraction in [0, T - 1], of sigmas of any shape; outside ones are clamped."""
        table, log_sigma = self.log_sigmas.to(sigma), sigma.log()
        low = (torch.searchsorted(table, log_sigma, right=True) - 1).clamp(0, len(table) - 2)
        share = (log_sigma - table[low]) / (table[low + 1] - table[low])
        return low + share.clamp(0, 1)


def sd_noise_levels(*, zero_snr: bool = False) -> NoiseLevels:
    """Give the levels of Stable Diffusion 1.x and 2.x: 1000 sigmas from 0.02917 to 14.61464.

    Source: Rombach et al. 2022; zero_snr: Lin et al. 2023 (arXiv:2305.08891), with the last sigma 4096 for
    infinity.

    Args:
        zero_snr: for networks fine-tuned with `zero_terminal_snr`.
    """
    alphas = scaled_linear_alphas_cumprod()
    return NoiseLevels.from_alphas_cumprod(zero_terminal_snr(alphas) if zero_snr else alphas)


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """A schedule: its names and its rule."""

    name: str
    aliases: tuple[str, ...] = ()
    rule: Callable[[NoiseLevels, int], Tensor]  # (levels, N) -> (N+1,) float64, falling

    def sigmas(self, levels: NoiseLevels, steps: int, *, discard_penultimate: bool = False) -> Tensor:
        """Give the noise levels between which a sampler steps.

        Args:
            levels: what the network was trained on.
            steps: N, at least 1 and (with the discarded one) at most T.
            discard_penultimate: for samplers that want it: make N + 1 steps and drop the last but one level.

        Returns:
            (N+1,) float64 on the CPU, falling strictly, the last one 0 (except for KL Optimal).

        Raises:
            RequestError: more steps than levels.
        """
        most = len(levels) - discard_penultimate
        if not 1 <= steps <= most:
            raise RequestError(f"steps={steps} is outside 1 to {most}, the noise levels this model knows")
        if not discard_penultimate:
            return self.rule(levels, steps)
        sigmas = self.rule(levels, steps + 1)
        return torch.cat([sigmas[:-2], sigmas[-1:]])


def _ramp(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _then_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _uniform(levels: NoiseLevels, steps: int) -> Tensor:
    """Equal steps in time, both ends visited."""
    return _then_zero(levels.sigma((len(levels) - 1) * (1 - _ramp(steps))))


def _sgm_uniform(levels: NoiseLevels, steps: int) -> Tensor:
    """Equal steps in time, the quiet end left to the step to zero."""
    return _then_zero(levels.sigma((len(levels) - 1) * (1 - _ramp(steps + 1)[:-1])))


def _karras(levels: NoiseLevels, steps: int) -> Tensor:
    """Equal steps in sigma^(1/7): Karras et al. 2022 (arXiv:2206.00364), equation 5."""
    rho = 7
    top, bottom = levels.sigma_max ** (1 / rho), levels.sigma_min ** (1 / rho)
    return _then_zero((top + _ramp(steps) * (bottom - top)) ** rho)


def _exponential(levels: NoiseLevels, steps: int) -> Tensor:
    """Equal steps in log sigma."""
    top, bottom = math.log(levels.sigma_max), math.log(levels.sigma_min)
    return _then_zero((top + _ramp(steps) * (bottom - top)).exp())


def _simple(levels: NoiseLevels, steps: int) -> Tensor:
    """Trained levels at equal distances from the top, rounded."""
    count = len(levels)
    timesteps = [count - 1 - i * count // steps for i in range(steps)]
    return _then_zero(levels.log_sigmas.double()[timesteps].exp())


def ddim_timesteps(count: int, steps: int) -> list[int]:
    """Give the trained levels that DDIM visits: 1, 1 + s, 1 + 2 s, … with s = floor(T / N), N of them.

    Existing programs differ where N does not divide T: some run all the levels up to T (31 for 30 steps of
    1000). Here as in diffusers the first N are taken, so that N steps are N calls of the network. One step
    starts at the top instead of timestep 1, where there would be nothing left to do.

    Source: Song et al. 2020 (arXiv:2010.02502), section 4.2 and its released code ("uniform" with offset 1).

    Args:
        count: trained levels T.
        steps: N, from 1 to T.

    Returns:
        N timesteps, rising.
    """
    if steps == 1:
        return [count - 1]
    stride = count // steps
    offset = min(1, count - 1 - (steps - 1) * stride)  # N = T has no room for the shift by one
    return [offset + i * stride for i in range(steps)]


def _ddim(levels: NoiseLevels, steps: int) -> Tensor:
    """The trained levels of DDIM."""
    return _then_zero(levels.log_sigmas.double()[ddim_timesteps(len(levels), steps)].exp().flip(0))


def _kl_optimal(levels: NoiseLevels, steps: int) -> Tensor:
    """Equal steps in atan sigma, ending above zero: Sabour et al. 2024 (arXiv:2404.14507), section 3."""
    top, bottom = math.atan(levels.sigma_max), math.atan(levels.sigma_min)
    return (top + _ramp(steps + 1) * (bottom - top)).tan()


_ALIGNED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


def _align_your_steps(levels: NoiseLevels, steps: int) -> Tensor:
    """The optimised levels of Sabour et al. 2024 (arXiv:2404.14507) for SD 1.5, log-linear between them."""
    known = np.log(np.array(_ALIGNED))
    wanted = np.linspace(0, len(known) - 1, steps)
    return _then_zero(torch.from_numpy(np.exp(np.interp(wanted, np.arange(len(known)), known))))


def _beta(levels: NoiseLevels, steps: int) -> Tensor:
    """Quantiles of the beta distribution (0.6, 0.6): Lee et al. 2024 (arXiv:2407.12173)."""
    share = torch.from_numpy(symmetric_beta_quantile(1 - _ramp(steps).numpy(), 0.6))
    return _then_zero(levels.sigma_min + share * (levels.sigma_max - levels.sigma_min))


def symmetric_beta_quantile(p: Array, a: float) -> Array:
    """Invert the distribution function of Beta(a, a).

    Source: the substitution u = x^a takes the singularity out of the incomplete beta integral; Gauss-Legendre
    quadrature on the lower half, bisection, and symmetry for the upper half. Exact to about 1e-9.

    Args:
        p: probabilities in [0, 1], any shape.
        a: shape parameter, in (0, 1].
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)

    def mass_below(x: Array) -> Array:
        top = x[..., None] ** a
        u = top * (nodes + 1) / 2
        return np.asarray((1 - u ** (1 / a)) ** (a - 1) @ weights * top[..., 0] / 2)

    wanted = np.minimum(p, 1 - p) * 2 * mass_below(np.array(0.5))
    low, high = np.zeros_like(p), np.full_like(p, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        below = mass_below(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    x = np.where(np.minimum(p, 1 - p) == 0, 0.0, (low + high) / 2)
    return np.where(p > 0.5, 1 - x, x)


SCHEDULES: Mapping[str, ScheduleSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ScheduleSpec(name="Uniform", rule=_uniform),
            ScheduleSpec(name="Karras", rule=_karras),
            ScheduleSpec(name="Exponential", rule=_exponential),
            ScheduleSpec(name="Polyexponential", rule=_exponential),  # with its exponent's default, 1
            ScheduleSpec(name="SGM Uniform", aliases=("sgm_uniform", "SGMUniform"), rule=_sgm_uniform),
            ScheduleSpec(name="KL Optimal", aliases=("kl_optimal",), rule=_kl_optimal),
            ScheduleSpec(
                name="Align Your Steps", aliases=("align_your_steps", "AYS"), rule=_align_your_steps
            ),
            ScheduleSpec(name="Simple", rule=_simple),
            ScheduleSpec(name="Normal", rule=_uniform),
            ScheduleSpec(name="DDIM", rule=_ddim),
            ScheduleSpec(name="Beta", rule=_beta),
        )
    }
)
"""Every schedule by name. A sampler's "Automatic" is the row its `default_schedule` names."""


def find_schedule(name: str) -> ScheduleSpec:
    """Look a schedule up by name or alias, case ignored.

    Source: own.

    Args:
        name: as in `SCHEDULES`; "Automatic" is resolved by the sampler, see `samplers.resolve`.

    Raises:
        RequestError: no such schedule; names the nearest.
    """
    spec = lookup.find(SCHEDULES, name)
    if spec is None:
        raise lookup.unknown(SCHEDULES, name, "schedule")
    return spec
