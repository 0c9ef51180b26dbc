"""Words: every language has those that English has, with the same places in them."""

import re

import pytest

from sfumato.ui.strings import LANGUAGES, language_of, table, word


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_language_has_the_same_words(language: str) -> None:
    english, other = table(LANGUAGES[0]), table(language)
    assert set(english) == set(other)
    for key, text in english.items():
        assert other[key].strip()
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", other[key])), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_only_what_is_said_by_the_server_has_places(language: str) -> None:
    """The browser's translator would take { for an argument, and < could become markup."""
    for key, text in table(language).items():
        assert key.startswith("say.") or not set("{}<>") & set(text), key


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr-FR,fr;q=0.9", "en"),
        ("fr,zh-TW;q=0.5,de;q=0.4", "zh-CN"),
        ("de;q=0,en", "en"),
        ("de;q=x,zh", "zh-CN"),
        ("*;q=0.5", "en"),
    ],
)
def test_the_language_is_the_browsers(header: str, language: str) -> None:
    assert language_of(header) == language


def test_places_are_filled() -> None:
    assert "3 before" in word("say.queued", ahead=3, left="0:10")
