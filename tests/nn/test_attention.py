import math

import pytest
import torch

from sfumato.nn.attention import attention


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_the_softmax_average_of_the_values_head_by_head(heads: int, causal: bool) -> None:
    q, k, v = (draw(2, 5, 12, seed=seed) for seed in range(3))
    out = attention(q, k, v, heads=heads, causal=causal)
    width = 12 // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].mT / math.sqrt(width)  # (B,T,S)
        if causal:
            scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        wanted = scores.softmax(-1) @ v[..., part]
        torch.testing.assert_close(out[..., part], wanted)  # double: 1e-7


def test_attention_takes_contexts_of_another_length_and_any_memory_layout() -> None:
    q, k, v = draw(2, 5, 8, seed=0), draw(2, 3, 8, seed=1), draw(2, 3, 8, seed=2)
    strided = [x.mT.contiguous().mT for x in (q, k, v)]
    assert attention(q, k, v, heads=2).shape == (2, 5, 8)
    torch.testing.assert_close(attention(*strided, heads=2), attention(q, k, v, heads=2))
