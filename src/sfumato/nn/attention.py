"""Attention, once. Shape letters: B batch, T queries, S keys, C = heads × head width."""

import torch.nn.functional as F
from torch import Tensor

SMALL = 256 * 256  # scores of one head that are held for a backward pass on the CPU


def attention(q: Tensor, k: Tensor, v: Tensor, *, heads: int = 1, causal: bool = False) -> Tensor:
    """Let every query take the average of the values whose keys it resembles, in each head on its own.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1; scores are divided by the square root of the
    head width.

    Args:
        q: queries (B,T,C); the heads lie side by side in C.
        k: keys (B,S,C).
        v: values (B,S,C).
        heads: number of heads; divides C.
        causal: query t sees keys 0 to t only.

    Returns:
        (B,T,C), in the dtype and on the device of the queries.
    """
    split = (len(q), -1, heads, q.shape[2] // heads)
    q, k, v = (x.reshape(split).transpose(1, 2) for x in (q, k, v))  # (B,heads,T or S,C/heads)
    if q.device.type == "cpu" and q.requires_grad and not causal and q.shape[2] * k.shape[2] <= SMALL:
        # The fused kernel's backward pass is slower there than the plain products at this size.
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)  # (B,heads,T,S)
        out = scores.softmax(3) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # (B,heads,T,C/heads)
    joined: Tensor = out.transpose(1, 2).flatten(2)  # (B,T,C)
    return joined
