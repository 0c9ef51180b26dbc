from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import PromptError
from sfumato.text.emphasis import BREAK, Fragment, parse_emphasis
from sfumato.text.limits import MAX_CHARACTERS, MAX_WEIGHT

GOLDEN = [
    (
        "(masterpiece:1.2), [bad], ((good))",
        [
            ("masterpiece", 1.2),
            (", ", 1),
            ("bad", 0.9090909090909091),
            (", ", 1),
            ("good", 1.2100000000000002),
        ],
    ),
    ("(a, (b:1.2), c)", [("a, ", 1.1), ("b", 1.32), (", c", 1.1)]),
    ("((x:2))", [("x", 2.2)]),
    ("[[x]]", [("x", 0.8264462809917354)]),
    ("(x: 1.5 )", [("x", 1.5)]),
    ("(a:.5)", [("a", 0.5)]),
    ("(x:0)", [("x", 0)]),
    ("(x:-1)", [("x", -1)]),
    ("(a:b:1.3)", [("a:b", 1.3)]),
    ("a:1.2)", [("a:1.2)", 1)]),
    ("[x:1.3]", [("x:1.3", 1 / 1.1)]),
    ("(a[b)c]", [("a", 1.1), ("b", 1.0), ("c", 1 / 1.1)]),
    ("(unclosed", [("unclosed", 1.1)]),
    ("(:1.3)", [("", 1)]),
    (r"\\(x)", [("\\", 1), ("x", 1.1)]),
    ("a BREAK BREAK b", [("a", 1), ("BREAK", -1), ("", 1), ("BREAK", -1), ("b", 1)]),
    ("(a BREAK b:1.2)", [("a", 1.2), ("BREAK", -1.2), ("b", 1.2)]),
    ("a BREAKb", [("a BREAKb", 1)]),
    ("aBREAK b", [("aBREAK b", 1)]),
    # from the rules beside the table
    ("", [("", 1)]),
    ("x", [("x", 1)]),
    ("(x)", [("x", 1.1)]),
    (r"a\b", [("ab", 1)]),
    ("\\", [("", 1)]),
    (r"\(x\) \[y\]", [("(x) [y]", 1)]),
    (r"(\(x\))", [("(x)", 1.1)]),
    ("x) y] (z", [("x) y] ", 1), ("z", 1.1)]),
    ("[unclosed", [("unclosed", 1 / 1.1)]),
    ("(a)(b)", [("ab", 1.1)]),
    ("(a:1e9)", [("a:1e9", 1.1)]),
    ("(a:nan)", [("a:nan", 1.1)]),
    ("(a:)", [("a:", 1.1)]),
    ("a:1.2.3)", [("a:1.2.3)", 1)]),
    ("(x:+2)", [("x", 2)]),
    (":::", [(":::", 1)]),
    ("()", [("", 1)]),
    ("(BREAK:1)", [("", 1), ("BREAK", -1), ("", 1)]),
    ("a\n BREAK\tb", [("a", 1), ("BREAK", -1), ("b", 1)]),
]


@pytest.mark.parametrize(("text", "fragments"), GOLDEN)
def test_golden_vectors(text: str, fragments: list[tuple[str, float]]) -> None:
    parsed = parse_emphasis(text)
    assert [fragment.text for fragment in parsed] == [text for text, _ in fragments]
    # brackets multiply from the outside in; one order may round differently from another
    assert [fragment.weight for fragment in parsed] == pytest.approx([w for _, w in fragments], rel=1e-15)


@pytest.mark.parametrize("number", ["1.2.3", ".", "..", "-.", "1001", "-1000.5", "9" * 400, "9" * 100_000])
def test_a_weight_that_is_no_number_or_too_large_is_an_error(number: str) -> None:
    with pytest.raises(PromptError, match="weight") as caught:
        parse_emphasis(f"(a:{number})")
    assert len(str(caught.value)) < 300


def test_nested_brackets_beyond_the_largest_weight_are_an_error() -> None:
    assert parse_emphasis("(" * 72 + "x" + ")" * 72)[0].weight < MAX_WEIGHT
    with pytest.raises(PromptError, match="fewer brackets"):
        parse_emphasis("(" * 73 + "x" + ")" * 73)


def test_too_long_a_prompt_is_an_error() -> None:
    assert parse_emphasis("x" * MAX_CHARACTERS) == [Fragment("x" * MAX_CHARACTERS, 1.0)]
    with pytest.raises(PromptError, match="shorten"):
        parse_emphasis("x" * (MAX_CHARACTERS + 1))


def test_a_hundred_thousand_brackets_are_read() -> None:
    many = 100_000
    assert parse_emphasis("(" * many) == [Fragment("", 1.0)]
    assert parse_emphasis(")" * many) == [Fragment(")" * many, 1.0)]
    assert parse_emphasis("[" * many + "x" + "]" * many)[0].weight < 1e-300
    assert parse_emphasis("(a)" * many) == [Fragment("a" * many, 1.1)]
    assert parse_emphasis("(" * many + "x:0" + ":1)" * many) == [Fragment("x:0", 1.0)]
    assert len(parse_emphasis("(" * many + "a(b)" * many + ":1)" * many)) == 2 * many
    for heavy in ("(" * many + "x", "([" * many + "x" + "])" * many, "((x:0):" + "9" * many + ")"):
        with pytest.raises(PromptError):
            parse_emphasis(heavy)


def test_a_million_spaces_around_break_are_read() -> None:
    space = " " * 400_000
    assert parse_emphasis(f"a{space}BREAK{space}b") == [Fragment("a", 1.0), BREAK, Fragment("b", 1.0)]
    assert parse_emphasis(space + ":" + space) == [Fragment(space + ":" + space, 1.0)]


PIECES = ["(", ")", "[", "]", ":", "\\", ":1.5)", ":0)", ":1.2.3)", "BREAK", " ", "a", "b", "|", "1"]


def by_the_rules(text: list[str]) -> list[tuple[str, float]]:
    """The description taken word by word: a closer multiplies every fragment since its opener."""
    out: list[list] = []
    stacks: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        for fragment in out[stacks[kind].pop() :]:
            fragment[1] *= factor

    for token in text:
        if token in stacks:
            stacks[token].append(len(out))
        elif token == ")" and stacks["("]:
            close("(", 1.1)
        elif token == "]" and stacks["["]:
            close("[", 1 / 1.1)
        elif token[0] == ":" and token[-1] == ")" and stacks["("]:
            close("(", float(token[1:-1]))
        else:
            out.append([token, 1.0])
    for kind, factor in (("(", 1.1), ("[", 1 / 1.1)):
        while stacks[kind]:
            close(kind, factor)
    return [(text, weight) for text, weight in out]


@given(st.lists(st.sampled_from(["(", ")", "[", "]", ":2)", ":0.5)", "x", "y"]), max_size=30))
def test_weights_are_those_of_the_slow_description(tokens: list[str]) -> None:
    def spread(fragments: list[tuple[str, float]]) -> list[tuple[str, float]]:
        return [(sign, round(weight, 9)) for text, weight in fragments for sign in text]

    try:
        parsed = parse_emphasis("".join(tokens))
    except PromptError:  # too heavy
        assert len(tokens) > 8
        return
    assert spread([tuple(fragment) for fragment in parsed]) == spread(by_the_rules(tokens))


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text())
def test_nothing_but_a_prompt_error_is_raised_and_nothing_is_added(text: str) -> None:
    try:
        fragments = parse_emphasis(text)
    except PromptError:
        return
    assert fragments
    assert sum(len(fragment.text) for fragment in fragments) <= len(text)
    assert all(abs(fragment.weight) <= MAX_WEIGHT for fragment in fragments)
    assert all(left.weight != right.weight for left, right in pairwise(fragments))


@given(st.text())
def test_escaped_text_is_read_as_it_is(text: str) -> None:
    text = text.replace("BREAK", "")
    escaped = "".join(f"\\{sign}" if sign in "()[]\\" else sign for sign in text)
    assert parse_emphasis(escaped) == [Fragment(text, 1.0)]


def test_a_message_is_one_short_line() -> None:
    with pytest.raises(PromptError) as caught:
        parse_emphasis("(a\n\ud800" + "b" * 1000 + ":5000)")
    assert "\n" not in str(caught.value)
    assert str(caught.value).encode()
    assert len(str(caught.value)) < 200
