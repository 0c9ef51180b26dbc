"""The samplers with timesteps of their own, LCM, and zero-terminal-SNR against diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, PNDMScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from sfumato.diffusion.denoisers import parameterise
from sfumato.diffusion.samplers import SAMPLERS, trajectory
from sfumato.diffusion.samplers_timestep import _unipc_weights
from sfumato.diffusion.schedules import (
    SCHEDULES,
    ddim_timesteps,
    scaled_linear_alphas_cumprod,
    sd_noise_levels,
    zero_terminal_snr,
)
from sfumato.types import Solver

LEVELS = sd_noise_levels()


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler(prediction="epsilon"):
    made = DDIMScheduler(
        **BETAS,
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


def start_noise(pictures=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(pictures, 4, 5, 5, generator=generator, dtype=torch.float64)


class Pair:
    """A guided denoiser: its answer, and another one for the negative prompt."""

    uncond = None

    def __init__(self):
        self.guided = parameterise(network, LEVELS, "eps")
        self.negative = parameterise(lambda x, t: network(2 * x, t), LEVELS, "eps")

    def __call__(self, x, sigma):
        self.uncond = self.negative(x, sigma)
        return self.guided(x, sigma)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_cfgpp_is_the_papers_step(eta):
    spec, steps = SAMPLERS["DDIM CFG++"], 20
    sigmas = trajectory(spec, SCHEDULES["Automatic"], LEVELS, steps)
    x = start_noise()
    draws = torch.randn(steps, *x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left = iter(draws)
    got = list(spec.sample(Pair(), x, sigmas, lambda sigma, sigma_next: next(left), Solver(eta=eta)))
    alphas = scaled_linear_alphas_cumprod()
    for i, timestep in enumerate(range(951, 50, -50)):
        a, a_next = alphas[timestep], alphas[timestep - 50]
        told = torch.full((2,), float(timestep), dtype=torch.float64)
        clean = (x - (1 - a).sqrt() * network(x, told)) / a.sqrt()
        spread = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
        direction = (1 - a_next - spread**2).sqrt() * network(2 * x, told)
        x = a_next.sqrt() * clean + direction + spread * draws[i]
        torch.testing.assert_close(got[i], x, rtol=1e-9, atol=1e-9)
    assert i == len(got) - 1


@pytest.mark.parametrize("steps", [4, 20])
def test_plms_equals_diffusers(steps):
    theirs = PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    theirs.alphas_cumprod = scaled_linear_alphas_cumprod()
    theirs.set_timesteps(steps)
    spec = SAMPLERS["PLMS"]
    sigmas = trajectory(spec, SCHEDULES["Automatic"], LEVELS, steps)
    x = start_noise()
    ours = list(spec.sample(parameterise(network, LEVELS, "eps"), x, sigmas, None))
    assert len(ours) == steps - 1  # it ends at timestep 1; diffusers goes on to clean latents
    found = []
    for timestep in theirs.timesteps:
        x = theirs.step(network(x, timestep.double().expand(2)), timestep, x).prev_sample
        found.append(x)
    for got, expected in zip(ours, found[1:-1], strict=True):  # its first step has two parts
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("steps", [3, 5, 20])
def test_unipc_equals_diffusers(steps, lower, order, variant):
    theirs = UniPCMultistepScheduler(
        **BETAS,
        solver_order=order,
        solver_type=variant,
        lower_order_final=lower,
        final_sigmas_type="sigma_min",
    )
    theirs.set_timesteps(steps)
    spec = SAMPLERS["UniPC"]
    sigmas = trajectory(spec, SCHEDULES["Automatic"], LEVELS, 20)[-steps - 1 :]
    sigmas = torch.cat([sigmas[:1], sigmas])
    theirs.sigmas = sigmas[1:]  # as it spaces them otherwise
    denoise = parameterise(network, LEVELS, "eps")
    x = start_noise()
    solver = Solver(unipc_variant=variant, unipc_order=order, unipc_lower_order_final=lower)
    ours = list(spec.sample(denoise, x, sigmas, None, solver))
    assert len(ours) == steps
    for i, timestep in enumerate(theirs.timesteps):
        predicted = network(x, LEVELS.timestep(sigmas[i + 1].expand(2)))
        x = theirs.step(predicted, timestep, x).prev_sample  # still to be corrected, save for the last
    # Linear systems of order 3 in float64 cost three digits, and twenty steps add up.
    torch.testing.assert_close(ours[-1], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["bh1", "vary_coeff"])
def test_unipcs_variants_agree_where_all_weights_are_solved_for(variant):
    points, h = [-0.7, 1.0], 0.6
    # Both integrate e^(s - h) times a parabola in s over the step exactly.
    for power in (1, 2):
        weights = _unipc_weights(points, h, variant)
        found = sum(weight * (point * h) ** power for weight, point in zip(weights, points, strict=True))
        s = torch.linspace(0, h, 200_001, dtype=torch.float64)
        expected = float(torch.trapezoid((s - h).exp() * s**power, s))
        assert found == pytest.approx(expected, rel=1e-8)


def test_lcm_equals_diffusers():
    theirs = LCMScheduler(**BETAS, original_inference_steps=50, clip_sample=False, set_alpha_to_one=True)
    theirs.alphas_cumprod = scaled_linear_alphas_cumprod()
    theirs.set_timesteps(4)
    sigmas = LEVELS.sigma(torch.tensor([*theirs.timesteps, -1]).double())
    sigmas[-1] = 0
    x = start_noise()
    spec = SAMPLERS["LCM"]
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(3, *x.shape, generator=generator, dtype=torch.float64)
    left = iter(draws)
    denoise = spec.denoiser(network, LEVELS, "eps")
    wide = x * (sigmas[0] ** 2 + 1).sqrt()  # their start is all noise
    ours = list(spec.sample(denoise, wide, sigmas, lambda sigma, sigma_next: next(left)))
    left = iter(draws)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(left))
        for i, timestep in enumerate(theirs.timesteps):
            x = theirs.step(network(x, timestep.double().expand(2)), timestep, x).prev_sample
            scale = (sigmas[i + 1] ** 2 + 1).sqrt()
            # They scale the share of x that is kept by sqrt(alpha_bar): at most 0.25 / 2590^2 of 14.
            torch.testing.assert_close(ours[i] / scale, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 4, 20, 50, 500])  # divisors of 1000; for others we take more levels
def test_the_levels_are_those_of_diffusers(steps):
    theirs = scheduler()
    theirs.set_timesteps(steps)
    assert ddim_timesteps(1000, steps) == theirs.timesteps.flip(0).tolist()


def test_the_signal_variances_are_those_of_diffusers():
    fresh = DDIMScheduler(**BETAS)
    # A float32 product of 1000 factors.
    torch.testing.assert_close(
        scaled_linear_alphas_cumprod().float(), fresh.alphas_cumprod, rtol=3e-5, atol=0
    )


def test_zero_terminal_snr_equals_diffusers():
    ours = zero_terminal_snr(scaled_linear_alphas_cumprod())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    theirs = (1 - rescale_zero_terminal_snr(betas)).cumprod(0)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-15)
