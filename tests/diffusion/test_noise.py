import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.diffusion import noise
from sfumato.diffusion.noise import (
    BrownianNoise,
    ImageNoise,
    image_seeds,
    noise_sampler,
    philox_normal,
    picture_seeds,
    slerp,
)
from sfumato.types import Variation

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


def test_the_source_device_is_torchs_generator_there():
    device = ImageNoise([11], SHAPE, "device", device="cpu")
    assert torch.equal(device.draw(), ImageNoise([11], SHAPE, "cpu").draw())


def test_pictures_count_up_their_seeds_and_with_a_variation_only_its_own():
    assert picture_seeds(5, 70, 0.0, 3) == ((5, 70), (6, 71), (7, 72))
    assert picture_seeds(5, 70, 0.1, 3) == ((5, 70), (5, 71), (5, 72))
    assert picture_seeds(2**64 - 1, 2**64 - 1, 0.0, 2) == ((2**64 - 1, 2**64 - 1), (0, 0))
    assert image_seeds(5, 2) == (5, 6)


def drawn(variation=Variation(), seeds=(1,), subseeds=(2,), shape=SHAPE, source="philox"):  # noqa: B008  # frozen
    return ImageNoise(seeds, shape, source, subseeds=subseeds, variation=variation)


@pytest.mark.parametrize("source", SOURCES)
def test_a_variation_goes_from_one_seeds_noise_to_the_others_and_keeps_its_spread(source):
    shape = (4, 40, 50)
    one, other = (ImageNoise([seed], shape, source).draw() for seed in (1, 2))

    def at(strength):
        return drawn(Variation(strength=strength), shape=shape, source=source).draw()

    assert torch.equal(at(0.0), one)
    torch.testing.assert_close(at(1.0), other)
    half = at(0.5)
    assert float(half.std()) == pytest.approx(1, abs=0.05)  # a straight line would give 0.71
    # Independent columns are at right angles but for chance, where half way is the sum over the root of two.
    torch.testing.assert_close(half, (one + other) / math.sqrt(2), rtol=0, atol=1.0)


def test_slerp_turns_every_column_through_its_share_of_the_angle():
    generator = torch.Generator().manual_seed(0)
    low, high = torch.randn(2, 3, 6, 4, generator=generator, dtype=torch.float64)
    for share in (0.2, 0.9):
        between = slerp(low, high, share)
        for c in range(3):
            for w in range(4):
                a, b, got = low[c, :, w], high[c, :, w], between[c, :, w]
                angle = math.acos(float(a @ b / a.norm() / b.norm()))
                expected = (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)
                torch.testing.assert_close(got, expected)


def test_noise_that_is_nearly_the_same_is_mixed_along_a_line():
    low = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    high = low + 0.001
    torch.testing.assert_close(slerp(low, high, 0.25), 0.25 * low + 0.75 * high)  # this way round
    assert torch.equal(slerp(low, low, 0.25), low)


@pytest.mark.parametrize(("cosine", "line"), [(0.9996, True), (0.9994, False), (0.8, False)])
def test_the_line_serves_from_a_cosine_of_9995_on(cosine, line):
    low = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    high = torch.tensor([[[cosine], [math.sqrt(1 - cosine**2)]]], dtype=torch.float64)
    angle = math.acos(cosine) / 4
    on_sphere = torch.tensor([[[math.cos(angle)], [math.sin(angle)]]], dtype=torch.float64)
    expected = 0.25 * low + 0.75 * high if line else on_sphere
    torch.testing.assert_close(slerp(low, high, 0.25), expected, rtol=0, atol=1e-12)


def test_pictures_one_latent_high_have_variations_too():
    noise = drawn(Variation(strength=0.3), shape=(4, 1, 9)).draw()
    assert noise.isfinite().all()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("width", "height"), [(24, 16), (80, 80), (24, 80), (40, 24), (47, 31), (8, 8)])
def test_noise_of_another_size_is_set_into_the_middle(source, width, height):
    full = ImageNoise([1], SHAPE, source).draw()  # 3 by 5
    inner = ImageNoise([1], (4, height // 8, width // 8), source).draw()
    got = drawn(Variation(from_width=width, from_height=height), source=source).draw()
    assert got.shape == full.shape
    for y in range(3):
        for x in range(5):
            v, u = from_middle(y, 3, height // 8), from_middle(x, 5, width // 8)
            expected = full[:, :, y, x] if v is None or u is None else inner[:, :, v, u]
            assert torch.equal(got[:, :, y, x], expected)


def from_middle(place, own, given):
    """Where a place of the full size lies in the other one; the field crops the same number on both sides."""
    margin = (own - given) // 2
    length = given + 2 * min(margin, 0)  # so that where an odd number stands out, the last place stays
    return place - margin if 0 <= place - max(margin, 0) < length else None


def test_a_size_given_by_half_is_none():
    assert torch.equal(drawn(Variation(from_width=80)).draw(), drawn().draw())


@pytest.mark.parametrize("source", SOURCES)
def test_the_seed_delta_changes_all_draws_but_the_first(source):
    plain, moved = drawn(source=source), drawn(Variation(seed_delta=31337), source=source)
    other = ImageNoise([1 + 31337], SHAPE, source)
    assert torch.equal(plain.draw(), moved.draw())
    assert torch.equal(moved.draw(), other.draw())
    assert torch.equal(moved.draw(), other.draw())


@pytest.mark.parametrize("source", SOURCES)
def test_a_variation_leaves_the_later_draws_alone(source):
    plain = drawn(source=source)
    varied = drawn(Variation(strength=0.4, from_width=80, from_height=16), source=source)
    assert not torch.equal(plain.draw(), varied.draw())
    assert torch.equal(plain.draw(), varied.draw())


@pytest.mark.parametrize("source", SOURCES)
def test_a_varied_picture_of_a_batch_is_the_one_made_alone(source):
    variation = Variation(strength=0.4, from_width=16, from_height=80, seed_delta=9)
    both = drawn(variation, (1, 7), (2, 8), source=source)
    alone = [drawn(variation, (seed,), (subseed,), source=source) for seed, subseed in ((1, 2), (7, 8))]
    for _ in range(3):
        assert torch.equal(both.draw(), torch.cat([each.draw() for each in alone]))


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
