"""Every word of the interface, by key and language: `languages/<language>.toml`, one file a language.

A key is the way through the file's tables: [help.sampling] steps = "…" is `help.sampling.steps`. The browser
chooses among them by its own language. Words below `say` hold {places} and are filled in here, not there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.i18n import I18nData

LANGUAGES = ("en", "de", "zh-CN")  # the first has every word


@cache
def table(language: str) -> Mapping[str, str]:
    """The words of a language, by key."""
    text = resources.files("sfumato.ui").joinpath(f"languages/{language}.toml").read_text("utf-8")
    return MappingProxyType(dict(_flat(tomllib.loads(text))))


def word(key: str, language: str = LANGUAGES[0], **places: object) -> str:
    """A word in a language, its places filled."""
    text = table(language)[key]
    return text.format(**places) if places else text


def words_below(language: str, *above: str) -> dict[str, str]:
    """The words of a language below some keys, by the rest of their own: of "tool", `tool.swap` is `swap`."""
    return {
        key.removeprefix(f"{each}."): text
        for each in above
        for key, text in table(language).items()
        if key.startswith(f"{each}.")
    }


def t(key: str) -> Any:
    """A word that the browser puts into its own language."""
    assert key in table(LANGUAGES[0]), f"no word {key!r} in languages/{LANGUAGES[0]}.toml"
    return I18nData(key)


def translations() -> gr.I18n:
    """What the browser needs for `t`."""
    return gr.I18n(
        **{
            each: {key: text for key, text in table(each).items() if not key.startswith("say.")}
            for each in LANGUAGES
        }
    )


def language_of(header: str) -> str:
    """The language that suits an Accept-Language header best (RFC 9110, section 12.5.4)."""
    wanted: list[tuple[float, str]] = []
    for part in header[:1000].split(","):
        name, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((float(quality or 1), name.casefold()))
        except ValueError:
            continue
    for weight, name in sorted(wanted, key=lambda each: -each[0]):
        for language in LANGUAGES if weight > 0 else ():
            if name.partition("-")[0] == language.casefold().partition("-")[0]:
                return language
    return LANGUAGES[0]


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
