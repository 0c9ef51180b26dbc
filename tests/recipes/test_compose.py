import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from recipes.mini.colours import COLOURS, nearest_colour
from recipes.mini.compose import STYLES, Sprites, Variation, article, caption, compose, load, place

HALF = 0.5
MANY = Variation(size=32, background=HALF, recolour=0.3, pair=0.2)


@pytest.mark.parametrize(
    ("noun", "said"),
    [
        ("apple", "an apple"),
        ("slice of pizza", "a slice of pizza"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("ice cube", "an ice cube"),
        ("t-rex", "a t-rex"),
        ("ufo", "a ufo"),
        ("orange background", "an orange background"),
    ],
)
def test_articles_follow_the_sound(noun: str, said: str) -> None:
    assert article(noun) == said


def test_placing_blends_by_alpha() -> None:
    canvas = np.full((8, 8, 3), 100, np.uint8)
    sprite = np.full((4, 4, 4), 200, np.uint8)
    sprite[0, :, 3], sprite[1, :, 3], sprite[2:, :, 3] = 0, 255, 51  # nothing, all, a fifth
    place(canvas, sprite, 2, 3)
    assert canvas[3:7, 3, 0].tolist() == [100, 200, 120, 120]
    canvas[3:7, 2:6] = 100
    assert (canvas == 100).all()


def test_what_falls_outside_is_cut_off() -> None:
    rng = np.random.default_rng(0)
    sprite = rng.integers(0, 256, (10, 10, 4), dtype=np.uint8)
    for left, top in rng.integers(-14, 14, (50, 2)).tolist():
        small, large = np.full((12, 12, 3), 9, np.uint8), np.full((60, 60, 3), 9, np.uint8)
        place(small, sprite, left, top)
        place(large, sprite, left + 24, top + 24)
        assert (small == large[24:36, 24:36]).all()


def test_flipping_mirrors_a_centred_picture(sprites: Sprites) -> None:
    sprite = np.array(sprites.pixels[0])
    sprite[:, :50, 3] = 0
    plain = compose(sprite, COLOURS["blue"], size=64, scale=0.75)
    assert (compose(sprite, COLOURS["blue"], size=64, scale=0.75, flip=True) == plain[:, ::-1]).all()


def test_the_same_seed_gives_the_same_samples(sprites: Sprites) -> None:
    first, second = (np.random.default_rng(3) for _ in range(2))
    for _ in range(20):
        a, b = sprites.sample(first, MANY), sprites.sample(second, MANY)
        assert (a[0] == b[0]).all()
        assert a[1:] == b[1:]


def test_captions_say_what_is_in_the_picture(sprites: Sprites) -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        picture, text, drawn = sprites.sample(rng, MANY)
        assert picture.shape == (32, 32, 3)
        assert nearest_colour(picture[0, 0].tolist()) == (drawn["background"] or "white")
        assert ("background" in text) == (drawn["background"] is not None)
        assert all(concept in text or (concept == "cat" and "kitty" in text) for concept in drawn["concepts"])
        assert drawn["style"] in text.split(", ") or drawn["style"] == STYLES[0]
        assert drawn["colour"] is None or f"{drawn['colour']} {drawn['concepts'][0]}" in text
        assert drawn["position"] is None or drawn["position"] in text
        assert "a bread" not in text


def test_position_words_mean_the_place(sprites: Sprites) -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        picture, _, drawn = sprites.sample(rng, Variation(pair=1, background=0, styles={"3d": 1}))
        first = np.asarray(sprites.pixels[drawn["rows"][0]])[64, 64, :3].astype(int)
        away = np.abs(picture.astype(int) - first).sum(-1)
        y, x = (axis.mean() for axis in np.nonzero(away < 40))
        horizontal, vertical = x - 63.5, y - 63.5
        place_of = {
            "left of": horizontal < -10,
            "right of": horizontal > 10,
            "above": vertical < -10,
            "below": vertical > 10,
        }
        assert place_of[drawn["position"]]


def test_pairs_kept_out_of_training_are_never_drawn(sprites: Sprites) -> None:
    rng = np.random.default_rng(6)
    often = Variation(size=16, background=1, recolour=1, styles=dict.fromkeys(STYLES, 1.0))
    for _ in range(400):
        _, _, drawn = sprites.sample(rng, often)
        concept = drawn["concepts"][0]
        assert (concept, drawn["style"]) not in sprites.heldout_styles
        assert (concept, drawn["background"]) not in sprites.heldout_backgrounds
        assert (concept, drawn["colour"]) not in sprites.heldout_colours
    by_twos = Variation(size=16, background=1, pair=1)
    for _ in range(400):
        _, _, drawn = sprites.sample(rng, by_twos)
        assert set(drawn["concepts"]) not in sprites.heldout_layouts
        assert not {(c, drawn["background"]) for c in drawn["concepts"]} & sprites.heldout_backgrounds
    everything = Variation(size=16, pair=1, heldout=True)
    assert any(
        set(sprites.sample(rng, everything)[2]["concepts"]) in sprites.heldout_layouts for _ in range(100)
    )
    with pytest.raises(ValueError, match="cat"):
        sprites.sample(rng, often, concept="cat", style="noto")
    _, _, drawn = sprites.sample(rng, Variation(heldout=True), concept="cat", style="noto")
    assert drawn["style"] == "noto"


def test_a_caption_names_style_and_background_once() -> None:
    rng = np.random.default_rng(7)
    texts = {caption(rng, "slice of pizza", mass=False, style="3d", background=None) for _ in range(50)}
    assert "a slice of pizza, 3d" in texts
    assert texts == {"a slice of pizza, 3d", "slice of pizza, 3d", "a picture of a slice of pizza, 3d"}
    for _ in range(50):
        text = caption(rng, "bread", mass=True, style="flat", background="orange")
        assert text.count("flat") == text.count("orange") == 1
        assert "an orange background" in text or ", orange background" in text


def test_a_written_data_set_loads_as_it_was(sprites: Sprites, tmp_path: Path) -> None:
    np.save(tmp_path / "sprites.npy", sprites.pixels)
    lines = [json.dumps(asdict(row)) for row in sprites.rows]
    (tmp_path / "index.jsonl").write_text("\n".join(lines))
    (tmp_path / "dataset.json").write_text(json.dumps(sprites.info))
    again = load(tmp_path)
    assert again.rows == sprites.rows
    assert (again.pixels == sprites.pixels).all()
    assert again.heldout_styles == sprites.heldout_styles
    (tmp_path / "index.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match="23"):
        load(tmp_path)
