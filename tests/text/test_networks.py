import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.text.networks import split_tags


def test_a_tag_is_taken_out_and_apart() -> None:
    text, (tag,) = split_tags("a cat <lora:fur:0.8:te=0.5:unet=1> on a mat")
    assert text == "a cat  on a mat"
    assert tag.kind == "lora"
    assert tag.positional == ("fur", "0.8")
    assert dict(tag.named) == {"te": "0.5", "unet": "1"}
    assert str(tag) == "<lora:fur:0.8:te=0.5:unet=1>"


def test_tags_keep_their_order() -> None:
    text, tags = split_tags("<hypernet:a:1>x<lora:b><lyco:c d (e):-1>")
    assert text == "x"
    assert [(tag.kind, *tag.positional) for tag in tags] == [
        ("hypernet", "a", "1"),
        ("lora", "b"),
        ("lyco", "c d (e)", "-1"),
    ]


@pytest.mark.parametrize(
    "text", ["a < b > c", "<lora>", "<lora:>", "<lora:x", "<:x>", "< lora:x>", "<3", "<<", ""]
)
def test_what_is_no_tag_stays(text: str) -> None:
    assert split_tags(text) == (text, [])


def test_arguments_that_are_odd_are_kept_as_they_are() -> None:
    _, (tag,) = split_tags("<lora::a=b=c:=x:te=1:te=2:\n>")
    assert tag.positional == ("", "a=b=c", "\n")
    assert dict(tag.named) == {"": "x", "te": "2"}


def test_a_tag_cannot_be_changed_and_can_be_a_key() -> None:
    _, (tag,) = split_tags("<lora:a:te=1>")
    with pytest.raises(TypeError):
        tag.named["te"] = "2"  # type: ignore[index]
    assert len({tag, tag}) == 1


def test_long_runs_are_read() -> None:
    assert split_tags("<a:" * 300_000) == ("<a:" * 300_000, [])
    assert split_tags("<" + "a" * 1_000_000) == ("<" + "a" * 1_000_000, [])
    assert len(split_tags("<a:b>" * 200_000)[1]) == 200_000


@given(st.lists(st.sampled_from(["<", ">", ":", "=", "lora", "x", " "])).map("".join) | st.text())
def test_text_and_tags_together_are_the_prompt(text: str) -> None:
    rest, tags = split_tags(text)
    assert len(rest) + sum(len(str(tag)) for tag in tags) == len(text)
    assert all(tag.kind and ">" not in str(tag)[:-1] for tag in tags)
