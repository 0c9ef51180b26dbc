from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import PromptError
from sfumato.text.chunks import Chunk, Coined, count_tokens, split
from sfumato.text.limits import MAX_CHUNKS
from sfumato.text.tokenizer import END_ID, START_ID, Tokenizer
from sfumato.types import EmphasisMode

CAT, COMMA, BIRD = 2368, 267, 3329


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def words(chunk: Chunk) -> list[int]:
    """The ids between start and the first end."""
    return list(chunk.ids[1 : chunk.ids.index(END_ID)])


def test_the_words_used_here_are_one_token_each(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("cat,bird") == [CAT, COMMA, BIRD]


def test_an_empty_prompt_is_one_chunk_of_padding(tokenizer: Tokenizer) -> None:
    assert split("", tokenizer) == [Chunk(ids=(START_ID, *[END_ID] * 76), weights=(1.0,) * 77)]


def test_padding_follows_the_first_end(tokenizer: Tokenizer) -> None:
    (sd1,) = split("cat", tokenizer)
    (sd2,) = split("cat", tokenizer, pad_token=0)
    assert sd1.ids == (START_ID, CAT, *[END_ID] * 75)
    assert sd2.ids == (START_ID, CAT, END_ID, *[0] * 74)
    (full,) = split("cat " * 75, tokenizer, pad_token=0)
    assert full.ids == (START_ID, *[CAT] * 75, END_ID)


def test_weights_stand_at_their_tokens(tokenizer: Tokenizer) -> None:
    (chunk,) = split("cat (bird cat:1.5) [cat]", tokenizer)
    assert chunk.weights == (1.0, 1.0, 1.5, 1.5, 1 / 1.1, *[1.0] * 72)


def test_emphasis_modes(tokenizer: Tokenizer) -> None:
    text = "(cat:1.5) BREAK bird"
    by_mode = {mode: split(text, tokenizer, emphasis=mode) for mode in get_args(EmphasisMode)}
    assert by_mode["Original"] == by_mode["No norm"]
    assert [words(chunk) for chunk in by_mode["Original"]] == [[CAT], [BIRD]]
    assert [chunk.ids for chunk in by_mode["Ignore"]] == [chunk.ids for chunk in by_mode["Original"]]
    assert by_mode["Ignore"][0].weights == (1.0,) * 77
    (literal,) = by_mode["None"]
    assert words(literal) == tokenizer.encode(text)
    assert literal.weights == (1.0,) * 77


def test_break_closes_a_chunk(tokenizer: Tokenizer) -> None:
    def rows(text: str) -> list[list[int]]:
        return [words(chunk) for chunk in split(text, tokenizer)]

    assert rows("cat BREAK bird") == [[CAT], [BIRD]]
    assert rows("cat BREAK BREAK bird") == [[CAT], [], [BIRD]]
    assert rows("BREAK cat") == [[], [CAT]]
    assert rows("cat BREAK") == [[CAT]]
    assert rows("BREAK") == [[]]
    assert rows("(cat BREAK bird:1.2)") == [[CAT, *tokenizer.encode("BREAK"), BIRD]]  # weighed, it is a word


def test_the_76th_token_begins_a_chunk(tokenizer: Tokenizer) -> None:
    assert [len(words(chunk)) for chunk in split("cat " * 76, tokenizer)] == [75, 1]
    assert [len(words(chunk)) for chunk in split("cat " * 150, tokenizer)] == [75, 75]


@pytest.mark.parametrize(
    ("before", "after", "backtrack", "lengths"),
    [
        (60, 20, 20, [61, 20]),  # a comma among the last 20: what follows it moves on
        (54, 30, 20, [75, 10]),  # the comma is the 21st from the end
        (55, 30, 20, [56, 30]),  # the 20th
        (60, 20, 0, [75, 6]),
        (60, 14, 20, [75]),  # nothing is left over, so nothing moves
        (74, 1, 20, [75, 1]),  # the comma is the last
        (74, 1, 1, [75, 1]),
    ],
)
def test_a_full_chunk_ends_after_its_last_comma(
    tokenizer: Tokenizer, before: int, after: int, backtrack: int, lengths: list[int]
) -> None:
    text = "cat " * before + "," + " bird" * after
    chunks = split(text, tokenizer, backtrack=backtrack)
    assert [len(words(chunk)) for chunk in chunks] == lengths


def test_a_comma_that_does_not_fit_takes_nothing_with_it(tokenizer: Tokenizer) -> None:
    text = "cat " * 60 + "," + "bird " * 14 + ", cat"
    assert [len(words(chunk)) for chunk in split(text, tokenizer)] == [75, 2]


def test_weights_move_with_their_words(tokenizer: Tokenizer) -> None:
    first, second = split("cat " * 70 + ",(bird" + " bird" * 9 + ":1.5)", tokenizer)
    assert set(first.weights) == {1.0}
    assert second.weights == (1.0, *[1.5] * 10, *[1.0] * 66)


def test_too_many_chunks_are_an_error(tokenizer: Tokenizer) -> None:
    assert len(split("cat " * 75 * MAX_CHUNKS, tokenizer)) == MAX_CHUNKS
    for text in ("cat " * (75 * MAX_CHUNKS + 1), "BREAK " * 1000 + "cat", "a" * 2**20, "\u0301" * 300_000):
        with pytest.raises(PromptError, match="more than 100 chunks"):
            split(text, tokenizer)


def test_counting(tokenizer: Tokenizer) -> None:
    def count(prompt: str) -> tuple[int, int]:
        counted = count_tokens(prompt, tokenizer)
        return counted.used, counted.limit

    assert count("") == (0, 75)
    assert count("cat, bird") == (3, 75)
    assert count("cat " * 75) == (75, 75)
    assert count("cat " * 76) == (76, 150)
    assert count("cat BREAK bird") == (76, 150)
    assert count("cat BREAK") == (1, 75)
    assert count("cat <lora:cat:1> AND bird bird bird :2") == (3, 75)
    assert count("[cat|bird bird] cat") == (3, 75)
    assert count("cat " * 60 + "," + "bird " * 20) == (95, 150)


PIECES = ["cat ", "bird ", ", ", "BREAK ", "(", ")", ":1.3)", "[", "]", "\\", "<|endoftext|>", "\ud800", "é"]


@given(st.lists(st.sampled_from(PIECES), max_size=300).map("".join) | st.text(), st.integers(0, 75))
def test_every_chunk_has_77_places_and_no_word_is_lost(text: str, backtrack: int) -> None:
    tokenizer = Tokenizer.load()
    try:
        chunks = split(text, tokenizer, backtrack=backtrack)
        whole = split(text, tokenizer, backtrack=0)
    except PromptError:
        return
    assert all(len(chunk.ids) == len(chunk.weights) == 77 for chunk in chunks)
    assert all(chunk.ids[0] == START_ID and chunk.ids[-1] == END_ID for chunk in chunks)

    def said(chunks: list[Chunk]) -> list[tuple[int, float]]:
        pairs = [pair for chunk in chunks for pair in zip(chunk.ids, chunk.weights, strict=True)]
        return [pair for pair in pairs if pair[0] not in (START_ID, END_ID)]

    assert said(chunks) == said(whole)
    assert count_tokens("", tokenizer).limit == 75


def test_a_coined_word_takes_as_many_places_as_it_has_vectors(tokenizer: Tokenizer) -> None:
    word = Coined.of("bird cat", 3, tokenizer)
    (chunk,) = split("cat (bird cat:1.5) cat", tokenizer, coined=[word])
    assert words(chunk) == [CAT, 0, 0, 0, CAT]
    assert chunk.coined == ((2, "bird cat"),)
    assert chunk.weights[:6] == (1.0, 1.0, 1.5, 1.5, 1.5, 1.0)
    assert count_tokens("cat bird cat cat", tokenizer, coined=[word]).used == 5


def test_of_coined_words_the_longest_is_meant(tokenizer: Tokenizer) -> None:
    coined = [Coined.of(name, 1, tokenizer) for name in ("cat", "cat bird")]
    (chunk,) = split("cat bird cat", tokenizer, coined=coined)
    assert chunk.coined == ((1, "cat bird"), (2, "cat"))


def test_a_coined_word_that_does_not_fit_begins_a_row(tokenizer: Tokenizer) -> None:
    word = Coined.of("bird", 3, tokenizer)
    first, second = split("cat " * 73 + "bird", tokenizer, coined=[word])
    assert words(first) == [CAT] * 73
    assert second.coined == ((1, "bird"),)
    (both,) = split("cat " * 72 + "bird", tokenizer, coined=[word])
    assert both.coined == ((73, "bird"),)


def test_a_coined_word_too_long_for_a_row_is_text(tokenizer: Tokenizer) -> None:
    (chunk,) = split("bird", tokenizer, coined=[Coined.of("bird", 76, tokenizer)])
    assert words(chunk) == [BIRD]
