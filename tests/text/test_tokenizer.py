"""Ids are held to transformers' CLIP tokenizer, built here from the same vocabulary file."""

import gzip
import random
import unicodedata
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfumato.text.tokenizer import END_ID, START_ID, VOCABULARY_SIZE, Tokenizer

POOLS = (
    "abcdefghijklmnopqrstuvwxyz      ,.'!()[]:-",
    "abcABC' strvemld<|>",
    "àéîõüßøÆŒĲǄΣσςΑΩ Ϊabc",
    "漢字かなカナ한국어 ，。",
    "😀👨‍👩‍👧‍👦🏽️❤ a",
    "\u0300\u0301\u0315\u0344\u0f73\u0f71\u0323ae 가각",
    "\x00\x01\x1b\x1c\x1d\x1f\x85\xa0\u200b\u2028\u2029\u3000\u180e\ufeff ab\t\n\r",
    "0123456789½²Ⅷ٣一 a",
    "שלום\u202eعربي\u200f a",
)
WORDS = (
    *("don't", "I'll", "it's!!", "!'s", "photo", "supercalifragilistic", "</w>", "8k", "ΑΣ", "İI", "ﬁ", "#"),
    *("<|endoftext|>", "<|ENDOFTEXT|>", "!<|endoftext|>!", "<|startoftext|>", "<|StartOfText|>!!", "<|end"),
    *("e\u0301" * 40, "a" + "\u0315\u0300\u0327" * 30, "\u0f73\u0f71" * 40, "é" + "\u0323" * 33, "a" * 300),
)
STYLES = (
    "{}",
    "a photo of a {}, 3d",
    "a {} on a Light-Blue background",
    "{}s and {}",
    "the {}'s 1st (day:1.2)",
)


def known(text: str) -> str:
    """Leave out what this Python's Unicode does not know, and marks that transformers' Unicode 9 may not."""
    return "".join(
        sign
        for sign in text
        if unicodedata.category(sign) != "Cn" and (sign < "\u0370" or not unicodedata.combining(sign))
    )


def corpus() -> list[str]:
    rng = random.Random(0)
    names = [
        unicodedata.name(chr(code), "").lower()
        for low, high in ((0x2600, 0x27C0), (0x1F300, 0x1F650), (0x1F680, 0x1F700), (0x1F900, 0x1FB00))
        for code in range(low, high)
    ]
    captions = [rng.choice(STYLES).format(name, name) for name in names if name]
    mixed = ["".join(rng.choices(rng.choice(POOLS), k=rng.randrange(60))) for _ in range(2500)]
    worded = [" ".join(rng.choices(WORDS, k=rng.randrange(8))) for _ in range(500)]
    anywhere = [
        known(
            "".join(
                chr(rng.choice((rng.randrange(0x3000), rng.randrange(0xE000, 0x20000)))) for _ in range(30)
            )
        )
        for _ in range(1000)
    ]
    long = ["an oil painting, " * 3000, "ab" * 3000, " " * 5000, "\u0301" * 3000, "!?" * 2000]
    return [*captions, *mixed, *worded, *anywhere, *long, "", " ", "\x00", "\n"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


@pytest.fixture(scope="module")
def reference() -> Callable[[str], list[int]]:
    packed = resources.files("sfumato").joinpath("assets", "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = [tuple(line.split()) for line in gzip.decompress(packed).decode().split("\n")[1:48895]]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    signs = [chr(code) for code in visible] + [chr(256 + place) for place in range(256 - len(visible))]
    words = [*signs, *(sign + "</w>" for sign in signs), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    from transformers import CLIPTokenizer

    built: Any = CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=merges)
    return lambda text: list(built(text, add_special_tokens=False).input_ids)


def test_ids_equal_those_of_transformers(tokenizer: Tokenizer, reference: Callable[[str], list[int]]) -> None:
    texts = corpus()
    assert len(set(texts)) >= 5000
    different = [text for text in texts if tokenizer.encode(text) != reference(text)]
    assert different == []


def test_every_character_is_split_as_transformers_splits_it(
    tokenizer: Tokenizer, reference: Callable[[str], list[int]]
) -> None:
    signs = known("".join(map(chr, [*range(0x3400), *range(0xA000, 0xD800), *range(0xF900, 0x1FB00)])))
    rows = [
        "".join(f"a{sign}{sign}0" for sign in signs[start : start + 500])
        for start in range(0, len(signs), 500)
    ]
    different = [row for row in rows if tokenizer.encode(row) != reference(row)]
    assert different == []


def test_known_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert tokenizer.encode(",") == [267]
    assert tokenizer.encode("<|startoftext|> <|endoftext|>") == [START_ID, END_ID]
    assert tokenizer.encode("") == []


@given(st.text())
@example("\ud800")
@example("\udfff\u0301\ud83d")
@example("\x00")
@example("‮‏\x1b[31m\u2028")
def test_any_text_has_ids_and_only_in_the_vocabulary(text: str) -> None:
    ids = Tokenizer.load().encode(text)
    assert all(0 <= number < VOCABULARY_SIZE for number in ids)
    assert len(ids) <= 3 * len(unicodedata.normalize("NFD", text).encode("utf-8", "surrogatepass"))


@given(st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs", "Cn"])))
def test_decoding_gives_back_all_but_case_and_spaces(text: str) -> None:
    tokenizer = Tokenizer.load()
    clean = unicodedata.normalize("NFC", text).replace("Σ", "σ").lower()
    clean = "".join(sign for sign in clean if "\x1c" <= sign <= "\x1f" or not sign.isspace())
    assert tokenizer.decode(tokenizer.encode(text)).strip().replace(" ", "") == clean.strip()


def test_decoding_leaves_out_start_and_end(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([START_ID, *tokenizer.encode("A Cat's eye!"), END_ID, END_ID]) == "a cat 's eye !"


def test_lone_surrogates_are_data(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("\ud800") != tokenizer.encode("\ud801")
    assert len(tokenizer.encode("a \ud800 b")) > 2


def test_a_piece_of_any_length_is_merged_as_its_parts_would_be(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("ab " * 1000) == tokenizer.encode("ab") * 1000
    assert tokenizer.decode(tokenizer.encode("abcde" * 20000)) == "abcde" * 20000


def test_instances_share_the_vocabulary_but_no_memory() -> None:
    first, second = Tokenizer.load(), Tokenizer.load()
    assert first._words is second._words
    first.encode("zyx")
    assert second._short.cache_info().currsize == 0
