"""What was given on the command line: options that need others, and errors in the words that were typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sfumato.errors import RequestError
from sfumato.types import Request

SIDES = ("outpaint.left", "outpaint.right", "outpaint.up", "outpaint.down")
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(  # a field, or all others of a part: one of these
    {
        "hires": ("hires.enabled",),
        "refiner": ("refiner.checkpoint",),
        "mask": ("mask.image",),
        "mask.round": ("mask.image", *SIDES),
        "mask.conditioning_weight": (),  # an inpainting checkpoint heeds it without a mask, too
        "soft": ("soft.enabled",),
        "soft.enabled": ("mask.image", *SIDES),
        "outpaint": SIDES,
        "variation.seed": ("variation.strength",),
    }
)


def check_needs(given: Mapping[str, Any], spellings: Mapping[str, str]) -> None:
    """See that nothing was given in vain.

    Args:
        given: values by field; None = not given.
        spellings: of the options, by field.

    Raises:
        RequestError: an option has no effect without another, which was not given.
    """
    for name, value in given.items():
        part = name.partition(".")[0]
        needed = NEEDS.get(name, NEEDS.get(part, ()))
        if value is None or not needed or (name in needed and name not in NEEDS):
            continue
        if value is False and not getattr(getattr(Request(), part), name.partition(".")[2]):
            continue  # as it is anyway
        if not any(given.get(each) for each in needed):
            wanted = " or ".join(dict.fromkeys(spellings[each] for each in needed))
            raise RequestError(f"{spellings[name]} has no effect without {wanted}; give both, or neither")


def as_typed(error: RequestError, part: str, spellings: Mapping[str, str]) -> RequestError:
    """An error about a part's fields, which are named as they were typed.

    Args:
        error: that the part has raised, with `field=value` in it.
        part: of a request.
        spellings: of the options, by field.
    """

    def typed(found: re.Match[str]) -> str:
        return spellings.get(f"{part}.{found[1]}", found[1]) + found[2]

    return RequestError(re.sub(r"\b([a-z_0-9]+)(=)", typed, str(error)))
