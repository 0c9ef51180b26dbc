from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.diffusion.masks import (
    blend_keeping_magnitude,
    changed_share,
    changing_share,
    keep_outside,
    middle_mean,
)
from sfumato.diffusion.samplers_dpm import sample_dpmpp_2m
from sfumato.diffusion.samplers_k import sample_lms
from sfumato.types import SoftInpainting

SHAPE = (2, 4, 6, 8)


def normal(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def half() -> Tensor:
    changes = torch.zeros(1, 1, *SHAPE[2:])
    changes[..., 4:] = 1
    return changes


def towards_zero(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of data of standard deviation 1/2."""
    return x * 0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2)


SOFT = SoftInpainting(enabled=True)


@pytest.mark.parametrize("sampler", [sample_dpmpp_2m, partial(sample_lms, order=1)])
@pytest.mark.parametrize("soft", [None, SOFT])
def test_a_walk_ends_in_the_original_outside_and_is_free_inside(sampler, soft) -> None:  # type: ignore[no-untyped-def]
    original, noise, changes = normal(0), normal(1), half()
    sigmas = torch.tensor([14.0, 5, 2, 1, 0.3, 0])
    *_, free = sampler(towards_zero, original + 14 * noise, sigmas)
    *_, kept = sampler(
        keep_outside(towards_zero, original, changes, soft=soft), original + 14 * noise, sigmas
    )
    # float32, and in soft inpainting a length that is divided out and multiplied back
    torch.testing.assert_close(kept[..., :4], original[..., :4], atol=1e-5, rtol=0)
    torch.testing.assert_close(kept[..., 4:], free[..., 4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("soft", [None, SOFT])
def test_samplers_over_timesteps_see_the_noised_original_outside(soft: SoftInpainting | None) -> None:
    original, noise, x, changes = normal(0), normal(1), normal(2), half()
    seen: list[Tensor] = []

    def watching(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return towards_zero(x, sigma)

    sigma = torch.tensor([3.0, 0.5])
    clean = keep_outside(watching, original, changes, noise, soft)(x, sigma)
    assert len(seen) == 1
    noised = original + sigma.view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(seen[0][..., :4], noised[..., :4], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0][..., 4:], x[..., 4:], atol=1e-5, rtol=0)
    assert torch.equal(clean, towards_zero(seen[0], sigma))


def test_grey_is_kept_under_noise_and_free_at_the_end() -> None:
    changes = torch.linspace(0, 1, 11).view(1, 1, 1, 11)
    levels = torch.tensor([14.0, 1, 0.1, 0])
    share = changing_share(changes, levels, 1.0, 0.5)
    assert share.shape == (4, 1, 1, 11)
    torch.testing.assert_close(share[1], changes[0] ** 0.5)
    assert (share.diff(dim=0)[:, 0, 0, 1:-1] > 0).all()
    assert (share[..., 0] == 0).all()
    assert (share[..., -1] == 1).all()
    assert (share[-1, ..., 1:] == 1).all()


def test_without_strength_all_that_may_change_is_free_at_once() -> None:
    share = changing_share(half() * 0.3, torch.tensor([14.0]), 1.0, 0.0)
    assert torch.equal(share, half())


@pytest.mark.parametrize("boost", [1.0, 4.0, 32.0])
def test_lengths_follow_the_power_mean(boost: float) -> None:
    old, new = 30 * normal(0).double(), 5 * normal(1).double()
    share = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(2)).double()
    mixed = blend_keeping_magnitude(old, new, share, boost)
    lengths = [each.norm(dim=1, keepdim=True) for each in (old, new, mixed)]
    expected = ((1 - share) * lengths[0] ** boost + share * lengths[1] ** boost) ** (1 / boost)
    torch.testing.assert_close(lengths[2], expected)
    linear = old + share * (new - old)
    cosine = torch.nn.functional.cosine_similarity(mixed, linear, dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_high_boost_does_not_overflow_single_precision() -> None:
    mixed = blend_keeping_magnitude(60 * normal(0), 60 * normal(1), torch.full((2, 1, 6, 8), 0.5), 32.0)
    assert mixed.isfinite().all()


def test_equal_latents_mix_to_themselves_and_nothing_to_nothing() -> None:
    share = torch.full((2, 1, 6, 8), 0.3)
    torch.testing.assert_close(blend_keeping_magnitude(normal(0), normal(0), share, 4.0), normal(0))
    assert torch.equal(blend_keeping_magnitude(0 * normal(0), 0 * normal(0), share, 4.0), 0 * normal(0))


def soft(**fields: float) -> SoftInpainting:
    return SoftInpainting(enabled=True, **fields)  # type: ignore[arg-type]


def test_what_stayed_is_the_sources_and_what_changed_is_the_results() -> None:
    original = normal(0)
    result = original + 10 * half()
    share = changed_share(result, original, torch.ones(1, 1, 6, 8), soft())
    assert share.shape == (2, 6, 8)
    assert (share[..., :2] == 0).all()  # the window reaches two latents
    assert (share[..., 6:] > 0.99).all()


@pytest.mark.parametrize("contrast", [0.5, 2.0, 8.0])
def test_half_is_seen_at_the_threshold(contrast: float) -> None:
    original = normal(0)
    distances = torch.tensor([0.25, 0.5, 1.0])
    shares = [
        changed_share(
            original + distance / 2,  # over four channels, twice that
            original,
            torch.ones(1, 1, 6, 8),
            soft(difference_threshold=0.5, difference_contrast=contrast),
        )
        for distance in distances
    ]
    torch.testing.assert_close(shares[1], torch.full((2, 6, 8), 0.5), atol=1e-5, rtol=0)
    assert (shares[0] < 0.5).all()
    assert (shares[2] > 0.5).all()


def test_single_outliers_neither_show_nor_punch_holes() -> None:
    original = normal(0, (1, 4, 9, 9))
    spot, hole = original.clone(), original + 5
    spot[..., 4, 4] += 50
    hole[..., 4, 4] -= 5
    everywhere = torch.ones(1, 1, 9, 9)
    assert changed_share(spot, original, everywhere, soft()).max() < 1e-3
    assert changed_share(hole, original, everywhere, soft()).min() > 0.99


def test_the_mask_counts_as_far_as_it_is_let() -> None:
    original, weak = normal(0), half() * 0.8 + 0.1
    result = original + 0.5
    shares = [changed_share(result, original, weak, soft(mask_influence=k)) for k in (0.0, 0.5, 1.0)]
    assert torch.equal(shares[0], changed_share(result, original, torch.ones_like(weak), soft()))
    assert (shares[0][..., 0] > shares[1][..., 0]).all()
    assert (shares[1][..., 0] > shares[2][..., 0]).all()


def test_extreme_thresholds_are_numbers() -> None:
    original, result = normal(0), normal(1)
    for threshold in (0.0, 8.0):
        for contrast in (0.0, 8.0):
            for end in (result, original):
                share = changed_share(
                    end, original, half(), soft(difference_threshold=threshold, difference_contrast=contrast)
                )
                assert ((share >= 0) & (share <= 1)).all()


def test_the_middle_mean_is_that_of_as_many_copies_as_weights_say() -> None:
    values = np.random.default_rng(0).gamma(2, size=(5, 5))
    ours = middle_mean(torch.from_numpy(values)[None, None])[0, 0, 2, 2]
    across, down = np.meshgrid(range(-2, 3), range(-2, 3))
    weights = np.exp(-(across**2 + down**2) / (2 * 1.5**2))
    copies = np.repeat(values.ravel(), np.rint(1e5 * weights.ravel()).astype(int))
    middle = np.sort(copies)[len(copies) // 4 : len(copies) * 3 // 4]
    assert ours.item() == pytest.approx(middle.mean(), rel=1e-4)  # of the copies' rounding
