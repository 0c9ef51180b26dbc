import pytest
import torch

from sfumato.diffusion.denoisers import Watched, parameterise, switch
from sfumato.diffusion.schedules import sd_noise_levels

LEVELS = sd_noise_levels()
STD = 0.7


def ideal_network(prediction):
    """The best possible network for data N(0, STD^2), as a function of what a network is given."""

    def network(scaled, timesteps):
        sigma = LEVELS.sigma(timesteps).view(-1, 1, 1, 1)
        share = 1 / (1 + sigma**2)  # alpha_bar
        noisy_variance = share * STD**2 + 1 - share
        clean = share.sqrt() * STD**2 / noisy_variance * scaled
        noise = (1 - share).sqrt() / noisy_variance * scaled
        return noise if prediction == "eps" else share.sqrt() * noise - (1 - share).sqrt() * clean

    return network


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_ideal_network_becomes_the_ideal_denoiser(prediction):
    denoise = parameterise(ideal_network(prediction), LEVELS, prediction)
    x = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    sigma = torch.tensor([0.03, 0.2, 1.0, 5.0, 14.6], dtype=torch.float64)
    expected = x * STD**2 / (STD**2 + sigma.view(-1, 1, 1, 1) ** 2)
    # Float64 rounding; the way through the timestep and back costs four digits.
    torch.testing.assert_close(denoise(x, sigma), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_half_precision_network_leaves_float32_latents(prediction):
    seen = []

    def network(scaled, timesteps):
        seen.append((scaled.dtype, timesteps.dtype, timesteps.shape))
        return scaled.bfloat16()

    out = parameterise(network, LEVELS, prediction)(torch.ones(2, 4, 2, 2), torch.tensor([1.0, 2.0]))
    assert out.dtype == torch.float32
    assert seen == [(torch.float32, torch.float32, (2,))]


def test_whatever_else_is_told_reaches_the_network():
    def network(scaled, timesteps, context, *, control):
        assert (context, control) == ("prompt", "edges")
        return scaled

    parameterise(network, LEVELS, "eps")(torch.ones(1, 4, 2, 2), torch.ones(1), "prompt", control="edges")


def test_a_velocity_network_without_signal_still_gives_clean_latents():
    levels = sd_noise_levels(zero_snr=True)
    clean = torch.full((1, 4, 2, 2), 0.3)
    denoise = parameterise(lambda scaled, timesteps: -clean, levels, "v")  # v = -clean where all is noise
    sigma = torch.full((1,), levels.sigma_max)
    # One part in 4096 of the noise is left in x / (sigma^2 + 1).
    torch.testing.assert_close(
        denoise(sigma.item() * torch.ones(1, 4, 2, 2), sigma), clean, rtol=0, atol=3e-4
    )


def test_a_watched_denoiser_counts_and_remembers():
    watched = Watched(lambda x, sigma: x / 2)
    assert (watched.calls, watched.clean) == (0, None)
    x = torch.ones(1, 4, 2, 2)
    assert torch.equal(watched(x, torch.ones(1)), x / 2)
    assert torch.equal(watched.clean, x / 2)
    assert watched.calls == 1


class Named:
    """Gives its name, counts its calls and keeps the levels it was asked at."""

    def __init__(self, name: float) -> None:
        self.name, self.asked = name, list[float]()
        self.uncond: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        self.asked.append(float(sigma[0]))
        self.uncond = torch.full_like(x, -self.name)
        return torch.full_like(x, self.name)


@pytest.mark.parametrize(
    ("at", "first", "second"),
    [
        (3.0, [9, 4], [3, 7, 1]),  # a level is the second's; rising again does not bring the first back
        (0.0, [9, 4, 3, 7, 1], []),
        (99.0, [], [9, 4, 3, 7, 1]),
    ],
)
def test_each_network_is_asked_on_its_side_of_the_switch(
    at: float, first: list[float], second: list[float]
) -> None:
    one, two = Named(1), Named(2)
    made: list[int] = []

    def take_over(calls: int) -> Named:
        made.append(calls)
        return two

    denoise = switch(one, take_over, at)
    x = torch.zeros(2, 4, 3, 3)
    for level in (9.0, 4.0, 3.0, 7.0, 1.0):
        answer = denoise(x, torch.tensor([level, level]))
        assert denoise.uncond is not None
        assert (denoise.uncond == -answer).all()
    assert (one.asked, two.asked) == (first, second)
    assert made == ([len(first)] if second else [])
