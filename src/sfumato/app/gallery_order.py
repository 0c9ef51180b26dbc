"""In which order pictures are listed, and where each page of a list begins.

A page begins behind the key of the last picture of the page before. A key is a picture's number; where the
best rated come first, its stars stand above the number's 48 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from sfumato.app.gallery_table import PICTURES
from sfumato.errors import RequestError

Order = Literal["newest", "oldest", "rating"]
ORDERS: tuple[Order, ...] = get_args(Order)
_ABOVE = 2**48  # numbers are below


@dataclass(frozen=True, kw_only=True)
class Places:
    """How long a list is, and where its pages begin."""

    total: int  # pictures
    keys: tuple[int, ...]  # what the second page, the third … are asked for with


def columns(order: Order, number: Any) -> list[Any]:
    """What rows are ordered by.

    Args:
        order: which.
        number: the column of the pictures' numbers.

    Raises:
        RequestError: another order.
    """
    if order not in ORDERS:
        raise RequestError(f"order={order!r} is not one of {', '.join(ORDERS)}")
    if order == "oldest":
        return [number.asc()]
    return [PICTURES.c.rating.desc(), number.desc()] if order == "rating" else [number.desc()]


def key(order: Order, number: int, rating: int) -> int:
    """What the page behind a picture is asked for with."""
    return rating * _ABOVE + number if order == "rating" else number


def behind(order: Order, key: int, number: Any) -> Any:
    """The condition that a row comes behind the one of this key."""
    if order == "newest":
        return number < key
    if order == "oldest":
        return number > key
    rating, last = divmod(key, _ABOVE)
    row = PICTURES.c.rating
    return sa.or_(row < rating, sa.and_(row == rating, number < last))
