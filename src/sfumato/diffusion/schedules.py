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
from sfumato.types import Levels

Array = npt.NDArray[np.float64]

DEFAULT_LEVELS = Levels()

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
    rule: Callable[[NoiseLevels, int, Levels], Tensor]  # (levels, N, options) -> (N+1,) float64, falling
    trained_only: bool = False  # it visits trained levels, so that there are no more than T steps

    def sigmas(
        self,
        levels: NoiseLevels,
        steps: int,
        options: Levels = DEFAULT_LEVELS,
        *,
        discard_penultimate: bool = False,
    ) -> Tensor:
        """Give the noise levels between which a sampler steps.

        Args:
            levels: what the network was trained on.
            steps: N, at least 1.
            options: range and shape, for the schedules that have them; see `Levels`.
            discard_penultimate: for samplers that want it: make N + 1 steps and drop the last but one level.

        Returns:
            (N+1,) float64 on the CPU, falling strictly, the last one 0 (except for KL Optimal). "DDIM" gives
            more where N does not divide T: see `ddim_timesteps`.

        Raises:
            RequestError: a schedule of trained levels has fewer than asked for; a range turned around; steps
                that the options press onto one level.
        """
        wanted = steps + discard_penultimate
        if steps < 1 or (self.trained_only and wanted > len(levels)):
            most = f"1 to {len(levels) - discard_penultimate}" if self.trained_only else "1 and above"
            raise RequestError(f"steps={steps} is outside {most}, what the schedule {self.name} can give")
        sigmas = self.rule(levels, wanted, options)
        if not (sigmas.diff() < 0).all():
            raise RequestError(
                f"the schedule {self.name} puts several of {steps} steps on one noise level with these "
                f"options; take fewer steps or options nearer to its own"
            )
        return torch.cat([sigmas[:-2], sigmas[-1:]]) if discard_penultimate else sigmas


def _ramp(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _then_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _ends(levels: NoiseLevels, options: Levels) -> tuple[float, float]:
    """The highest and the lowest sigma to visit."""
    top = levels.sigma_max if options.sigma_max is None else options.sigma_max
    bottom = levels.sigma_min if options.sigma_min is None else options.sigma_min
    if bottom >= top:
        raise RequestError(f"sigma_min={bottom:g} is not below the highest noise level, {top:g}")
    return top, bottom


def _uniform(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Equal steps in time over all that was trained, both ends visited."""
    return _then_zero(levels.sigma((len(levels) - 1) * (1 - _ramp(steps))))


def _normal(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Equal steps in time over the range, both ends visited."""
    return _then_zero(levels.sigma(_times(levels, steps, options)))


def _sgm_uniform(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Equal steps in time, the quiet end left to the step to zero."""
    return _then_zero(levels.sigma(_times(levels, steps + 1, options)[:-1]))


def _times(levels: NoiseLevels, count: int, options: Levels) -> Tensor:
    first, last = levels.timestep(torch.tensor(_ends(levels, options), dtype=torch.float64)).tolist()
    return torch.as_tensor(first + _ramp(count) * (last - first))


def _karras(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Equal steps in sigma^(1/rho): Karras et al. 2022 (arXiv:2206.00364), equation 5."""
    return _then_zero(
        karras_levels(*_ends(levels, options), steps, 7 if options.rho is None else options.rho)
    )


def karras_levels(top: float, bottom: float, count: int, rho: float = 7) -> Tensor:
    """Give `count` levels at equal distances in sigma^(1/rho): (count,) float64 from `top` to `bottom`.

    Source: Karras et al. 2022 (arXiv:2206.00364), equation 5.

    Args:
        top: highest sigma; the only one where count is 1.
        bottom: lowest sigma, above 0.
        count: levels, at least 1.
        rho: how much closer they stand at the quiet end; 1 = not at all.
    """
    first, last = top ** (1 / rho), bottom ** (1 / rho)
    return torch.as_tensor((first + _ramp(count) * (last - first)) ** rho)


def _exponential(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Equal steps in log sigma."""
    top, bottom = map(math.log, _ends(levels, options))
    return _then_zero((top + _ramp(steps) * (bottom - top)).exp())


def _polyexponential(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Steps in log sigma that shrink with the power rho of the way left; 1 = equal steps."""
    top, bottom = map(math.log, _ends(levels, options))
    left = (1 - _ramp(steps)) ** (1 if options.rho is None else options.rho)
    return _then_zero((bottom + left * (top - bottom)).exp())


def _simple(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Trained levels at equal distances from the top, rounded."""
    count = len(levels)
    timesteps = [count - 1 - i * count // steps for i in range(steps)]
    return _then_zero(levels.log_sigmas.double()[timesteps].exp())


def ddim_timesteps(count: int, steps: int) -> list[int]:
    """Give the trained levels of DDIM: 1, 1 + s, 1 + 2 s, … below T, with s = floor(T / N).

    Where N does not divide T these are more than N (31 for 30 steps of 1000), as in the programs whose
    pictures are to be made again. One step has the top instead of timestep 1, where nothing is left to do.

    Source: Song et al. 2020 (arXiv:2010.02502), section 4.2 and its released code ("uniform" with offset 1).

    Args:
        count: trained levels T.
        steps: N, from 1 to T.

    Returns:
        At least min(N, T - 1) timesteps, rising strictly.
    """
    if steps == 1:
        return [count - 1]
    return list(range(1, count, count // steps))


def _ddim(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """The trained levels of DDIM."""
    return _then_zero(levels.log_sigmas.double()[ddim_timesteps(len(levels), steps)].exp().flip(0))


def _kl_optimal(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Equal steps in atan sigma, ending above zero: Sabour et al. 2024 (arXiv:2404.14507), section 3."""
    top, bottom = map(math.atan, _ends(levels, options))
    return (top + _ramp(steps + 1) * (bottom - top)).tan()


_ALIGNED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


def _align_your_steps(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """The optimised levels of Sabour et al. 2024 (arXiv:2404.14507) for SD 1.5, log-linear between them."""
    known = np.log(np.array(_ALIGNED))
    wanted = np.linspace(0, len(known) - 1, steps)
    return _then_zero(torch.from_numpy(np.exp(np.interp(wanted, np.arange(len(known)), known))))


def _beta(levels: NoiseLevels, steps: int, options: Levels) -> Tensor:
    """Quantiles of a beta distribution, by default (0.6, 0.6): Lee et al. 2024 (arXiv:2407.12173)."""
    top, bottom = _ends(levels, options)
    share = beta_quantile(1 - _ramp(steps).numpy(), options.beta_alpha, options.beta_beta)
    return _then_zero(bottom + torch.from_numpy(share) * (top - bottom))


def beta_quantile(p: Array, a: float, b: float) -> Array:
    """Invert the distribution function of Beta(a, b).

    Source: the substitution t = u^k, k >= 2 and k a whole, takes the singularity out of the incomplete beta
    integral; Gauss-Legendre quadrature and bisection below 1/2, and above it the same for Beta(b, a) at
    1 - t. Exact to about 1e-9.

    Args:
        p: probabilities in [0, 1], any shape.
        a: first shape parameter, in [0.01, 10].
        b: second shape parameter, in [0.01, 10].
    """
    lower, upper = (_beta_mass(np.array(0.5), *shape) for shape in ((a, b), (b, a)))
    x = _beta_invert(p * (lower + upper), a, b, lower)
    y = _beta_invert((1 - p) * (lower + upper), b, a, upper)
    return np.where(p * (lower + upper) <= lower, x, 1 - y)


def _beta_mass(x: Array, a: float, b: float) -> Array:
    """The integral of t^(a-1) (1-t)^(b-1) from 0 to x <= 1/2."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    k = math.ceil(2 * a) / a
    top = x[..., None] ** (1 / k)
    u = top * (nodes + 1) / 2
    return np.asarray((k * u ** (k * a - 1) * (1 - u**k) ** (b - 1)) @ weights * top[..., 0] / 2)


def _beta_invert(wanted: Array, a: float, b: float, most: Array) -> Array:
    """The x in [0, 1/2] below which `wanted` of the mass lies, in u = sqrt(x) for more digits near 0."""
    wanted = np.minimum(wanted, most)
    low, high = np.zeros_like(wanted), np.full_like(wanted, math.sqrt(0.5))
    for _ in range(60):
        middle = (low + high) / 2
        below = _beta_mass(middle**2, a, b) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(wanted == 0, 0.0, ((low + high) / 2) ** 2)


AUTOMATIC = "Automatic"

SCHEDULES: Mapping[str, ScheduleSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ScheduleSpec(name=AUTOMATIC, rule=_uniform),  # the model's own, for samplers without a default
            ScheduleSpec(name="Uniform", rule=_uniform),
            ScheduleSpec(name="Karras", rule=_karras),
            ScheduleSpec(name="Exponential", rule=_exponential),
            ScheduleSpec(name="Polyexponential", rule=_polyexponential),
            ScheduleSpec(name="SGM Uniform", aliases=("sgm_uniform", "SGMUniform"), rule=_sgm_uniform),
            ScheduleSpec(name="KL Optimal", aliases=("kl_optimal",), rule=_kl_optimal),
            ScheduleSpec(
                name="Align Your Steps", aliases=("align_your_steps", "AYS"), rule=_align_your_steps
            ),
            ScheduleSpec(name="Simple", rule=_simple, trained_only=True),
            ScheduleSpec(name="Normal", rule=_normal),
            ScheduleSpec(name="DDIM", rule=_ddim, trained_only=True),
            ScheduleSpec(name="Beta", rule=_beta),
        )
    }
)
"""Every schedule by name. A sampler's "Automatic" is the row its `default_schedule` names."""


def find_schedule(name: str) -> ScheduleSpec:
    """Look a schedule up by name or alias, case ignored.

    Source: own.

    Args:
        name: as in `SCHEDULES`; a sampler may mean another row by "Automatic", see `samplers.resolve`.

    Raises:
        RequestError: no such schedule; names the nearest.
    """
    spec = lookup.find(SCHEDULES, name)
    if spec is None:
        raise lookup.unknown(SCHEDULES, name, "schedule")
    return spec
