"""Weights of noise levels in closed form, and noise whose mean moves."""

import pytest
import torch

from sfumato.diffusion import losses


def test_debiased_weights_are_their_formula() -> None:
    share = torch.tensor([0.5, 0.8, 0.99999])  # SNR 1, 4 and beyond 1000
    expected = {"eps": [1.0, 0.5, 1000**-0.5], "v": [1 / 2, 1 / 5, 1 / 1001]}
    for prediction, weights in expected.items():
        found = losses.debiased_weights(share, prediction)  # type: ignore[arg-type]  # its names
        assert found.tolist() == pytest.approx(weights, rel=1e-5)  # float32


def test_offset_noise_has_the_variance_of_both() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2000, 1, 8, 8, generator=generator)
    shifts = torch.randn(2000, 1, 1, 1, generator=generator)
    assert torch.equal(losses.offset_noise(noise, shifts, 0.0), noise)
    means = losses.offset_noise(noise, shifts, 0.5).mean((2, 3))
    assert float(means.var()) == pytest.approx(1 / 64 + 0.25, rel=0.1)  # 2000 draws


def test_a_mask_is_a_factor_of_the_squared_error() -> None:
    one, other = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    assert float(losses.weighted_mse(one, other, torch.ones(2), mask)) == pytest.approx(1 / 4)
    assert float(losses.weighted_mse(one, other, torch.tensor([3.0, 1.0]), mask)) == pytest.approx(3 / 4)
