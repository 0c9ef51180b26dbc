"""Answers that many ask for: written once, and sent to all as they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Kept:
    """The last answer of each kind, for as long as what it tells of is the same."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._kept: dict[Hashable, tuple[tuple[object, ...], bytes]] = {}

    def of(self, kind: Hashable, told: tuple[object, ...], write: Callable[[], bytes]) -> bytes:
        """An answer.

        Args:
            kind: who asks for what; one answer is kept of each.
            told: what the answer tells of. The very same objects give the same answer.
            write: writes it, where it is not at hand.
        """
        kept = self._kept.get(kind)
        if kept is None or any(old is not new for old, new in zip(kept[0], told, strict=True)):
            kept = told, write()
            self._kept[kind] = kept
        return kept[1]
