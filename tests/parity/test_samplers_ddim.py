"""DDIM, its levels and zero-terminal-SNR against diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from sfumato.diffusion.denoisers import parameterise
from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import (
    ddim_timesteps,
    scaled_linear_alphas_cumprod,
    sd_noise_levels,
    zero_terminal_snr,
)
from sfumato.types import Solver

LEVELS = sd_noise_levels()


def scheduler(prediction="epsilon"):
    made = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,  # the last step goes to clean latents
        steps_offset=1,
        prediction_type=prediction,
    )
    # diffusers' own table is in float32; the same arithmetic on the float64 table shows more digits.
    made.alphas_cumprod = scaled_linear_alphas_cumprod()
    return made


def network(scaled, timesteps):
    return scaled.sin() + timesteps.view(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize("steps", [2, 20, 30, 33])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_each_step_equals_diffusers(prediction, eta, steps):
    theirs = scheduler({"eps": "epsilon", "v": "v_prediction"}[prediction])
    theirs.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, 5, 5, generator=generator, dtype=torch.float64)
    draws = [torch.randn(start.shape, generator=generator, dtype=torch.float64) for _ in range(steps)]

    spec = SAMPLERS["DDIM"]
    sigmas = LEVELS.sigma(torch.tensor([999, *theirs.timesteps, -1]).double())
    sigmas[-1] = 0  # beyond where we stop, as diffusers goes on to clean latents
    left = iter(draws)
    ours = spec.sample(
        parameterise(network, LEVELS, prediction),
        start,
        sigmas,
        lambda sigma, sigma_next: next(left),
        Solver(eta=eta),
    )

    x = start
    assert len(theirs.timesteps) == steps
    for i, (timestep, got) in enumerate(zip(theirs.timesteps, ours, strict=True)):
        predicted = network(x, timestep.double().expand(2))
        last = i == steps - 1  # adds no noise, as nothing is above level zero
        x = theirs.step(
            predicted, timestep, x, eta=0.0 if last else eta, variance_noise=None if last else draws[i]
        ).prev_sample
        # Float64 throughout; 1 - alpha_bar and its square roots cancel up to four digits near alpha_bar = 1.
        torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [2, 4, 20, 50, 500])  # divisors of 1000; for others we take more levels
def test_the_levels_are_those_of_diffusers(steps):
    theirs = scheduler()
    theirs.set_timesteps(steps)
    assert ddim_timesteps(1000, steps) == theirs.timesteps.flip(0).tolist()


def test_the_signal_variances_are_those_of_diffusers():
    fresh = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    # A float32 product of 1000 factors.
    torch.testing.assert_close(
        scaled_linear_alphas_cumprod().float(), fresh.alphas_cumprod, rtol=3e-5, atol=0
    )


def test_zero_terminal_snr_equals_diffusers():
    ours = zero_terminal_snr(scaled_linear_alphas_cumprod())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    theirs = (1 - rescale_zero_terminal_snr(betas)).cumprod(0)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)
