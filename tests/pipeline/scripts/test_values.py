from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import RequestError
from sfumato.pipeline.scripts.values import MAX_VALUES, numbers, split

WHOLE = {  # text: values; the examples of the field's documentation, and their edges
    "1-5": [1, 2, 3, 4, 5],
    "1-5 (+2)": [1, 3, 5],
    "1-6 (+2)": [1, 3, 5],
    "10-5 (-3)": [10, 7],
    "10-7(-3)": [10, 7],
    "1-10 [5]": [1, 3, 5, 7, 10],
    "0-10 [6]": [0, 2, 4, 6, 8, 10],
    "5-5": [5],
    "3-9 [1]": [3],
    "-3--1": [-3, -2, -1],
    "4, 8 ,16, 1-2": [4, 8, 16, 1, 2],
    "7": [7],
}
FRACTIONS = {
    "0.2-0.6 (+0.2)": [0.2, 0.4, 0.6],
    "1-5": [1, 2, 3, 4, 5],
    "1.0-1.3 (+0.1)": [1.0, 1.1, 1.2, 1.3],
    "1-0 (-.25)": [1, 0.75, 0.5, 0.25, 0],
    "0-1 [3]": [0, 0.5, 1],
    "0.1, 5e-1": [0.1, 0.5],
}


@pytest.mark.parametrize("text", WHOLE)
def test_whole_numbers(text: str) -> None:
    values, count = numbers(text, whole=True)
    assert [int(each) for each in values] == WHOLE[text]
    assert count == len(values)


@pytest.mark.parametrize("text", FRACTIONS)
def test_fractions_are_exact(text: str) -> None:
    values, count = numbers(text, whole=False)
    assert [float(each) for each in values] == FRACTIONS[text]
    assert count == len(values)


@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 9))
def test_a_range_holds_both_ends_where_the_step_divides(first: int, last: int, step: int) -> None:
    first, last = sorted((first, last))
    assert [int(each) for each in numbers(f"{first}-{last} (+{step})", whole=True)[0]] == list(
        range(first, last + 1, step)
    )


@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(2, 50))
def test_a_count_spreads_evenly_between_both_ends(first: int, last: int, count: int) -> None:
    values = [Decimal(each) for each in numbers(f"{first}-{last} [{count}]", whole=False)[0]]
    gaps = {round(b - a, 9) for a, b in pairwise(values)}
    assert values[0] == first
    assert values[-1] == last
    assert max(gaps) - min(gaps) <= Decimal("2e-9")  # values are rounded to 12 digits


def test_endless_ranges_are_counted_not_written_out() -> None:
    values, count = numbers("1-1000000000000", whole=True)
    assert (len(values), count) == (MAX_VALUES, 10**12)


@pytest.mark.parametrize("text", ["1-5 (+0)", "1-5 (-1)", "5-1", "1-2 [0]"])
def test_ranges_that_hold_nothing_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="range"):
        numbers(text, whole=True)


def test_quotes_keep_commas_and_quotes() -> None:
    assert split('a, "b, c", "say ""hi""" ,, d') == ["a", "b, c", 'say "hi"', "d"]
    assert split('"two\nlines", x') == ["two\nlines", "x"]
