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
from sfumato.diffusion.samplers import SAMPLERS, trajectory
from sfumato.diffusion.samplers_k import restart_legs
from sfumato.diffusion.schedules import (
    SCHEDULES,
    scaled_linear_alphas_cumprod,
    sd_noise_levels,
    zero_terminal_snr,
)
from sfumato.types import Solver

LEVELS = sd_noise_levels()
# Both sides compute in float64; each step rounds a handful of times at 1e-16, log and exp at large arguments
# cost two digits, and sigma_next^2 - up^2 leaves 4e-6 of itself in a step over all levels, which costs five.
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}
THEIRS = {
    "DPM++ 2M": "sample_dpmpp_2m",
    "DPM++ SDE": "sample_dpmpp_sde",
    "DPM++ 2M SDE": "sample_dpmpp_2m_sde",
    "DPM++ 2M SDE Heun": "sample_dpmpp_2m_sde",
    "DPM++ 2S a": "sample_dpmpp_2s_ancestral",
    "DPM++ 3M SDE": "sample_dpmpp_3m_sde",
    "Euler a": "sample_euler_ancestral",
    "Euler": "sample_euler",
    "LMS": "sample_lms",
    "Heun": "sample_heun",
    "DPM2": "sample_dpm_2",
    "DPM2 a": "sample_dpm_2_ancestral",
}
ELSEWHERE = {
    *("DPM fast", "DPM adaptive", "Restart"),  # below
    *("DDIM", "DDIM CFG++", "PLMS", "UniPC", "LCM"),  # test_samplers_diffusers.py
}
CASES = [
    (name, eta) for name in THEIRS for eta in ((None,) if SAMPLERS[name].eta is None else (0.0, 0.6, 1.0))
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

    options = {} if eta is None else {"eta": eta, "noise_sampler": noise, "s_noise": 1.1}
    if name == "DPM++ 2M SDE Heun":
        options["solver_type"] = "heun"
    final = getattr(k_diffusion.sampling, THEIRS[name])(
        crooked, x, sigmas, callback=report, disable=True, **options
    )
    ours = list(spec.sample(crooked, x, sigmas, noise, Solver(eta=eta, s_noise=1.1)))
    assert len(ours) == len(sigmas) - 1
    for got, expected in zip([x, *ours], [*before, final], strict=True):
        torch.testing.assert_close(got, expected, **ROUNDING)


def test_every_sampler_has_a_counterpart():
    assert set(THEIRS) | ELSEWHERE == set(SAMPLERS)


def start(top, pictures=2):
    return torch.randn(pictures, 4, 5, 5, generator=torch.Generator().manual_seed(1)).double() * top


@pytest.mark.parametrize("name", [name for name, spec in SAMPLERS.items() if "s_churn" in spec.takes])
@pytest.mark.parametrize("bounds", [(0.0, None), (0.3, 4.0)])
def test_churn_equals_k_diffusions(k_diffusion, monkeypatch, name, bounds):
    low, high = bounds
    sigmas = SCHEDULES["Karras"].sigmas(LEVELS, 9)
    x = start(sigmas[0])
    draws = torch.randn(9, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    theirs, ours = iter(draws), iter(draws)  # both draw once a step, whether it is used or not
    monkeypatch.setattr(torch, "randn_like", lambda like: next(theirs))
    expected = getattr(k_diffusion.sampling, THEIRS[name])(
        crooked, x, sigmas, disable=True, s_churn=3, s_tmin=low, s_tmax=high or float("inf"), s_noise=1.1
    )
    solver = Solver(s_churn=3, s_tmin=low, s_tmax=high, s_noise=1.1)
    *_, got = SAMPLERS[name].sample(crooked, x, sigmas, lambda sigma, sigma_next: next(ours), solver)
    torch.testing.assert_close(got, expected, **ROUNDING)
    *_, still = SAMPLERS[name].sample(crooked, x, sigmas, None, Solver())
    assert not torch.allclose(still, got)


@pytest.fixture
def _double_by_default():
    """Have k-diffusion compute its times in float64, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double_by_default")
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 20])
def test_dpm_fast_equals_k_diffusions(k_diffusion, steps, eta):
    spec = SAMPLERS["DPM fast"]
    sigmas = trajectory(spec, SCHEDULES["Automatic"], LEVELS, steps)
    ends, x = (float(sigmas[-1]), float(sigmas[0])), start(sigmas[0])
    noise = Replay(x.shape)
    expected = k_diffusion.sampling.sample_dpm_fast(
        crooked, x, *ends, steps, disable=True, eta=eta, s_noise=1.1, noise_sampler=noise
    )
    *_, got = spec.sample(crooked, x, sigmas, noise, Solver(eta=eta, s_noise=1.1))
    torch.testing.assert_close(got, expected, **ROUNDING)


@pytest.mark.usefixtures("_double_by_default")
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_dpm_adaptive_equals_k_diffusions(k_diffusion, eta):
    spec = SAMPLERS["DPM adaptive"]
    sigmas = trajectory(spec, SCHEDULES["Automatic"], LEVELS, 20)
    ends, x = (float(sigmas[-1]), float(sigmas[0])), start(sigmas[0], pictures=1)
    draws = torch.randn(200, *x.shape, generator=torch.Generator().manual_seed(2))
    theirs, ours = iter(draws), iter(draws)
    accepted = []  # k-diffusion draws for every try, and adds what it drew only to those it accepts

    def their_noise(sigma, sigma_next):
        return next(theirs)

    expected, info = k_diffusion.sampling.sample_dpm_adaptive(
        crooked,
        x,
        *ends,
        disable=True,
        eta=eta,
        s_noise=1.1,
        noise_sampler=their_noise,
        return_info=True,
        callback=accepted.append,
    )
    out = list(spec.sample(crooked, x, sigmas, lambda *_: next(ours), Solver(eta=eta, s_noise=1.1)))
    assert len(out) == info["n_accept"]
    torch.testing.assert_close(out[-1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [12, 20, 36])
def test_restart_is_k_diffusions_heun_from_leg_to_leg(k_diffusion, steps):
    sigmas = SCHEDULES["Karras"].sigmas(LEVELS, steps)
    x = start(sigmas[0])
    draws = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected, fresh, below = x, iter(draws), float(sigmas[0])
    for leg in restart_legs(sigmas.tolist()):
        if leg[0] > below:
            expected = expected + (leg[0] ** 2 - below**2) ** 0.5 * next(fresh)
        expected = k_diffusion.sampling.sample_heun(
            crooked, expected, torch.tensor(leg, dtype=torch.float64), disable=True
        )
        below = leg[-1]
    ours = iter(draws)
    *_, got = SAMPLERS["Restart"].sample(crooked, x, sigmas, lambda sigma, sigma_next: next(ours))
    torch.testing.assert_close(got, expected, **ROUNDING)


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
