"""Which controls are without effect for now, because of what others say. They cannot be used then.

The table is data, so that the browser, when something is chosen, and the server, when a form is filled, judge
by the same.
"""

from __future__ import annotations


def update(usable: str, **values: str) -> str:
    """JavaScript for what changes of a component.

    Args:
        usable: an expression: whether it can be used.
        values: expressions for others of its properties.
    """
    parts = {"interactive": f"!!({usable})", **values}
    return "{__type__: 'update', " + ", ".join(f"{name}: {value}" for name, value in parts.items()) + "}"
