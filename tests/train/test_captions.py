"""Captions: which bytes are text, and what each variation keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.train.captions import (
    MAX_CAPTION_BYTES,
    MOST_TAGS,
    CaptionConfig,
    clean_caption,
    decode_caption,
    longest_prompts,
    tag_counts,
    vary_caption,
)

TAGS = st.lists(st.text("abcdef", min_size=1, max_size=5), min_size=1, max_size=9, unique=True)


def varied(text: str, seed: int = 0, **fields: object) -> str:
    return vary_caption(text, CaptionConfig.model_validate(fields), np.random.default_rng(seed))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_say_what_they_are_are_read(encoding: str) -> None:
    assert decode_caption(" ein Bär,\r\nим, 猫 \n\n".encode(encoding)) == "ein Bär,\nим, 猫"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("Bär".encode("latin-1"), "not UTF-8 at byte 1"),
        ("Bear".encode("utf-16-le"), "zero bytes"),
        (b"\xff\xfea", "not UTF-16"),
        (b"a\0b", "zero bytes"),
        (b"a" * (MAX_CAPTION_BYTES + 1), "bytes of caption"),
    ],
)
def test_bytes_that_are_no_caption_are_refused(data: bytes, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        decode_caption(data)


def test_half_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="half characters"):
        clean_caption("a \ud83d b")


@given(text=st.text(), seed=st.integers(0, 9))
def test_nothing_asked_for_changes_nothing(text: str, seed: int) -> None:
    line = clean_line(text)
    assert varied(line, seed) == line


def clean_line(text: str) -> str:
    return " ".join(text.split())


@given(tags=TAGS, seed=st.integers(0, 99), keep=st.integers(0, 10))
def test_a_shuffle_keeps_all_tags_and_the_first_in_place(tags: list[str], seed: int, keep: int) -> None:
    out = varied(", ".join(tags), seed, shuffle=True, keep_tokens=keep).split(", ")
    assert out[:keep] == tags[:keep]
    assert sorted(out) == sorted(tags)


@given(tags=TAGS, seed=st.integers(0, 99), keep=st.integers(0, 10))
def test_dropping_tags_keeps_the_order_and_the_first(tags: list[str], seed: int, keep: int) -> None:
    out = [tag for tag in varied(",".join(tags), seed, tag_dropout=0.5, keep_tokens=keep).split(", ") if tag]
    assert out[:keep] == tags[:keep]
    assert out == [tag for tag in tags if tag in out]


def test_a_separator_marks_what_is_kept() -> None:
    fields = {"shuffle": True, "keep_separator": "|||"}
    seen = {varied("sks cat, sitting ||| a, b, c", seed, **fields) for seed in range(50)}
    assert len(seen) == 6  # 3! orders
    assert all(text.startswith("sks cat, sitting, ") for text in seen)
    assert varied("a ||| b", keep_separator="|||") == "a, b"


def test_the_caption_is_dropped_as_often_as_asked() -> None:
    empty = sum(varied("a", seed, dropout=0.1, prefix="p") == "" for seed in range(4000))
    assert abs(empty - 400) < 5 * (4000 * 0.1 * 0.9) ** 0.5  # five standard deviations of a binomial


def test_each_line_is_a_caption_of_its_own() -> None:
    assert {varied("a cat\na pet", seed) for seed in range(20)} == {"a cat", "a pet"}


def test_prefix_suffix_and_templates_surround() -> None:
    fields = {"prefix": "photo,", "suffix": "4k", "templates": ("[{}]", "<{}>")}
    assert {varied("a cat", seed, **fields) for seed in range(20)} == {
        "[photo, a cat 4k]",
        "<photo, a cat 4k>",
    }
    assert varied("", templates=("a photo of {}",)) == "a photo of "


def test_what_is_fixed_says_so() -> None:
    assert CaptionConfig(prefix="a", templates=("{}",)).is_fixed()
    for field in ({"dropout": 0.1}, {"shuffle": True}, {"tag_dropout": 0.1}, {"templates": ("a", "b")}):
        assert not CaptionConfig.model_validate(field).is_fixed()


def test_the_longest_prompts_are_those_with_nothing_dropped() -> None:
    config = CaptionConfig(prefix="p", templates=("1 {}", "2 {}"), dropout=0.5, shuffle=True)
    assert list(longest_prompts("a, b\nc", config)) == ["1 p a, b", "2 p a, b", "1 p c", "2 p c"]


def test_counting_tags_that_hardly_ever_come_twice_forgets_the_rare() -> None:
    captions = ((f"cat, {number}", 1) for number in range(120 * MOST_TAGS))
    counts = tag_counts(captions, ",")
    assert len(counts) == MOST_TAGS
    assert next(iter(counts.items())) == ("cat", 120 * MOST_TAGS)


def test_tags_are_counted_with_their_repeats() -> None:
    counts = tag_counts(iter([("a, b", 2), ("b\nb, c", 1)]), ",")
    assert list(counts.items()) == [("b", 4), ("a", 2), ("c", 1)]
