"""Which pictures come when: a round visits each as often as it should, in batches of one bucket.

A round's order depends on the seed and its number alone, so a run that is resumed at any batch reads on as
one that was never stopped.

Shape letters: N pictures, M visits of a round, K batches of a round.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ORDER, _VISIT = 1, 2  # streams of random numbers that are never the same


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """The batches of one round."""

    visits: NDArray[np.int64]  # (M,) in the order they come
    starts: NDArray[np.int64]  # (K+1,) where each batch begins among them

    def batch(self, place: int) -> NDArray[np.int64]:
        """Give the visits of a batch."""
        return self.visits[self.starts[place] : self.starts[place + 1]]


class Order:
    """The rounds of a data set. A visit is a picture and which of its repeats."""

    def __init__(self, buckets: NDArray[np.int32], repeats: NDArray[np.int32], size: int, seed: int) -> None:
        """Visit picture i `repeats[i]` times a round, beside others of `buckets[i]`.

        Args:
            buckets: (N,) number of each picture's bucket.
            repeats: (N,) 0 or more, at least one of them 1.
            size: pictures a batch; the last of each bucket in a round may be smaller.
            seed: of the order.
        """
        self.rows = np.repeat(np.arange(len(repeats), dtype=np.int32), repeats)  # (M,) picture of a visit
        self.buckets, self.size, self.seed = buckets, size, seed
        self.counts = np.bincount(buckets[self.rows])  # visits of each bucket
        self.last: tuple[int, Round] | None = None

    @property
    def batches(self) -> int:
        """Count the batches of a round."""
        return int((-(-self.counts // self.size)).sum())

    def round(self, number: int) -> Round:
        """Shuffle the visits, sort them into buckets, cut these into batches, and shuffle the batches."""
        if self.last is None or self.last[0] != number:
            self.last = number, self._shuffled(np.random.default_rng((self.seed, _ORDER, number)))
        return self.last[1]

    def _shuffled(self, rng: np.random.Generator) -> Round:
        visits = rng.permutation(len(self.rows))
        visits = visits[np.argsort(self.buckets[self.rows[visits]], kind="stable")]
        ends = np.cumsum(self.counts)
        firsts = np.concatenate(
            [np.arange(end - count, end, self.size) for end, count in zip(ends, self.counts, strict=True)]
        )  # (K,)
        pieces = np.split(visits, firsts[1:])
        chosen = rng.permutation(len(pieces))
        starts = np.concatenate([[0], np.cumsum([len(pieces[place]) for place in chosen])])
        return Round(visits=np.concatenate([pieces[place] for place in chosen]), starts=starts)

    def draws(self, number: int, visit: int) -> np.random.Generator:
        """Give the random numbers of a visit in a round, whatever batch it falls into."""
        return np.random.default_rng((self.seed, _VISIT, number, visit))


def prior_repeats(count: int, visits: int) -> NDArray[np.int32]:
    """Share visits out among regularisation pictures, as many as there are of others.

    Args:
        count: of the regularisation pictures, at least 1.
        visits: of the other pictures in a round.

    Returns:
        (count,) that sum to `visits`; where there are fewer visits, pictures at even distances have one.
    """
    shares = np.arange(count + 1) * visits // count
    return np.diff(shares).astype(np.int32)
