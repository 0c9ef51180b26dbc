"""Find a row of a table by what people call it."""

import difflib
from collections.abc import Mapping
from typing import Protocol, TypeVar

from sfumato.errors import RequestError


class Named(Protocol):
    """A table's row: one name to show, others that are understood."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def aliases(self) -> tuple[str, ...]: ...  # noqa: D102


Row = TypeVar("Row", bound=Named)


def find(table: Mapping[str, Row], name: str) -> Row | None:
    """Give the row called `name`, or None. Case and repeated spaces do not count.

    Source: own; the aliases are those of existing clients.

    Args:
        table: rows by name.
        name: a row's name or one of its aliases.
    """
    wanted = _plain(name)
    for row in table.values():
        if any(_plain(known) == wanted for known in (row.name, *row.aliases)):
            return row
    return None


def unknown(table: Mapping[str, Row], name: str, what: str) -> RequestError:
    """Make the error for a name that no row has, with the nearest names first.

    Source: own.

    Args:
        table: rows by name.
        name: what was asked for.
        what: the kind of thing, as the request calls it: "sampler", "schedule".
    """
    names = {_plain(known): row.name for row in table.values() for known in (row.name, *row.aliases)}
    near = difflib.get_close_matches(_plain(name), names, n=5, cutoff=0.5)
    shown = list(dict.fromkeys(names[match] for match in near))[:3]
    hint = f"did you mean {' or '.join(shown)}; " if shown else ""
    return RequestError(f"{what}={name!r} is not known; {hint}choose one of {', '.join(table)}")


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())
