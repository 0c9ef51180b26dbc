import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import PromptError
from sfumato.text.grammar import parse_emphasis, split_parts, split_tags, strip_comments, timeline


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("a cat # fluffy", "a cat "),
        ("a\n# b\nc", "a\nc"),
        ("a # b\nc", "a \nc"),
        ("# a", ""),
        ("#a\n#b\nc", "c"),
        ("a\n#b", "a\n"),
        ("no comment", "no comment"),
        ("", ""),
    ],
)
def test_comments_go(text: str, stripped: str) -> None:
    assert strip_comments(text) == stripped


def test_a_prompt_with_everything_is_read_in_order() -> None:
    prompt = "a (cat:1.2) [on|under] a mat # where?\n<lora:fur:1> :0.8 AND [a dog:a (wolf):0.5] BREAK [grain]"
    text, tags = split_tags(strip_comments(prompt))
    cat, dog = split_parts(text)
    assert [tag.positional[0] for tag in tags] == ["fur"]
    assert (cat.weight, dog.weight) == (0.8, 1.0)
    assert [entry.text for entry in timeline(cat.text, 2)] == [
        "a (cat:1.2) on a mat",
        "a (cat:1.2) under a mat",
    ]
    (_, late) = timeline(dog.text, 10)
    assert parse_emphasis(late.text) == [
        (" a ", 1.0),
        ("wolf", 1.1),
        ("", 1.0),
        ("BREAK", -1.0),
        ("", 1.0),
        ("grain", 1 / 1.1),
    ]


@pytest.mark.parametrize(
    "text", ["a\x00b", "\ud800", "‮x", "👩‍👩‍👧", "e" + "\u0301" * 1000, "a\u2028b", "\x1b[31m", "{0}%s$x"]
)
def test_odd_text_is_data(text: str) -> None:
    assert strip_comments(text) == text
    assert split_tags(text) == (text, [])
    assert split_parts(text)[0].text == text
    assert timeline(text, 5)[0].text == text
    assert "".join(fragment.text for fragment in parse_emphasis(text)) == text.replace(
        "[", ""
    )  # opens a bracket


@given(st.text("ab\n#", max_size=20))
def test_no_comment_is_left_and_nothing_else_goes(text: str) -> None:
    stripped = strip_comments(text)
    assert "#" not in stripped
    kept = [line.split("#")[0] for line in text.split("\n")]
    assert stripped.replace("\n", "") == "".join(kept)


@given(st.text("ab ()[]:|\\.19AND<>=#BREAK,\n"))
def test_the_whole_way_raises_nothing_but_prompt_errors(prompt: str) -> None:
    try:
        text, _ = split_tags(strip_comments(prompt))
        for part in split_parts(text):
            for entry in timeline(part.text, 5):
                parse_emphasis(entry.text)
    except PromptError:
        return
