import itertools
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import PromptError
from sfumato.text.limits import MAX_CHARACTERS, MAX_TIMELINE
from sfumato.text.schedule import timeline

GOLDEN = [
    ("a [b:c:0.5] d", 10, [(5, "a b d"), (10, "a c d")]),
    ("a [b:c:5] d", 10, [(5, "a b d"), (10, "a c d")]),
    ("a [b:c:1] d", 10, [(1, "a b d"), (10, "a c d")]),
    ("a [b:c:1.0] d", 10, [(10, "a b d")]),
    ("a [b:c:0] d", 10, [(10, "a c d")]),
    ("a [b:c:0.0] d", 10, [(10, "a c d")]),
    ("a [b:c:-1] d", 10, [(10, "a c d")]),
    ("a [b:c:20] d", 10, [(10, "a b d")]),
    ("a [b::3] d", 10, [(3, "a b d"), (10, "a  d")]),
    ("a [:b:3] d", 10, [(3, "a  d"), (10, "a b d")]),
    ("a [b:3] d", 10, [(3, "a  d"), (10, "a b d")]),
    ("[a:b:.25]", 20, [(5, "a"), (20, "b")]),
    ("[a:b:0.33]", 10, [(3, "a"), (10, "b")]),
    ("[a : b :  3 ]", 10, [(3, "a "), (10, " b ")]),
    ("[a|b|c]", 5, [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "b")]),
    ("[fe|]male", 3, [(1, "female"), (2, "male"), (3, "female")]),
    ("[a|[b:c:3]]", 4, [(1, "a"), (2, "b"), (3, "a"), (4, "c")]),
    ("(a [b:c:3]:1.2)", 10, [(3, "(a b:1.2)"), (10, "(a c:1.2)")]),
    ("a [b] c", 10, [(10, "a [b] c")]),
    ("[a:b:c:3]", 10, [(10, "[a:b:c:3]")]),
    ("[a|b:1.2]", 10, [(10, "[a|b:1.2]")]),
    # from the rules beside the table
    ("", 10, [(10, "")]),
    ("[[a:b:3]:c:6]", 10, [(3, "a"), (6, "b"), (10, "c")]),
    ("[a:[b:c:6]:3]", 10, [(3, "a"), (6, "b"), (10, "c")]),
    ("a: b) [c:d:2]", 4, [(2, "a: b) c"), (4, "a: b) d")]),
    ("[x [a:b:3]", 10, [(3, "[x a"), (10, "[x b")]),
    ("[a:b:c:3] [d:e:5]", 10, [(5, "[a:b:c:3] d"), (10, "[a:b:c:3] e")]),
    ("a | b [c:d:3]", 10, [(10, "a | b [c:d:3]")]),
    ("(a|b) [c:d:3]", 10, [(10, "(a|b) [c:d:3]")]),
    ("[c:d:3] \\", 10, [(10, "[c:d:3] \\")]),
    (r"\[a:b:3\] \| [c:d:3]", 10, [(3, r"\[a:b:3\] \| c"), (10, r"\[a:b:3\] \| d")]),
    ("[a:b:x]", 10, [(10, "[a:b:x]")]),
    ("[a:b:1e1]", 10, [(10, "[a:b:1e1]")]),
    ("[a:b:nan]", 10, [(10, "[a:b:nan]")]),
    ("[a:b:(3)]", 10, [(10, "[a:b:(3)]")]),
    ("[a:b:" + "9" * 10_000 + "]", 10, [(10, "a")]),
    ("[::3]x[:3]", 10, [(10, "x")]),
    ("[|]", 4, [(4, "")]),
    ("[a|a]", 4, [(4, "a")]),
]
SECOND_PASS = [
    ("[a:b:0.5]", [(10, "b")]),
    ("[a:b:1.5]", [(5, "a"), (10, "b")]),
    ("[a:b:15]", [(5, "a"), (10, "b")]),
    ("[a:b:2.0]", [(10, "a")]),
    ("[a:b:5]", [(10, "b")]),
]
OLD = [
    ("[a:b:0.5]", [(5, "a"), (10, "b")]),
    ("[a:b:1.5]", [(1, "a"), (10, "b")]),
    ("[a:b:1.0]", [(1, "a"), (10, "b")]),
]


def pairs(text: str, steps: int, **options: int) -> list[tuple[int, str]]:
    return [(entry.last, entry.text) for entry in timeline(text, steps, **options)]


@pytest.mark.parametrize(("text", "steps", "entries"), GOLDEN)
def test_golden_vectors(text: str, steps: int, entries: list[tuple[int, str]]) -> None:
    assert pairs(text, steps) == entries


@pytest.mark.parametrize(("text", "entries"), SECOND_PASS)
def test_golden_vectors_of_the_second_pass(text: str, entries: list[tuple[int, str]]) -> None:
    assert pairs(text, 10, first_pass=10) == entries


@pytest.mark.parametrize(("text", "entries"), OLD)
@pytest.mark.parametrize("first_pass", [0, 10])
def test_golden_vectors_of_the_old_rule(text: str, entries: list[tuple[int, str]], first_pass: int) -> None:
    assert pairs(text, 10, first_pass=first_pass, old=True) == entries


def test_a_sampler_that_calls_twice_a_step_has_twice_the_timeline() -> None:
    assert pairs("[a:b:0.5]", 2 * 10) == [(10, "a"), (20, "b")]
    assert pairs("[a:b:5]", 2 * 10) == [(5, "a"), (20, "b")]


def test_the_emphasis_of_a_prompt_is_left_alone() -> None:
    text = r"(masterpiece:1.2), [bad], ((good)) \(x\) :) a:1.2) ((("
    assert pairs(text, 10) == [(10, text)]


def test_a_hundred_thousand_brackets_and_a_million_parts_are_read() -> None:
    many = 100_000
    for text in (
        "[" * many,
        "]" * many,
        "(" * many + "x" + ")" * many,
        "([" * many,
        "[(]" * many,
        ":" * many,
    ):
        assert pairs(text, 10) == [(10, text)]
    deep = "[" * many + "x" + ":3]" * many
    assert pairs(deep, 10) == [(3, ""), (10, "x")]
    assert pairs("[" + "|" * (MAX_CHARACTERS - 2) + "]", 10) == [(10, "")]
    assert pairs("[" + ":" * (MAX_CHARACTERS - 2) + "]", 10)[0][0] == 10
    parts = MAX_CHARACTERS // len("[a:b:3]")
    assert pairs("[a:b:3]" * parts, 10) == [(3, "a" * parts), (10, "b" * parts)]


def test_texts_beyond_the_limit_are_an_error() -> None:
    text = "[a|b]" + "x" * (MAX_TIMELINE // 1000)
    with pytest.raises(PromptError, match="prompt editing makes 1,000 texts"):
        timeline(text, 1000)
    assert len(timeline(text, 500)) == 500
    with pytest.raises(PromptError, match="shorten"):
        timeline("x" * (MAX_CHARACTERS + 1), 1)


def derives(text: str) -> bool:
    """Whether the grammar in the module's docstring derives a text; strays are allowed at the top."""

    @cache
    def one(start: int, end: int) -> bool:  # one group or one plain character
        if end - start == 1:
            return text[start] not in "\\()[]:|"
        if end - start == 2 and text[start] == "\\":
            return True
        if text[start] + text[end - 1] == "()":
            start, end = start + 1, end - 1
            colons = [at for at in range(start, end) if text[at] == ":"]
            return many(start, end) or any(many(start, at) and many(at + 1, end) for at in colons)
        if text[start] + text[end - 1] != "[]":
            return False
        start, end = start + 1, end - 1
        if many(start, end) or options(start, end):
            return True
        for at in range(start, end):
            if text[at] == ":" and text[at + 1 : end].strip().isdecimal():
                if many(start, at):
                    return True
                if any(text[i] == ":" and many(start, i) and many(i + 1, at) for i in range(start, at)):
                    return True
        return False

    @cache
    def many(start: int, end: int) -> bool:
        return start == end or any(one(start, at) and many(at, end) for at in range(start + 1, end + 1))

    @cache
    def options(start: int, end: int) -> bool:
        bars = [at for at in range(start, end) if text[at] == "|"]
        return any(many(start, at) and (many(at + 1, end) or options(at + 1, end)) for at in bars)

    @cache
    def top(start: int) -> bool:
        return start == len(text) or any(
            (one(start, at) or (at == start + 1 and text[start] in "()[]:")) and top(at)
            for at in range(start + 1, len(text) + 1)
        )

    return top(0)


@pytest.mark.parametrize("alphabet", ["[]:|1", "[]()|:", "[]a:3", "[(])|"])
def test_what_the_grammar_does_not_derive_is_literal(alphabet: str) -> None:
    for length in range(7 if len(alphabet) == 5 else 6):
        for signs in itertools.product(alphabet, repeat=length):
            text = "".join(signs)
            if not derives(text):
                assert pairs(text, 4) == [(4, text)], text


@given(
    st.lists(st.sampled_from(["[", "]", "(", ")", ":", "|", "\\", "a", " ", ":3]", ":0.5]", "1"])).map(
        "".join
    )
)
def test_no_error_is_raised_and_entries_are_in_order(text: str) -> None:
    entries = timeline(text, 7)
    lasts = [entry.last for entry in entries]
    assert lasts == sorted(set(lasts))
    assert lasts[0] >= 1
    assert lasts[-1] == 7
    assert all(len(entry.text) <= len(text) for entry in entries)
    assert all(left.text != right.text for left, right in itertools.pairwise(entries))
    if len(entries) > 1:
        assert derives(text)


TEXT = st.text("ab ,", max_size=4)


@st.composite
def edits(draw: st.DrawFn, depth: int = 3) -> tuple[str, list[str]]:
    """A prompt and what it is at each of 6 steps."""
    if depth == 0 or draw(st.booleans()):
        plain = draw(TEXT)
        return plain, [plain] * 6
    kind = draw(st.sampled_from(["edit", "alternate", "round", "join"]))
    (left, lefts), (right, rights) = draw(edits(depth - 1)), draw(edits(depth - 1))
    if kind == "edit":
        when = draw(st.integers(-1, 8))
        return f"[{left}:{right}:{when}]", [*lefts[: max(when, 0)], *rights[max(when, 0) :]]
    if kind == "alternate":
        return f"[{left}|{right}]", [(lefts, rights)[step % 2][step] for step in range(6)]
    if kind == "round":
        return f"({left}:{right})", [f"({one}:{two})" for one, two in zip(lefts, rights, strict=True)]
    return left + right, [one + two for one, two in zip(lefts, rights, strict=True)]


@given(edits())
def test_nested_edits_are_written_out_step_by_step(case: tuple[str, list[str]]) -> None:
    text, wanted = case
    got: list[str] = []
    for entry in timeline(text, 6):
        got += [entry.text] * (entry.last - len(got))
    assert got == wanted
