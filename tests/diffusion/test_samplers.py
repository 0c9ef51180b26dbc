import inspect
import math
from dataclasses import fields
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sfumato.diffusion.denoisers import Watched
from sfumato.diffusion.noise import ImageNoise, image_seeds, noise_sampler
from sfumato.diffusion.samplers import SAMPLERS, resolve, trajectory
from sfumato.diffusion.samplers_k import adams_bashforth, restart_legs, sample_lms
from sfumato.diffusion.schedules import SCHEDULES, sd_noise_levels
from sfumato.errors import RequestError
from sfumato.types import Solver

SHAPE = (4, 6, 5)
STD = 0.5  # of the data in the closed form: N(0, STD^2) in each element, independent
LEVELS = sd_noise_levels()


class Answer:
    """A denoiser of a known function that says the same for the negative prompt."""

    def __init__(self, function):
        self.function = function
        self.uncond = None

    def __call__(self, x, sigma):
        self.uncond = self.function(x, sigma.view(-1, 1, 1, 1))
        return self.uncond


# Exact for data N(0, STD^2).
gaussian = Answer(lambda x, s: x * STD**2 / (STD**2 + s**2))
# Not linear, by exactly rounded arithmetic only: the same bits in every batch.
crooked = Answer(lambda x, s: x / (1 + s * s + x * x) + 0.1 / (1 + s))


def levels_of(spec, steps, **options):
    return trajectory(spec, SCHEDULES[spec.default_schedule], LEVELS, steps, **options)


def run(spec, denoise, seeds, steps, **options):
    noise = ImageNoise(seeds, SHAPE, "philox")
    sigmas = levels_of(spec, steps)
    x = spec.start(noise.draw(), sigmas)
    return list(spec.sample(denoise, x, sigmas, noise_sampler(spec.noise, noise), Solver(**options)))


def walk(spec, denoise, x, levels, noise, **options):
    """Run a sampler between given levels, latents in and out as clean + sigma noise."""
    if not spec.blends_before:
        return list(spec.sample(denoise, x, levels, noise, Solver(**options)))
    scales = (levels**2 + 1).sqrt().to(x.dtype)
    sigmas = torch.cat([levels[:1], levels])
    out = spec.sample(denoise, x / scales[0], sigmas, noise, Solver(**options))
    return [latents * scale for latents, scale in zip(out, scales[1:], strict=True)]


def geometric(top, bottom, steps):
    return torch.logspace(math.log10(top), math.log10(bottom), steps + 1, dtype=torch.float64)


def no_noise(sigma, sigma_next):
    raise AssertionError("a deterministic run asked for noise")


ORDERS = {
    "DPM++ 2M": 2,
    "DPM++ SDE": 2,
    "DPM++ 2M SDE": 2,
    "DPM++ 2M SDE Heun": 2,
    "DPM++ 2S a": 2,
    "DPM++ 3M SDE": 2,  # its first step is of first order, as in all that follow one another
    "Euler a": 1,
    "Euler": 1,
    "LMS": 2,  # a test below shows the order of its later steps
    "Heun": 2,
    "DPM2": 2,
    "DPM2 a": 2,
    "DPM fast": 3,
    "DDIM": 1,
    "DDIM CFG++": 1,
    "PLMS": 2,  # its weights are for equal steps in time
    "UniPC": 3,  # the corrector lifts its first steps
}
# Restart goes back up, LCM does not follow the slope, DPM adaptive chooses its steps: tests below.
NO_ORDER = {"Restart", "LCM", "DPM adaptive"}


def test_every_sampler_has_an_order_or_a_reason():
    assert set(ORDERS) | NO_ORDER == set(SAMPLERS)


@pytest.mark.parametrize("name", ORDERS)
def test_the_error_against_the_closed_form_falls_with_the_samplers_order(name):
    x = 2 * torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    exact = x * math.sqrt((STD**2 + 0.2**2) / (STD**2 + 2**2))

    def error(steps):
        options = {"eta": 0.0, "unipc_lower_order_final": False}
        *_, out = walk(SAMPLERS[name], gaussian, x, geometric(2, 0.2, steps), no_noise, **options)
        return float((out - exact).abs().max())

    # Twice the steps (nearly: DPM fast's last step is of full order after 3k + 2 calls): the error falls by
    # 2^order; higher terms are worth 0.05 of an order at 800 steps.
    assert math.log2(error(800) / error(1598)) == pytest.approx(ORDERS[name], abs=0.1)


def test_dpm_adaptive_keeps_to_the_error_it_allows():
    x = 10 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    exact = x * math.sqrt((STD**2 + 0.03**2) / (STD**2 + 10**2))
    spec, levels = SAMPLERS["DPM adaptive"], geometric(10, 0.03, 1)
    out = walk(spec, gaussian, x, levels, no_noise, eta=0.0)
    # 0.05 of x is allowed in each step, by the difference of second and third order.
    assert float((out[-1] / exact - 1).abs().max()) < 0.05


def test_dpm_adaptive_gives_each_picture_steps_and_noise_of_its_own():
    spec, levels = SAMPLERS["DPM adaptive"], geometric(10, 0.03, 1)
    x = torch.cat([1000 * torch.ones(1, *SHAPE), 0.01 * torch.ones(1, *SHAPE)])

    def made(x, seeds):
        noise = ImageNoise(seeds, SHAPE, "philox")
        return walk(spec, gaussian, x, levels, noise_sampler(spec.noise, noise), eta=0.1)

    together, first, second = made(x, [1, 2]), made(x[:1], [1]), made(x[1:], [2])
    assert len(first) != len(second)
    assert len(together) >= max(len(first), len(second))
    torch.testing.assert_close(together[-1], torch.cat([first[-1], second[-1]]))


@pytest.mark.parametrize("name", [name for name, spec in SAMPLERS.items() if spec.eta is not None])
def test_a_stochastic_sampler_keeps_the_law_of_the_data(name):
    noise = ImageNoise([3], (4, 60, 60), "philox")
    levels = geometric(10, 0.01, 100)
    x = noise.draw().double() * math.sqrt(STD**2 + 10**2)
    spec = SAMPLERS[name]
    *_, out = walk(spec, gaussian, x, levels, noise_sampler(spec.noise, noise), eta=1.0)
    # Five standard errors of the spread of 14,400 numbers are 3 %; a hundred first-order steps shrink it by
    # 3.3 % more (measured on 10^6 numbers), of second order by less than 0.2 %.
    tolerance = 0.065 if ORDERS.get(name) == 1 else 0.032
    assert float(out.std()) == pytest.approx(math.hypot(STD, 0.01), rel=tolerance)
    assert abs(float(out.mean())) < 5 * STD / math.sqrt(out.numel())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [None, 0.05, 0.6])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 30])
def test_a_sampler_yields_and_calls_as_often_as_it_says(name, steps, strength):
    spec = SAMPLERS[name]
    sigmas = levels_of(spec, steps, strength=strength)
    watched = Watched(crooked, crooked)
    noise = ImageNoise([1, 2], SHAPE, "philox")
    x = spec.start(noise.draw(), sigmas, None if strength is None else torch.ones(2, *SHAPE))
    out = list(spec.sample(watched, x, sigmas, noise_sampler(spec.noise, noise)))
    assert len(out) >= 1
    assert all(x.shape == (2, *SHAPE) and x.dtype == torch.float32 and x.isfinite().all() for x in out)
    if not spec.estimated:
        assert (len(out), watched.calls) == (spec.steps(sigmas), spec.calls(sigmas))


@pytest.mark.parametrize("name", SAMPLERS)
def test_picture_k_of_a_batch_is_the_picture_made_alone_with_seed_plus_k(name):
    batch = run(SAMPLERS[name], crooked, image_seeds(10, 3), 6, eta=0.7)
    for k in range(3):
        alone = run(SAMPLERS[name], crooked, [10 + k], 6, eta=0.7)
        if SAMPLERS[name].estimated:  # waits for the others
            assert torch.equal(batch[-1][k : k + 1], alone[-1])
        else:
            assert all(torch.equal(x[k : k + 1], y) for x, y in zip(batch, alone, strict=True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_who_stops_iterating_stops_the_denoiser(name):
    spec = SAMPLERS[name]
    watched = Watched(crooked, crooked)
    noise = ImageNoise([1], SHAPE, "philox")
    sigmas = levels_of(spec, 20)
    steps = spec.sample(watched, spec.start(noise.draw(), sigmas), sigmas, noise_sampler(spec.noise, noise))
    assert watched.calls == 0
    for _ in range(3):
        next(steps)
    assert watched.calls == {"DPM fast": 9, "DPM adaptive": 9, "PLMS": 4, "UniPC": 4}.get(
        name, 3 * spec.calls_per_step
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_starting_latents_are_left_as_they_are(name):
    x = torch.ones(1, *SHAPE)
    noise = ImageNoise([1], SHAPE, "philox")
    spec = SAMPLERS[name]
    list(spec.sample(crooked, x, geometric(10, 1, 4), noise_sampler(spec.noise, noise)))
    assert torch.equal(x, torch.ones(1, *SHAPE))


class NoWaiting(TorchDispatchMode):
    """Refuse to read a number back from a tensor, which on a GPU would wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not SAMPLERS[name].estimated])
def test_no_step_waits_for_a_value(name):
    spec = SAMPLERS[name]
    x, z = torch.ones(1, *SHAPE), torch.zeros(1, *SHAPE)
    steps = spec.sample(crooked, x, geometric(10, 1, 6), lambda sigma, sigma_next: z)
    with NoWaiting():
        assert sum(1 for _ in steps) == spec.steps(geometric(10, 1, 6))


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_gradient_is_recorded(name):
    x, z = torch.ones(1, *SHAPE, requires_grad=True), torch.zeros(1, *SHAPE)
    steps = SAMPLERS[name].sample(crooked, x, geometric(10, 1, 3), lambda sigma, sigma_next: z)
    assert not any(out.requires_grad for out in steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_row_names_a_schedule_and_is_kept_under_its_name(name):
    spec = SAMPLERS[name]
    assert spec.name == name
    assert spec.default_schedule in SCHEDULES
    assert (spec.eta is None) == ("eta" not in spec.takes)
    assert set(spec.takes) <= {field.name for field in fields(Solver)}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_fits_on_a_screen(name):
    function = SAMPLERS[name].function
    function = function.func if isinstance(function, partial) else function
    assert len(inspect.getsource(function).splitlines()) <= 50


def test_no_name_is_taken_twice():
    names = [known.casefold() for spec in SAMPLERS.values() for known in (spec.name, *spec.aliases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_start_is_the_picture_and_noise_as_the_sampler_scales_them(name):
    spec, sigmas = SAMPLERS[name], torch.tensor([3.0, 3.0, 1.0, 0.0])
    noise, clean = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)
    if spec.blends_before:  # sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise, and all noise
        assert torch.equal(spec.start(noise, sigmas), noise)
        expected = math.sqrt(0.1) * clean + math.sqrt(0.9) * noise
    else:
        assert torch.equal(spec.start(noise, sigmas), 3 * noise)
        expected = clean + 3 * noise
    torch.testing.assert_close(spec.start(noise, sigmas, clean), expected)
    assert torch.equal(spec.start(noise, torch.zeros(1), clean), clean)


@pytest.mark.parametrize(
    ("steps", "strength", "exact", "taken"),
    [
        (20, None, False, 20),
        (20, 0.75, False, 16),
        (20, 0.5, False, 11),
        (20, 1, False, 20),
        (20, 0, False, 1),
    ]
    + [(20, d, True, 20) for d in (1, 0.75, 0.5, 0.01)]
    + [(20, 0, True, 0)],
)
def test_image_to_image_takes_the_published_number_of_steps(steps, strength, exact, taken):
    spec = SAMPLERS["Euler"]
    sigmas = trajectory(spec, SCHEDULES["Karras"], LEVELS, steps, strength=strength, exact=exact)
    assert spec.steps(sigmas) == taken
    if taken:
        total = steps if not exact else int(steps / min(strength, 0.999))
        assert torch.equal(sigmas, SCHEDULES["Karras"].sigmas(LEVELS, total)[-taken - 1 :])
    else:
        assert sigmas.tolist() == [0]


@pytest.mark.parametrize(("steps", "kept"), [(20, 11), (35, 26), (36, 18), (50, 26)])
def test_restart_takes_the_middle_again_in_the_same_number_of_steps(steps, kept):
    first, *again = restart_legs(SCHEDULES["Karras"].sigmas(LEVELS, steps).tolist())
    assert sum(len(leg) - 1 for leg in (first, *again)) == steps
    assert len(again) == (1 if steps < 36 else 2)
    low = min(range(kept + 1), key=lambda i: abs(karras(kept)[i] - 0.1))
    assert first == pytest.approx(karras(kept)[: low + 1])
    for leg in again:
        assert leg[0] == pytest.approx(min(karras(kept), key=lambda level: abs(level - 2)))
        assert leg[9 if steps < 36 else steps // 4] == pytest.approx(first[-1])
    assert again[-1][-1] == 0
    assert restart_legs(karras(19)) == [karras(19)]


def karras(steps):
    return SCHEDULES["Karras"].sigmas(LEVELS, steps).tolist()


def test_restart_leaves_the_law_of_the_data():
    noise = ImageNoise([3], (4, 60, 60), "philox")
    levels = SCHEDULES["Karras"].sigmas(LEVELS, 60)
    x = noise.draw().double() * math.sqrt(STD**2 + float(levels[0]) ** 2)
    *_, out = SAMPLERS["Restart"].sample(gaussian, x, levels, noise_sampler("fresh", noise))
    # Five standard errors of the spread of 14,400 numbers are 3 %; the last step, to 0, takes up to 1 %.
    assert float(out.std()) == pytest.approx(STD, rel=0.04)


def test_lcm_visits_the_levels_of_distillation():
    sigmas = levels_of(SAMPLERS["LCM"], 50)
    expected = torch.arange(999, 0, -20, dtype=torch.float64)
    torch.testing.assert_close(LEVELS.timestep(sigmas[:-1]), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("skip", "rule"),
    [
        ("time_uniform", lambda t: t),
        ("time_quadratic", lambda t: (t + 1).sqrt()),
        ("logSNR", lambda t: LEVELS.sigma(t).log()),
    ],
)
def test_unipc_spaces_its_steps_as_asked(skip, rule):
    spec = SAMPLERS["UniPC"]
    timesteps = LEVELS.timestep(levels_of(spec, 20, solver=Solver(unipc_skip=skip)))
    assert timesteps[0] == timesteps[1] == 999
    assert float(timesteps[-1]) == pytest.approx(0, abs=1e-9)
    gaps = rule(timesteps[1:]).diff()
    assert len(gaps) == 20
    torch.testing.assert_close(gaps, gaps.mean().expand(20))
    again = LEVELS.timestep(levels_of(spec, 20, strength=0.5, solver=Solver(unipc_skip=skip)))
    assert again[:2].tolist() == pytest.approx([501, 451])
    assert len(again) == 12


@pytest.mark.parametrize("name", ["DPM fast", "DPM adaptive"])
def test_samplers_between_two_ends_go_from_the_schedules_first_to_its_lowest_level(name):
    sigmas = levels_of(SAMPLERS[name], 20)
    assert [float(sigmas[0]), float(sigmas[-1])] == pytest.approx([LEVELS.sigma_max, LEVELS.sigma_min])
    assert len(sigmas) == 21
    part = levels_of(SAMPLERS[name], 20, strength=0.5)
    assert float(part[0]) == pytest.approx(float(SCHEDULES["Uniform"].sigmas(LEVELS, 20)[9]))


@pytest.mark.parametrize(("steps", "calls"), [(20, 19), (30, 30), (1, 1), (2, 1), (1000, 998)])
def test_ddim_goes_between_its_timesteps(steps, calls):
    sigmas = levels_of(SAMPLERS["DDIM"], steps)
    assert SAMPLERS["DDIM"].calls(sigmas) == calls
    assert SAMPLERS["PLMS"].calls(sigmas) == calls + (steps > 1)  # one more on its first step
    timesteps = LEVELS.timestep(sigmas)
    assert timesteps[0] == 999
    if steps > 1:
        expected = torch.arange(1, 1000, 1000 // steps).double().flip(0)
        torch.testing.assert_close(timesteps[1:], expected, rtol=0, atol=1e-9)


def test_ddim_starts_image_to_image_one_timestep_above_its_first():
    timesteps = LEVELS.timestep(levels_of(SAMPLERS["DDIM"], 20, strength=0.75))
    expected = torch.tensor([751, *range(701, 0, -50)]).double()
    torch.testing.assert_close(timesteps, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("points", [[3.0], [3.0, 5.0], [3.0, 5.0, 6.0], [3.0, 5.0, 6.0, 8.5]])
def test_adams_bashforth_integrates_polynomials_of_its_degree_exactly(points):
    for degree in range(len(points)):
        factors = adams_bashforth(points, 1.0)
        integral = sum(factor * point**degree for factor, point in zip(factors, points, strict=True))
        assert integral == pytest.approx((1 - points[0] ** (degree + 1)) / (degree + 1), rel=1e-12)


def test_lms_is_exact_on_a_cubic_slope_once_it_has_four():
    sigmas = geometric(5, 0.5, 9)

    def cubic(x, sigma):
        s = sigma.view(-1, 1, 1, 1)
        return x - s * (1 - s + 2 * s**2 - 3 * s**3)

    def integral(s):
        return s - s**2 / 2 + 2 * s**3 / 3 - 3 * s**4 / 4

    out = list(sample_lms(cubic, torch.zeros(1, 1, 1, 1).double(), sigmas))
    for i in range(4, 9):
        step = float(out[i] - out[i - 1])
        assert step == pytest.approx(float(integral(sigmas[i + 1]) - integral(sigmas[i])), rel=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_found_by_each_of_its_names_and_brings_its_schedule(name):
    spec = SAMPLERS[name]
    for known in (name, name.upper(), f" {name.lower()} ", *spec.aliases):
        assert resolve(known) == (spec, SCHEDULES[spec.default_schedule])
        assert resolve(known, "automatic")[0] is spec
        row = SCHEDULES["Automatic" if spec.own_levels else "Exponential"]
        assert resolve(known, "exponential") == (spec, row)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_old_name_carries_its_schedule(name, schedule):
    row = resolve(name, schedule)[1]
    for suffix in (schedule, schedule.lower(), *SCHEDULES[schedule].aliases):
        assert resolve(f"{name} {suffix}") == (SAMPLERS[name], row)
        assert resolve(f"{name} {suffix}", schedule) == (SAMPLERS[name], row)


def test_two_schedules_at_once_are_refused():
    with pytest.raises(RequestError, match=r"'DPM\+\+ 2M Karras' names a schedule"):
        resolve("DPM++ 2M Karras", "Exponential")


@pytest.mark.parametrize(
    ("sampler", "schedule", "message"),
    [
        ("DPM+ 2M", "Automatic", r"sampler='DPM\+ 2M' is not known; did you mean DPM\+\+ 2M or"),
        ("Oiler Karras", "Automatic", "sampler='Oiler Karras' is not known"),
        ("", "Automatic", "sampler='' is not known; choose one of DPM"),
        ("Karras", "Automatic", "sampler='Karras' is not known"),
        ("Euler", "Caras", "schedule='Caras' is not known; did you mean Karras"),
    ],
)
def test_an_unknown_name_is_refused_with_its_neighbours(sampler, schedule, message):
    with pytest.raises(RequestError, match=message):
        resolve(sampler, schedule)
