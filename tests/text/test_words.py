"""Words for full-text search."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.text.words import MAX_TERMS, MAX_WORDS, Term, query, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("A red Apple, (3d:1.2)", ["a", "red", "apple", "3d", "1", "2"]),
        ("long_hair <lora:add-detail:0.5>", ["long", "hair", "lora", "add", "detail", "0", "5"]),
        ("ＦＵＬＬ ｗｉｄｔｈ Straße", ["full", "width", "strasse"]),
        ("cafe\u0301 = café", ["café", "café"]),
        ("一只红苹果", ["一", "只", "红", "苹", "果"]),
        ("ﾘﾝｺﾞ リンゴ", ["リ", "ン", "ゴ", "リ", "ン", "ゴ"]),
        ("3d苹果x 2", ["3d", "苹", "果", "x", "2"]),
        ("한국어 사과", ["한국어", "사과"]),
        ("हिन्दी", ["हिन्दी"]),
        ("🍎 !!! \0", []),
    ],
)
def test_a_text_is_its_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red apple", [Term(words=("red",)), Term(words=("apple",))]),
        (
            '"red apple" -"rotten pear"',
            [Term(words=("red", "apple")), Term(words=("rotten", "pear"), absent=True)],
        ),
        ("app* -pe*", [Term(words=("app",), starts=True), Term(words=("pe",), absent=True, starts=True)]),
        ("苹果", [Term(words=("苹", "果"))]),
        ('"open', [Term(words=("open",))]),
        ("a OR b", [Term(words=("a",)), Term(words=("or",)), Term(words=("b",))]),
    ],
)
def test_a_query_is_its_terms(text: str, expected: list[Term]) -> None:
    assert list(query(text).terms) == expected


@given(st.text(max_size=300))
def test_no_text_is_wrong_and_words_hold_no_sign_that_a_database_reads(text: str) -> None:
    found = query(text)
    assert found.empty == (not text.strip())
    assert len(found.terms) <= MAX_TERMS
    for word in (*words(text), *(word for term in found.terms for word in term.words)):
        assert word
        assert not set(word) & set("'\"\\*:^{}()&|!<>-+_\0 ")
        assert all(character.isalnum() for character in word if character.isascii())


def test_words_of_a_text_are_bounded() -> None:
    assert len(words("a " * 10**6)) == MAX_WORDS
    assert all(len(word) <= 100 for word in words("a" * 10**6))
