"""Every sampler against k-diffusion's, step by step, on the same denoiser and noise.

k-diffusion is loaded by file: importing the package would pull in torchvision and more.
"""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

from sfumato.diffusion.denoisers import parameterise
from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import (
    SCHEDULES,
    scaled_linear_alphas_cumprod,
    sd_noise_levels,
    zero_terminal_snr,
)
from sfumato.types import Solver

LEVELS = sd_noise_levels()
# Both sides compute in float64; each step rounds a handful of times at 1e-16, log and exp at large arguments
# cost two digits.
ROUNDING = {"rtol": 1e-11, "atol": 1e-11}
THEIRS = {
    "DPM++ 2M": "sample_dpmpp_2m",
    "DPM++ SDE": "sample_dpmpp_sde",
    "DPM++ 2M SDE": "sample_dpmpp_2m_sde",
    "Euler a": "sample_euler_ancestral",
    "Euler": "sample_euler",
    "LMS": "sample_lms",
    "Heun": "sample_heun",
    "DDIM": None,  # against diffusers, in test_samplers_ddim.py
}
CASES = [
    (name, eta)
    for name, theirs in THEIRS.items()
    for eta in ((None,) if SAMPLERS[name].eta is None else (0.0, 0.6, 1.0))
    if theirs
]


@pytest.fixture(scope="module")
def k_diffusion():
    spec = importlib.util.find_spec("k_diffusion")
    assert spec is not None, "the check needs k-diffusion: pip install --no-deps k-diffusion"
    folder = Path(next(iter(spec.submodule_search_locations)))
    package = types.ModuleType("kd")
    package.__path__ = []
    utils = types.ModuleType("kd.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]
    unused = types.ModuleType("torchdiffeq")
    unused.odeint = None
    stubs = {"kd": package, "kd.utils": utils, "torchdiffeq": unused}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stubs.items():
            patch.setitem(sys.modules, name, module)
        package.utils = utils
        for name in ("sampling", "external"):
            of_file = importlib.util.spec_from_file_location(f"kd.{name}", folder / f"{name}.py")
            module = importlib.util.module_from_spec(of_file)
            patch.setitem(sys.modules, of_file.name, module)
            of_file.loader.exec_module(module)
            setattr(package, name, module)
        yield package


def crooked(x, sigma):
    s = sigma.view(-1, 1, 1, 1)
    return (x / (1 + s)).tanh() + 0.2 * x.sin() / (1 + s)


class Replay:
    """Noise that depends on the two levels alone, so both programs get the same whatever they ask first."""

    def __init__(self, shape):
        self.shape = shape

    def __call__(self, sigma, sigma_next):
        seed = round(float(sigma) * 1e6) * 31 + round(float(sigma_next) * 1e6)
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("name", "eta"), CASES)
@pytest.mark.parametrize("steps", [2, 9])  # at one step k-diffusion's DPM++ 2M SDE fails
def test_each_step_equals_k_diffusions(k_diffusion, name, schedule, eta, steps):
    spec = SAMPLERS[name]
    sigmas = SCHEDULES[schedule].sigmas(LEVELS, steps)
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(1)).double() * sigmas[0]
    noise = Replay(x.shape)

    before = []  # k-diffusion reports the latents before each step

    def report(info):
        before.append(info["x"])

    options = {} if eta is None else {"eta": eta, "noise_sampler": noise}
    final = getattr(k_diffusion.sampling, THEIRS[name])(
        crooked, x, sigmas, callback=report, disable=True, **options
    )
    ours = list(spec.sample(crooked, x, sigmas, noise, Solver(eta=eta)))
    assert len(ours) == len(sigmas) - 1
    for got, expected in zip([x, *ours], [*before, final], strict=True):
        torch.testing.assert_close(got, expected, **ROUNDING)


def test_every_sampler_has_a_counterpart():
    assert set(THEIRS) == set(SAMPLERS)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_parameterisation_equals_k_diffusions(k_diffusion, prediction, zero_snr):
    alphas = scaled_linear_alphas_cumprod()
    if zero_snr:
        alphas = zero_terminal_snr(alphas).clamp(min=2.0**-24)

    def network(scaled, timesteps):
        return scaled.sin() + timesteps.view(-1, 1, 1, 1) / 1000

    external = k_diffusion.external
    wrap = external.DiscreteEpsDDPMDenoiser if prediction == "eps" else external.DiscreteVDDPMDenoiser

    class Bare(torch.nn.Module):
        def forward(self, scaled, timesteps):
            return network(scaled, timesteps)

    theirs = wrap(Bare(), alphas, quantize=False)
    ours = parameterise(network, sd_noise_levels(zero_snr=zero_snr), prediction)
    x = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    sigma = torch.tensor([0.001, 0.0291672, 0.5, 3.3, 14.6, 100.0], dtype=torch.float64)
    torch.testing.assert_close(ours(x, sigma), theirs(x, sigma), **ROUNDING)


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_schedules_equal_k_diffusions(k_diffusion, steps):
    sampling, ends = k_diffusion.sampling, (LEVELS.sigma_min, LEVELS.sigma_max)
    theirs = {
        "Karras": sampling.get_sigmas_karras(steps, *ends),
        "Exponential": sampling.get_sigmas_exponential(steps, *ends),
        "Polyexponential": sampling.get_sigmas_polyexponential(steps, *ends),
    }
    for name, expected in theirs.items():
        # k-diffusion computes these in float32.
        torch.testing.assert_close(SCHEDULES[name].sigmas(LEVELS, steps).float(), expected, rtol=3e-6, atol=0)
