"""How much a prompt may ask for. Beyond these a `PromptError` says what was given and what to do."""

from sfumato.errors import PromptError

MAX_CHARACTERS = 1 << 20  # of one prompt
MAX_CHUNKS = 100  # of 75 tokens: 7,500 tokens, some 30,000 characters of English
MAX_PARTS = 100  # joined by AND; each goes through the network at every step
MAX_WEIGHT = 1000.0  # of a word or a part, either sign; beyond it a half-precision network overflows
MAX_TIMELINE = 1 << 24  # characters of all texts that prompt editing makes of one prompt


def require(condition: bool, message: str) -> None:
    """Raise PromptError with `message` unless the condition holds."""
    if not condition:
        raise PromptError(message)


def require_length(text: str) -> None:
    """Raise PromptError if a text has more than MAX_CHARACTERS."""
    require(
        len(text) <= MAX_CHARACTERS,
        f"the prompt has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read; shorten it",
    )


def read_weight(digits: str, shown: str) -> float:
    """Read a weight that a user wrote.

    Args:
        digits: a sign, digits and points.
        shown: how it stands in the prompt, for the message.

    Raises:
        PromptError: if it is no number ("1.2.3") or beyond MAX_WEIGHT.
    """
    try:
        weight = float(digits)
    except ValueError:
        raise PromptError(
            f"the weight in {shorten(shown)!r} is not a number; write one point as in 1.2, "
            f"or a backslash before a bracket that is meant as itself"
        ) from None
    require_weight(weight, shown)
    return weight


def require_weight(weight: float, shown: str) -> None:
    """Raise PromptError if a weight is beyond MAX_WEIGHT, naming the words `shown` that carry it."""
    require(
        abs(weight) <= MAX_WEIGHT,
        f"{shorten(shown)!r} has a weight of {weight:g}, at most {MAX_WEIGHT:g} makes sense; "
        f"use fewer brackets or a smaller number",
    )


def shorten(text: str, length: int = 40) -> str:
    """Cut a text that goes into a message."""
    return text if len(text) <= length else text[: length - 1] + "…"
