"""A change of weights as the product of two thin matrices: the nearest one of a rank, or of a share of it.

Shape letters: O out, M everything else of a weight, R rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import RequestError

_NOISE = 1e-6  # singular values below this share of the largest are rounding, in float32


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How much of a change is kept; of two limits the narrower one counts."""

    rank: int | None = None  # at most; None = all
    energy: float = 1.0  # share of the sum of squared singular values that is kept at least

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise RequestError(f"rank={self.rank} is not a positive number")
        if not 0 < self.energy <= 1:
            raise RequestError(f"energy={self.energy:g} is not a share above 0, at most 1")

    def of(self, values: Tensor) -> int:
        """How many of the singular values, falling, are kept: at least one."""
        squares = values.double().square()
        kept = int((values > values[0] * _NOISE).sum()) or 1
        if self.energy < 1:
            reached = squares.cumsum(0) / squares.sum()
            kept = min(kept, int((reached < self.energy).sum()) + 1)
        return kept if self.rank is None else min(kept, self.rank)


def factorise(change: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Give the product of thin matrices nearest to a change.

    The smaller Gram matrix is diagonalised in float64, which loses nothing that float32 holds, and is many
    times quicker than a singular value decomposition of the whole.

    Source: Eckart and Young 1936, Psychometrika 1, 211–218.

    Args:
        change: (O,M), not all zero.
        cut: how much is kept.

    Returns:
        (O,R) and (R,M), float32, of equal singular values.
    """
    wide = change.double()
    turned = wide.shape[0] > wide.shape[1]
    wide = wide.T if turned else wide
    squares, vectors = torch.linalg.eigh(wide @ wide.T)  # rising
    values = squares.flip(0).clamp(min=0).sqrt()
    vectors = vectors.flip(1)
    rank = cut.of(values)
    roots = values[:rank].sqrt()
    left, right = vectors[:, :rank] * roots, (vectors[:, :rank] / roots).T @ wide
    return (right.T.float(), left.T.float()) if turned else (left.float(), right.float())
