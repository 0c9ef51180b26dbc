"""What several samplers share: the levels as numbers, the ancestral split, noise put back before a step.

Shape letters: B pictures, C latent channels, H W latent size, N steps.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise import NoiseSampler


def levels_of(sigmas: Tensor) -> list[float]:
    """Give the noise levels as Python numbers, so that no step waits for a device.

    Source: own.

    Args:
        sigmas: (N+1,) noise levels, falling strictly, none below 0.
    """
    levels: list[float] = sigmas.tolist()
    assert all(a > b >= 0 for a, b in pairwise(levels)), f"sigmas must fall strictly, got {levels}"
    return levels


def filled(x: Tensor, sigma: float) -> Tensor:
    """Give every picture of x (B,C,H,W) the same level: (B,), device and dtype of x.

    Source: own.

    Args:
        x: latents (B,C,H,W).
        sigma: noise level.
    """
    return x.new_full((len(x),), sigma)


def ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Split a step: the level to walk down to, and the noise that lifts it to sigma_next.

    Source: Song et al. 2020 (arXiv:2010.02502), equation 16, with x divided by sqrt(alpha_bar).

    Args:
        sigma: level before the step, above 0.
        sigma_next: level after it, lower.
        eta: share of fresh noise in [0, 1].
    """
    up = min(sigma_next, eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2))
    return math.sqrt(sigma_next**2 - up**2), up


class Churn:
    """Noise added before each step, with the level raised to match.

    Source: Karras et al. 2022 (arXiv:2206.00364), Algorithm 2, lines 3 to 6.
    """

    def __init__(
        self,
        levels: Sequence[float],
        noise: NoiseSampler,
        s_churn: float,
        s_tmin: float,
        s_tmax: float | None,
        s_noise: float,
    ) -> None:
        """Settle by how much each level is raised.

        Args:
            levels: N + 1 noise levels.
            noise: gives standard normal numbers; asked at every step, whether that level is raised or not,
                so that each step has its own noise whatever the range; never where s_churn = 0.
            s_churn: how much in all, shared among the steps.
            s_tmin: lowest level that is raised.
            s_tmax: highest; None = no limit.
            s_noise: standard deviation of the noise, 1 = as much as the level says.
        """
        self.noise, self.active, self.s_noise = noise, s_churn > 0, s_noise
        self.gamma = min(s_churn / max(len(levels) - 1, 1), math.sqrt(2) - 1)
        self.low, self.high = s_tmin, math.inf if s_tmax is None else s_tmax

    def __call__(self, x: Tensor, sigma: float) -> tuple[Tensor, float]:
        """Give the latents (B,C,H,W) with noise added, and their level."""
        if not self.active:
            return x, sigma
        fresh = self.noise(sigma, sigma).to(x)
        if not self.low <= sigma <= self.high:
            return x, sigma
        raised = sigma * (1 + self.gamma)
        return x + math.sqrt(raised**2 - sigma**2) * self.s_noise * fresh, raised
