import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import PromptError
from sfumato.text.composition import split_parts
from sfumato.text.limits import MAX_CHARACTERS, MAX_PARTS, MAX_WEIGHT


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "a cat :1.2 AND a dog AND a penguin :2.2",
            [("a cat", 1.2), (" a dog", 1.0), (" a penguin", 2.2)],
        ),
        ("a AND b:-0.5", [("a", 1.0), (" b", -0.5)]),
        ("a ANDROID", [("a ANDROID", 1.0)]),
        ("salt and pepper", [("salt and pepper", 1.0)]),
        ("(x:1.2) AND y", [("(x:1.2)", 1.0), (" y", 1.0)]),
        ("", [("", 1.0)]),
        ("a AND", [("a", 1.0), ("", 1.0)]),
        ("a:.5 ", [("a", 0.5)]),
        ("a : 2. ", [("a", 2.0)]),
        ("a:b:+3", [("a:b", 3.0)]),
        ("a:1.2.3", [("a:1.2.3", 1.0)]),
        ("a:1e3", [("a:1e3", 1.0)]),
        ("a:nan", [("a:nan", 1.0)]),
        ("a:", [("a:", 1.0)]),
        ("[a:b:5]", [("[a:b:5]", 1.0)]),
        ("at 12:30", [("at 12", 30.0)]),
    ],
)
def test_examples(text: str, parts: list[tuple[str, float]]) -> None:
    assert [(part.text, part.weight) for part in split_parts(text)] == parts


@pytest.mark.parametrize("weight", ["1001", "-1001", "9" * 100_000])
def test_too_large_a_weight_is_an_error(weight: str) -> None:
    with pytest.raises(PromptError, match="weight"):
        split_parts(f"a AND b:{weight}")


def test_too_many_parts_are_an_error() -> None:
    assert len(split_parts(" AND ".join("x" * MAX_PARTS))) == MAX_PARTS
    with pytest.raises(PromptError, match="AND"):
        split_parts(" AND ".join("x" * (MAX_PARTS + 1)))


def test_long_runs_are_read() -> None:
    half = MAX_CHARACTERS // 2 - 1
    for text in (
        ":" * 2 * half,
        "a" + " " * half + ":" + " " * half,
        ": " * half,
        "1" * half + ":" + "x" * half,
    ):
        assert split_parts(text)[0].weight == 1.0


@given(st.lists(st.sampled_from(["AND", " ", ":", "1", ".", "-", "a", "\n"])).map("".join) | st.text())
def test_nothing_but_a_prompt_error_is_raised(text: str) -> None:
    try:
        parts = split_parts(text)
    except PromptError:
        return
    assert parts
    assert all(abs(part.weight) <= MAX_WEIGHT for part in parts)
    assert sum(len(part.text) for part in parts) <= len(text)


@given(st.lists(st.tuples(st.text("ab (),[]", max_size=5), st.floats(-1000, 1000)), min_size=1, max_size=5))
def test_parts_written_with_weights_are_read_back(parts: list[tuple[str, float]]) -> None:
    text = " AND ".join(f"{words}:{weight:.3f}" for words, weight in parts)
    read = split_parts(text)
    assert [part.weight for part in read] == [round(weight, 3) for _, weight in parts]
    assert [part.text.strip() for part in read] == [words.strip() for words, _ in parts]
