"""Our group norm is torch's: same output to the bit, same gradients to rounding."""

import pytest
import torch
from torch import nn

from sfumato.nn.norm import GroupNorm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_gradients_equal_torchs(layout: torch.memory_format, groups: int) -> None:
    torch.manual_seed(0)
    ours, theirs = GroupNorm(groups, 16).double(), nn.GroupNorm(groups, 16).double()
    with torch.no_grad():
        ours.weight.normal_()
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict())
    x = (3 + torch.randn(2, 16, 5, 7).double()).to(memory_format=layout)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = ours(a), theirs(b)
    assert torch.equal(out, expected)
    grad = torch.randn_like(x)
    out.backward(grad)
    expected.backward(grad)
    for mine, reference in ((a, b), (ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert mine.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-9, atol=1e-9)  # float64 sums, reordered


def test_gradcheck() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 4, 3, 3).double(), torch.randn(4).double(), torch.randn(4).double()
    norm = GroupNorm(2, 4).double()

    def call(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in (x, weight, bias)])


def test_sixteen_bits_stay_near_the_exact_gradient() -> None:
    torch.manual_seed(0)
    norm, exact = GroupNorm(4, 16).bfloat16(), nn.GroupNorm(4, 16)
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    a, b = x.bfloat16().requires_grad_(), x.clone().requires_grad_()
    grad = torch.randn_like(x)
    norm(a).backward(grad.bfloat16())
    exact(b).backward(grad)
    assert a.grad is not None
    assert b.grad is not None
    error = (a.grad.float() - b.grad).norm() / b.grad.norm()
    assert error < 2e-2  # bfloat16 carries 8 bits: three roundings of 0.4 % each
