"""The counter says what the text encoder will read, and looks at no text twice."""

import pytest

from sfumato.app.counter import PromptCounter
from sfumato.errors import PromptError
from sfumato.text import chunks
from sfumato.text.chunks import TokenCount
from sfumato.text.styles import Style
from sfumato.text.tokenizer import Tokenizer
from sfumato.types import Prompt

COUNTER = PromptCounter()


def counted(text: str = "", negative: str = "", steps: int = 20, *styles: Style) -> tuple[int, int]:
    both = COUNTER.count(Prompt(text=text, negative=negative), steps=steps, styles=styles)
    return both[0].used, both[1].used


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a cat <lora:fur:0.8>", "a cat "),
        ("a cat # a comment, of many words", "a cat "),
        ("# only this\na cat", "a cat"),
        ("(a cat:1.3)", "a cat"),
        ("[a cat:a large grey dog:0.5]", "a large grey dog"),
        ("[cat|large dog]", "large dog"),
        ("a cat AND a large dog", "a large dog"),
        ("a cat :1.2", "a cat"),
    ],
)
def test_what_the_encoder_does_not_read_is_not_counted(text: str, same: str) -> None:
    assert counted(text)[0] == len(Tokenizer.load().encode(same))


def test_the_negative_prompt_is_read_without_tags_and_parts() -> None:
    words = len(Tokenizer.load().encode("a cat AND a dog"))
    assert counted(negative="a cat AND a dog") == (0, words)
    assert counted(negative="a <lora:fur:1>")[1] > counted(negative="a")[1]
    assert counted(negative="a # dog")[1] == 1


@pytest.mark.parametrize(("words", "limit"), [(0, 75), (1, 75), (75, 75), (76, 150), (150, 150), (151, 225)])
def test_the_limit_is_that_of_the_chunks_the_encoder_gets(words: int, limit: int) -> None:
    text = " ".join(["cat"] * words)
    found = COUNTER.count(Prompt(text=text))[0]
    assert found == TokenCount(used=words, limit=limit)
    assert len(chunks.split(text, Tokenizer.load())) * chunks.ROW == limit


def test_styles_count_where_they_are_chosen() -> None:
    style = Style(name="oil", prompt="an oil painting of {prompt}", negative="photo")
    assert counted("a cat", "", 20, style) == (counted("an oil painting of a cat")[0], 1)


def test_an_edit_that_never_comes_does_not_count() -> None:
    assert counted("[a cat:a large grey dog:10]", steps=20) > counted("[a cat:a large grey dog:10]", steps=5)


def test_only_what_has_changed_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: read.append(text) or encode(self, text))
    counter = PromptCounter()
    for end in ("", " c", " ca", " cat"):
        counter.count(Prompt(text=f"a{end}", negative="a dog"))
    assert read.count("a dog") == 1


def test_what_cannot_be_read_is_said_in_one_line() -> None:
    with pytest.raises(PromptError, match="weight"):
        counted("(a cat:99999)")
