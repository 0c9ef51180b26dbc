import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion import noise
from sfumato.diffusion.noise import BrownianNoise, ImageNoise, image_seeds, noise_sampler, philox_normal

SHAPE = (4, 3, 5)
SOURCES = ("philox", "cpu")


@pytest.mark.parametrize(
    ("seed", "draw", "shape", "golden"),
    [
        (0, 0, (3, 4), [-0.9246624, -0.4253440, -2.6438458, 0.1451839]),  # its first row
        (0, 1, (2,), [0.1808259, -0.5522627]),
        (1, 0, (4,), [-0.2962778, 2.676448, -0.1408464, -0.8440951]),
        (2**32 + 5, 0, (4,), [-2.8427474, 1.3404924, 0.2722309, 1.4550629]),
    ],
)
def test_philox_gives_the_published_numbers(seed, draw, shape, golden):
    got = philox_normal([seed], draw, shape).flatten()[: len(golden)]
    torch.testing.assert_close(got, torch.tensor(golden), rtol=3e-7, atol=0)  # eight digits are published


def test_philox_words_are_those_of_the_reference_test_vectors():
    # The authors' known answers (Random123, kat_vectors) for counter and key all zero.
    words = noise._philox([0], 0, 0, 1)
    assert [int(word[0, 0]) for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_philox_numbers_are_standard_normal():
    sample = philox_normal([3], 0, (400_000,))[0].double()
    # Four standard errors of mean, variance and fourth moment of 400,000 normal numbers.
    error = 4 / math.sqrt(len(sample))
    assert abs(sample.mean()) < error
    assert abs(sample.var() - 1) < error * math.sqrt(2)
    assert abs(sample.pow(4).mean() - 3) < error * math.sqrt(96)


@pytest.mark.parametrize("source", SOURCES)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**64 - 1))
def test_picture_k_of_a_batch_has_the_noise_of_seed_plus_k(source, seed):
    seeds = image_seeds(seed, 3)
    batch = ImageNoise(seeds, SHAPE, source)
    alone = [ImageNoise([(seed + k) % 2**64], SHAPE, source) for k in range(3)]
    for _ in range(2):
        assert torch.equal(batch.draw(), torch.cat([each.draw() for each in alone]))


@pytest.mark.parametrize("source", SOURCES)
def test_successive_draws_differ_and_repeat_from_the_start(source):
    first, second = ImageNoise([7], SHAPE, source), ImageNoise([7], SHAPE, source)
    draws = [first.draw() for _ in range(3)]
    assert all(torch.equal(draw, second.draw()) for draw in draws)
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])
    assert draws[0].dtype == torch.float32
    assert draws[0].shape == (1, *SHAPE)


def test_cpu_noise_is_torchs_own():
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(11))
    assert torch.equal(ImageNoise([11], SHAPE, "cpu").draw()[0], expected)


def test_brownian_increments_add_up():
    path = BrownianNoise([1, 2], SHAPE)
    for start, middle, stop in [(0, 1, 2**15), (20000, 777, 31), (5, 6, 7), (16384, 16000, 15999)]:
        whole = path.increment(start, stop)
        parts = path.increment(start, middle) + path.increment(middle, stop)
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-11)  # float64 rounding of values near 200


def test_a_brownian_path_depends_on_nothing_but_the_seed():
    coarse, fine = BrownianNoise([5], SHAPE), BrownianNoise([5], SHAPE)
    for start in range(30000, 10000, -500):
        fine.increment(start, start - 500)
    assert torch.equal(fine.increment(30000, 10000), coarse.increment(30000, 10000))
    assert not torch.equal(BrownianNoise([6], SHAPE).increment(0, 9), coarse.increment(0, 9))


def test_picture_k_of_a_batch_has_the_path_of_seed_plus_k():
    batch, alone = BrownianNoise(image_seeds(40, 3), SHAPE), BrownianNoise([42], SHAPE)
    for sigma, sigma_next in [(14.6, 7.1), (7.1, 3.0), (14.6, 0.03)]:
        assert torch.equal(batch(sigma, sigma_next)[2:], alone(sigma, sigma_next))


def test_brownian_increments_are_standard_normal_and_independent_where_disjoint():
    path = BrownianNoise([9], (1, 200, 200))
    sigmas = [14.6, 9.0, 8.9, 2.0, 0.5, 0.03]
    steps = torch.stack([path(a, b).flatten().double() for a, b in pairwise(sigmas)])
    error = 5 / math.sqrt(40_000)  # five standard errors, for 15 comparisons
    assert (steps.mean(1).abs() < error).all()
    covariance = steps @ steps.T / steps.shape[1]
    assert (covariance - torch.eye(len(steps))).abs().max() < error * math.sqrt(2)


def test_overlapping_brownian_increments_are_correlated_as_the_path_demands():
    path = BrownianNoise([9], (1, 200, 200))
    half, whole = path(8.0, 4.0).flatten().double(), path(8.0, 2.0).flatten().double()
    # Half the length of log sigma: correlation sqrt(1/2), to five standard errors.
    assert abs(float((half * whole).mean()) - math.sqrt(0.5)) < 5 / 200


@pytest.mark.parametrize(("sigma", "sigma_next"), [(1.0, 0.99999), (1e9, 1e8), (1e-9, 1e-10), (0.02, 0.01)])
def test_brownian_noise_has_unit_variance_even_below_the_grid_and_off_its_ends(sigma, sigma_next):
    sample = BrownianNoise([4], (1, 100, 100))(sigma, sigma_next)
    assert abs(float(sample.var()) - 1) < 5 * math.sqrt(2) / 100  # five standard errors


def test_brownian_numbers_are_normal_in_every_quarter():
    sample = BrownianNoise([2], (4, 300, 300))._normal(77)[0]  # each channel has its own word and branch
    error = 5 / math.sqrt(90_000)  # five standard errors of 90,000 numbers
    assert (sample.mean((1, 2)).abs() < error).all()
    assert ((sample.var((1, 2)) - 1).abs() < error * math.sqrt(2)).all()
    assert ((sample.pow(4).mean((1, 2)) - 3).abs() < error * math.sqrt(96)).all()
    flat = sample.flatten(1)
    assert (flat @ flat.T / flat.shape[1] - torch.eye(4)).abs().max() < error * math.sqrt(2)


def test_brownian_path_is_apart_from_the_pictures_draws():
    drawn = set(philox_normal([8], 3, SHAPE).flatten().tolist())
    path = set(BrownianNoise([8], SHAPE)._normal(3).float().flatten().tolist())
    assert not drawn & path


def test_a_sampler_gets_the_kind_of_noise_it_asks_for():
    pictures, same = ImageNoise([1], SHAPE, "philox"), ImageNoise([1], SHAPE, "philox")
    pictures.draw()
    same.draw()
    assert torch.equal(noise_sampler("fresh", pictures)(2.0, 1.0), same.draw())
    assert torch.equal(noise_sampler("brownian", pictures)(2.0, 1.0), BrownianNoise([1], SHAPE)(2.0, 1.0))
