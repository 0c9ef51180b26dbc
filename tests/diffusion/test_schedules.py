import math

import numpy as np
import pytest
import scipy.stats
import torch

from sfumato.diffusion import schedules
from sfumato.diffusion.schedules import SCHEDULES, NoiseLevels, find_schedule, sd_noise_levels
from sfumato.errors import RequestError
from sfumato.types import Levels

SD = sd_noise_levels()
GOLDEN = {
    "Automatic": "14.61464 4.08608 1.61558 0.69515 0.02917 0",
    "Uniform": "14.61464 4.08608 1.61558 0.69515 0.02917 0",
    "Normal": "14.61464 4.08608 1.61558 0.69515 0.02917 0",
    "Karras": "14.61464 4.79653 1.27410 0.24795 0.02917 0",
    "Exponential": "14.61464 3.08898 0.65289 0.13800 0.02917 0",
    "Polyexponential": "14.61464 3.08898 0.65289 0.13800 0.02917 0",
    "SGM Uniform": "14.61464 5.09241 2.27973 1.16286 0.57119 0",
    "KL Optimal": "14.61464 2.63289 1.29477 0.71163 0.33564 0.02917",
    "Align Your Steps": "14.61500 3.22694 1.39600 0.51005 0.02900 0",
    "Simple": "14.61464 5.08776 2.27646 1.16058 0.56928 0",
    "DDIM": "5.13443 2.29285 1.16822 0.57405 0.04131 0",
    "Beta": "14.61464 12.05226 7.32190 2.59155 0.02917 0",
}


def test_every_schedule_has_golden_sigmas():
    assert set(GOLDEN) == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_five_steps_visit_the_published_sigmas(name):
    golden = torch.tensor([float(value) for value in GOLDEN[name].split()], dtype=torch.float64)
    sigmas = SCHEDULES[name].sigmas(SD, 5)
    torch.testing.assert_close(sigmas, golden, rtol=1e-5, atol=5.1e-6)  # five decimals are published


def test_the_range_of_stable_diffusion():
    assert SD.sigma_min == pytest.approx(0.0291672, rel=2e-6)
    assert SD.sigma_max == pytest.approx(14.6146412, rel=1e-8)


@pytest.mark.parametrize("levels", [SD, sd_noise_levels(zero_snr=True)], ids=["SD", "zero SNR"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 30, 150, 999, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_sigmas_fall_strictly_and_are_one_more_than_the_steps(name, steps, levels):
    sigmas = SCHEDULES[name].sigmas(levels, steps)
    assert len(sigmas) == steps + 1 or name == "DDIM"
    assert sigmas.dtype == torch.float64
    assert sigmas.isfinite().all()
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0 or name == "KL Optimal"


@pytest.mark.parametrize("steps", [1, 2, 20, 999])
@pytest.mark.parametrize("name", SCHEDULES)
def test_discarding_the_penultimate_sigma_keeps_the_number_of_steps(name, steps):
    more, fewer = (
        SCHEDULES[name].sigmas(SD, steps + 1),
        SCHEDULES[name].sigmas(SD, steps, discard_penultimate=True),
    )
    assert fewer.tolist() == [*more[:-2].tolist(), more[-1].item()]


@pytest.mark.parametrize(("steps", "discard"), [(0, False), (1001, False), (1000, True)])
def test_a_schedule_of_trained_levels_refuses_more_steps_than_there_are(steps, discard):
    with pytest.raises(RequestError, match=f"steps={steps} is outside 1 to {1000 - discard}"):
        SCHEDULES["Simple"].sigmas(SD, steps, discard_penultimate=discard)
    if steps:
        assert len(SCHEDULES["Karras"].sigmas(SD, steps, discard_penultimate=discard)) == steps + 1


RANGED = ("Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Normal", "Beta")


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_range_counts_where_the_schedule_has_one(name):
    options = Levels(sigma_min=0.1, sigma_max=10)
    sigmas = SCHEDULES[name].sigmas(SD, 20, options)
    if name not in RANGED:
        assert torch.equal(sigmas, SCHEDULES[name].sigmas(SD, 20))
        return
    assert float(sigmas[0]) == pytest.approx(10)
    lowest = float(sigmas[sigmas > 0][-1])
    assert lowest > 0.1 if name == "SGM Uniform" else lowest == pytest.approx(0.1)


def test_a_range_turned_around_is_refused():
    with pytest.raises(RequestError, match=r"sigma_min=20 is not below the highest noise level, 14\.6146"):
        SCHEDULES["Karras"].sigmas(SD, 5, Levels(sigma_min=20))


def test_rho_bends_karras_and_polyexponential():
    top, bottom, ramp = SD.sigma_max, SD.sigma_min, torch.linspace(0, 1, 5, dtype=torch.float64)
    karras = SCHEDULES["Karras"].sigmas(SD, 5, Levels(rho=3))[:-1]
    straight = karras ** (1 / 3)  # equal steps in sigma^(1/rho)
    torch.testing.assert_close(straight.diff(), straight.diff().mean().expand(4))
    bent = SCHEDULES["Polyexponential"].sigmas(SD, 5, Levels(rho=2))[:-1]
    torch.testing.assert_close(bent, bottom * (top / bottom) ** ((1 - ramp) ** 2))


def test_options_that_press_steps_together_are_refused():
    with pytest.raises(RequestError, match="Beta puts several of 50 steps on one noise level"):
        SCHEDULES["Beta"].sigmas(SD, 50, Levels(beta_alpha=0.01, beta_beta=0.01))


def test_a_trained_sigma_has_its_own_timestep_and_back():
    timesteps = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(SD.timestep(SD.sigma(timesteps)), timesteps, rtol=0, atol=1e-9)
    fractions = torch.linspace(0, 999, 1234, dtype=torch.float64).view(2, 617)
    torch.testing.assert_close(SD.timestep(SD.sigma(fractions)), fractions, rtol=0, atol=1e-9)


def test_between_two_levels_log_sigma_is_linear():
    both = SD.sigma(torch.tensor([10.0, 11.0], dtype=torch.float64))
    assert float(SD.sigma(torch.tensor([10.5]).double())) == pytest.approx(float(both.prod().sqrt()))


def test_sigmas_outside_the_range_belong_to_its_ends():
    assert SD.timestep(torch.tensor([1e-6, 0.0, 1e6])).tolist() == [0, 0, 999]


def test_levels_in_float32_tell_timesteps_apart():
    timesteps = torch.arange(1000)
    found = SD.to("cpu").timestep(SD.sigma(timesteps.double()).float())
    # Neighbours differ by at least 0.0043 in log sigma, whose float32 rounding is 2.4e-7 at worst.
    assert (found - timesteps).abs().max() < 3e-4


def test_zero_terminal_snr_keeps_the_first_level_and_empties_the_last():
    alphas = schedules.scaled_linear_alphas_cumprod()
    rescaled = schedules.zero_terminal_snr(alphas)
    assert rescaled[-1] == 0
    assert float(rescaled[0]) == pytest.approx(float(alphas[0]), rel=1e-14)
    assert (rescaled.diff() < 0).all()
    assert sd_noise_levels(zero_snr=True).sigma_max == pytest.approx(4096, rel=1e-7)


def test_twenty_steps_of_ddim_visit_every_fiftieth_level_from_one():
    assert schedules.ddim_timesteps(1000, 20) == list(range(1, 1000, 50))


@pytest.mark.parametrize(("steps", "found"), [(1, 1), (2, 2), (20, 20), (30, 31), (333, 333), (501, 999)])
def test_ddim_visits_at_least_as_many_levels_as_steps(steps, found):
    timesteps = schedules.ddim_timesteps(1000, steps)
    assert len(set(timesteps)) == len(timesteps) == found
    assert 1 <= min(timesteps) <= max(timesteps) <= 999


@pytest.mark.parametrize("a", [0.05, 0.3, 0.6, 1.0, 2.5, 10])
@pytest.mark.parametrize("b", [0.05, 0.6, 1.7, 10])
def test_beta_quantiles_equal_scipys(a, b):
    p = np.linspace(0, 1, 201)
    np.testing.assert_allclose(
        schedules.beta_quantile(p, a, b), scipy.stats.beta.ppf(p, a, b), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_found_by_each_of_its_names(name):
    for known in (name, name.upper(), f"  {name.lower()} ", *SCHEDULES[name].aliases):
        assert find_schedule(known).name == name


def test_an_unknown_schedule_is_named_with_its_neighbours():
    with pytest.raises(RequestError, match="schedule='Karas' is not known; did you mean Karras"):
        find_schedule("Karas")


def test_levels_of_another_training_work_too():
    levels = NoiseLevels.from_alphas_cumprod(torch.linspace(0.99, 0.01, 64))
    assert len(levels) == 64
    assert levels.sigma_max == pytest.approx(math.sqrt(99))
    for spec in SCHEDULES.values():
        assert len(spec.sigmas(levels, 16)) == 17
