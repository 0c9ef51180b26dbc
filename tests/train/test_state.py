"""The optimiser's arithmetic against torch's own and against closed forms."""

import math

import pytest
import torch
from torch import nn

from sfumato.errors import TrainingError
from sfumato.train.config import OptimiserConfig
from sfumato.train.state import TrainState, is_matrix, orthogonalise


def test_float32_training_equals_torch_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(8, 4), nn.Linear(8, 4)
    theirs.load_state_dict(ours.state_dict())
    config = OptimiserConfig(rate=1e-2, clip_norm=0.5, weight_decay=0.1)
    state = TrainState(dict(ours.named_parameters()), config, 0.9)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=config.betas, weight_decay=0.1)
    for _ in range(20):
        x = torch.randn(16, 8)
        for network in (ours, theirs):
            network(x).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert state.apply_gradients(1e-2) == pytest.approx(float(norm), rel=1e-6)
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)  # the order of a float32 sum


@pytest.mark.parametrize("shape", [(32, 32), (32, 128), (128, 32)])
def test_orthogonalise_keeps_directions_and_evens_out_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ orthogonalise(matrix) @ vh.T
    values = core.diagonal()
    assert ((values > 0.6) & (values < 1.3)).all()  # the published coefficients reach about 0.7 to 1.2
    assert (core - values.diag()).abs().max() < 0.05  # bfloat16 inside: 8 bits of mantissa


def test_only_maps_between_vectors_are_orthogonalised() -> None:
    assert is_matrix("conv.weight", torch.zeros(32, 16, 3, 3))
    assert not is_matrix("conv.bias", torch.zeros(32))
    assert not is_matrix("token_embedding.weight", torch.zeros(100, 32))
    assert not is_matrix("conv_in.weight", torch.zeros(32, 3, 1, 1))


def test_the_rate_warms_up_and_decays_to_zero() -> None:
    config = OptimiserConfig(rate=1e-3, warmup_steps=10, decay="cosine")
    state = TrainState({"w": nn.Parameter(torch.zeros(1))}, config, 0.9)
    rates = []
    for state.step in range(111):
        rates.append(state.rate(110))
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[60] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 0.5)) / 2)
    assert rates[110] == pytest.approx(0, abs=1e-9)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    weight = nn.Parameter(torch.ones(3))
    state = TrainState({"w": weight}, OptimiserConfig(), 0.9)
    weight.grad = torch.tensor([1.0, math.inf, 0.0])
    with pytest.raises(TrainingError, match="not finite"):
        state.apply_gradients(1e-3)
    assert torch.equal(weight.detach(), torch.ones(3))
    assert state.step == 0


def test_the_average_follows_its_recurrence() -> None:
    weight = nn.Parameter(torch.zeros(1))
    state = TrainState({"w": weight}, OptimiserConfig(weight_decay=0.0), 0.5)
    expected = 0.0
    for step in range(1, 6):
        weight.grad = torch.ones(1)
        state.apply_gradients(0.1)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * float(state.master[0])
    assert float(state.average[0]) == pytest.approx(expected, rel=1e-6)
