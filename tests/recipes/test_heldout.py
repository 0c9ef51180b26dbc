import re
from collections import Counter

import numpy as np
import pytest

from recipes.mini import dataset, heldout
from recipes.mini.colours import COLOURS
from recipes.mini.compose import STYLES, Sprites


def test_copies_and_mirror_images_cannot_be_held_out() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 2, (6, 4, 4, 4), dtype=np.uint8) * 255
    pictures = {f"{k}": block.repeat(32, 0).repeat(32, 1) for k, block in enumerate(blocks)}
    assert heldout.independent(pictures) == set(pictures)
    near = pictures | {"copy": pictures["0"], "mirror": pictures["1"][:, ::-1].copy()}
    assert heldout.independent(near) == {"2", "3", "4", "5"}


def test_pairs_are_different_and_spread_evenly() -> None:
    names, others = [f"n{k}" for k in range(30)], list("abcdefg")
    pairs = heldout.choose_pairs(names, others, 70, np.random.default_rng(1))
    assert len(set(pairs)) == 70
    assert max(sum(p[0] == name for p in pairs) for name in names) <= 4
    assert max(sum(p[1] == other for p in pairs) for other in others) <= 16


def test_no_caption_can_hold_a_word_that_is_kept_out() -> None:
    table = dataset.read_concepts()
    said = [text for each in table.values() for text in (each.name, *each.synonyms)]
    words = heldout.read_words()
    assert len(words) >= 60
    for word, concepts in words.items():
        assert not [text for text in said if re.search(rf"\b{re.escape(word)}\b", text)], word
        assert set(concepts) <= {each.name for each in table.values()}, word


def test_the_committed_lists_are_long_enough_and_of_known_things() -> None:
    lists = heldout.read_heldout()
    names = {each.name: each for each in dataset.read_concepts().values()}
    others = {"concept_style": set(STYLES[1:]), "concept_background": set(COLOURS) - {"white"}}
    others["concept_colour"] = set(heldout.HUES)
    for kind, allowed in others.items():
        pairs = [tuple(pair) for pair in lists[kind]]
        assert len(pairs) == len(set(pairs)) >= 200
        assert {name for name, _ in pairs} <= names.keys()
        assert {other for _, other in pairs} == allowed
    assert not set(lists["vae_concepts"]) & names.keys()
    layout = Counter(name for pair in lists["layout"] for name in pair)
    assert len(layout) == 100
    assert set(layout.values()) == {1}
    assert all(names[name].first for name in layout)


def test_a_later_release_keeps_out_what_an_earlier_one_kept_out(
    sprites: Sprites, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"STYLE_PAIRS_EACH": 1, "BACKGROUND_PAIRS": 2, "COLOUR_PAIRS": 1, "LAYOUTS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(heldout, name, value)
    kept = sprites.info["heldout"]
    lists = heldout.widened(sprites, kept)
    assert lists == heldout.widened(sprites, kept)
    assert lists["vae_concepts"] == kept["vae_concepts"]
    for kind, more in {"concept_style": 1, "concept_background": 2, "concept_colour": 1}.items():
        assert lists[kind][: len(kept[kind])] == kept[kind]
        assert [name for name, _ in lists[kind][len(kept[kind]) :]] == [
            "unicorn"
        ] * more  # the only later one
    assert len({name for pair in lists["layout"] for name in pair} - {"unicorn"}) == 4
