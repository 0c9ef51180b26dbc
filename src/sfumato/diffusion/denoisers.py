"""From a network's prediction to clean latents.

Samplers know one thing: a `Denoiser`. What the network predicts (noise or velocity), guidance, control and
masks are wrappers that give a denoiser again.

Shape letters: B pictures, C latent channels, H W latent size.
"""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol

from torch import Tensor

from sfumato.diffusion.schedules import NoiseLevels
from sfumato.types import Prediction

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""x (B,C,H,W) = clean + sigma noise, sigma (B,) > 0 -> the expected clean latents (B,C,H,W)."""


class PairDenoiser(Protocol):
    """A `Denoiser` that also keeps what the negative prompt alone gave in its last call."""

    @property
    def uncond(self) -> Tensor | None: ...  # (B,C,H,W); None = not known  # noqa: D102

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor: ...  # noqa: D102


Told = ParamSpec("Told")  # whatever else a network is told: its context, its control


def parameterise(
    network: Callable[Concatenate[Tensor, Tensor, Told], Tensor], levels: NoiseLevels, prediction: Prediction
) -> Callable[Concatenate[Tensor, Tensor, Told], Tensor]:
    """Turn a network that predicts noise or velocity into a denoiser.

    The network sees latents of unit variance, x / sqrt(sigma^2 + 1), and the timestep at which it was trained
    on this sigma, a fraction where sigma lies between two levels. What it returns is brought to the dtype of
    x; all arithmetic here is in the dtype of x.

    Source: Karras et al. 2022 (arXiv:2206.00364), section 5 and table 1 (column iDDPM + DDIM): c_in;
    velocity: Salimans & Ho 2022 (arXiv:2202.00512), appendix D.

    Args:
        network: (scaled latents (B,C,H,W), timesteps (B,) float, …) -> prediction (B,C,H,W), any dtype.
            Further arguments are handed on. It casts its input and adds channels where its weights want that.
        levels: what the network was trained on, on the latents' device.
        prediction: "eps" or "v".

    Returns:
        (x, sigma, …) -> clean latents; a `Denoiser` where the network takes no further arguments, a
        `guidance.ContextDenoiser` where it takes its context.
    """

    def denoise(x: Tensor, sigma: Tensor, /, *args: Told.args, **kwargs: Told.kwargs) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        c_in = (s.square() + 1).rsqrt()
        predicted = network(x * c_in, levels.timestep(sigma), *args, **kwargs).to(x.dtype)
        if prediction == "eps":
            return x - s * predicted
        return c_in.square() * x - s * c_in * predicted

    return denoise


CONSISTENCY_LEVELS = 50  # at which networks are distilled


def distilled_levels(levels: NoiseLevels) -> NoiseLevels:
    """Give those of the trained levels at which consistency networks are distilled: every 20th of 1000.

    Source: Luo et al. 2023 (arXiv:2310.04378), section 4.3 and its released code: 50 DDIM timesteps.

    Args:
        levels: what the teacher was trained on.
    """
    stride = max(len(levels) // CONSISTENCY_LEVELS, 1)
    return NoiseLevels(levels.log_sigmas[stride - 1 :: stride].contiguous())


def consistency(
    network: Callable[Concatenate[Tensor, Tensor, Told], Tensor], levels: NoiseLevels, prediction: Prediction
) -> Callable[Concatenate[Tensor, Tensor, Told], Tensor]:
    """Turn a distilled network into a consistency function, which gives back x where there is no noise.

    The network is told the nearest timestep at which it was distilled.

    Source: Luo et al. 2023 (arXiv:2310.04378), equation 9, with c_skip and c_out as released: sigma_data 1/2
    and timesteps ten times as large; Song et al. 2023 (arXiv:2303.01469), appendix C.

    Args:
        network: see `parameterise`.
        levels: what its teacher was trained on, on the latents' device.
        prediction: "eps" or "v".

    Returns:
        As `parameterise`.
    """
    fewer = distilled_levels(levels)
    stride = len(levels) // len(fewer)

    def timestep(place: Tensor) -> Tensor:
        return place.round() * stride + stride - 1

    def snapped(x: Tensor, place: Tensor, /, *args: Told.args, **kwargs: Told.kwargs) -> Tensor:
        return network(x, timestep(place), *args, **kwargs)

    plain = parameterise(snapped, fewer, prediction)

    def denoise(x: Tensor, sigma: Tensor, /, *args: Told.args, **kwargs: Told.kwargs) -> Tensor:
        scaled = 10 * timestep(fewer.timestep(sigma)).view(-1, 1, 1, 1)
        square = scaled.square() + 0.25
        return scaled * square.rsqrt() * plain(x, sigma, *args, **kwargs) + 0.25 / square * x

    return denoise


class Watched:
    """A denoiser that counts its calls and keeps its last answer, for previews and progress."""

    def __init__(self, denoise: Denoiser, guided: PairDenoiser | None = None) -> None:
        """Wrap `denoise`; nothing was asked yet. `guided`: the one inside it that keeps `uncond`."""
        self.denoise, self._guided = denoise, guided
        self.calls = 0
        self.clean: Tensor | None = None  # (B,C,H,W)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Give what the wrapped denoiser gives."""
        self.clean = self.denoise(x, sigma)
        self.calls += 1
        return self.clean

    @property
    def uncond(self) -> Tensor | None:
        """What the negative prompt alone gave in the last call (B,C,H,W); None where nobody keeps it."""
        return None if self._guided is None else self._guided.uncond


def switch(first: PairDenoiser, second: Callable[[int], PairDenoiser], at_sigma: float) -> "Switched":
    """Hand a run over to another denoiser once it has come down to a noise level.

    It does not go back, whatever levels a sampler visits afterwards.

    Source: own; networks for ranges of noise: Balaji et al. 2022 (arXiv:2211.01324), section 3.

    Args:
        first: is asked at the levels above.
        second: makes the denoiser that takes over, given the number of calls made before; called once, when
            it is needed.
        at_sigma: the level; at it the second is asked already. Reads sigma back from its device.
    """
    return Switched(first, second, at_sigma)


class Switched:
    """What `switch` gives."""

    def __init__(self, first: PairDenoiser, second: Callable[[int], PairDenoiser], at_sigma: float) -> None:
        """See `switch`."""
        self.present, self._second, self._at_sigma = first, second, at_sigma
        self.switched = False
        self.calls = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Give what the denoiser for this level gives."""
        if not self.switched and float(sigma[0]) <= self._at_sigma:
            self.present, self.switched = self._second(self.calls), True
        self.calls += 1
        return self.present(x, sigma)

    @property
    def uncond(self) -> Tensor | None:
        """What the negative prompt alone gave in the last call (B,C,H,W)."""
        return self.present.uncond
