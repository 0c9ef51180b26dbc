"""The order of a round: every visit once, one bucket a batch, the same from any place on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sfumato.train.order import Order, prior_repeats

SETS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30).filter(
    lambda rows: any(repeats for _, repeats in rows)
)


def order_of(rows: list[tuple[int, int]], size: int, seed: int) -> Order:
    buckets, repeats = np.array(rows, np.int32).T
    return Order(buckets, repeats, size, seed)


@given(rows=SETS, size=st.integers(1, 5), seed=st.integers(0, 5), number=st.integers(0, 3))
def test_a_round_makes_every_visit_once_in_batches_of_one_bucket(
    rows: list[tuple[int, int]], size: int, seed: int, number: int
) -> None:
    order = order_of(rows, size, seed)
    found = order.round(number)
    assert sorted(found.visits) == list(range(sum(repeats for _, repeats in rows)))
    assert len(found.starts) - 1 == order.batches
    for place in range(order.batches):
        batch = order.rows[found.batch(place)]
        assert 1 <= len(batch) <= size
        assert len({rows[row][0] for row in batch}) == 1
    counts = np.bincount(order.rows, minlength=len(rows))
    assert list(counts) == [repeats for _, repeats in rows]


def test_rounds_differ_and_are_the_same_whenever_they_are_asked_for() -> None:
    rows = [(0, 2), (1, 3), (0, 5)] * 4
    first = order_of(rows, 3, 7)
    forward = [first.round(number).visits for number in range(3)]
    again = order_of(rows, 3, 7)
    backward = [again.round(number).visits for number in (2, 1, 0)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not np.array_equal(forward[0], forward[1])
    assert not np.array_equal(forward[0], order_of(rows, 3, 8).round(0).visits)


def test_the_draws_of_a_visit_depend_on_nothing_but_seed_round_and_visit() -> None:
    one, other = order_of([(0, 9)], 2, 1), order_of([(0, 9), (1, 9)], 4, 1)
    assert one.draws(2, 3).random() == other.draws(2, 3).random()
    seen = {one.draws(number, visit).random() for number in range(5) for visit in range(9)}
    assert len(seen) == 45


@given(count=st.integers(1, 50), visits=st.integers(0, 200))
def test_regularisation_pictures_are_seen_as_often_as_others_and_evenly(count: int, visits: int) -> None:
    shares = prior_repeats(count, visits)
    assert len(shares) == count
    assert shares.sum() == visits
    assert shares.max() - shares.min() <= 1
