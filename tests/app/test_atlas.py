"""The map: near what is like it, the same twice, an owner's own, drawn anew when the gallery changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from sfumato.app import atlas as module
from sfumato.app.atlas import Atlas, Map, plane, word_vectors
from sfumato.app.gallery import Gallery
from sfumato.app.gallery_table import Entry
from sfumato.app.gallery_vectors import describe
from sfumato.errors import RequestError
from sfumato.pipeline.shelf import ModelShelf


@pytest.fixture
def shelf(tiny_checkpoint: Path) -> ModelShelf:
    return ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32", default="tiny", paths=False)


@pytest.fixture
def atlas(gallery: Gallery, database: sa.Engine, shelf: ModelShelf) -> Atlas:
    module.METADATA.create_all(database)
    return Atlas(database, shelf)


@pytest.fixture
def add(gallery: Gallery) -> Callable[..., str]:
    def put(prompt: str, colour: str = "red", owner: str = "anna") -> str:
        number = len(list(gallery.files.outputs.iterdir()))
        image = Image.new("RGB", (32, 32), colour)
        file = f"{number}.png"
        image.save(gallery.files.outputs / file)
        entry = Entry(
            owner=owner,
            file=file,
            sha256=f"{number:064d}",
            created=1.0,
            width=32,
            height=32,
            seed=1,
            prompt=prompt,
            vector=describe(image),
        )
        return gallery.add(entry)[0]

    return put


def distance(drawn: Map, one: str, other: str) -> float:
    place = {each: drawn.points[n] for n, each in enumerate(drawn.ids)}
    return float(np.linalg.norm(place[one] - place[other]))


@pytest.mark.parametrize(("count", "dimensions"), [(40, 5), (3, 64), (100, 2), (5, 1), (2, 3)])
def test_the_plane_is_that_of_the_singular_vectors(count: int, dimensions: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, dimensions)) * np.arange(1, dimensions + 1) ** 2
    left, scale, right = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    expected = left * scale * np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    expected = np.pad(expected, ((0, 0), (0, 2)))[:, :2]
    points, shares = plane(vectors)
    if count == 2:  # one direction is all there is; the other is rounding
        points, expected = points[:, :1], expected[:, :1]
    np.testing.assert_allclose(points, expected / np.abs(expected).max(), atol=1e-6)  # float32
    variances = np.pad(scale**2, (0, 2))
    np.testing.assert_allclose(shares, variances[:2] / variances.sum(), atol=1e-12)


def test_what_has_no_plane_is_in_the_middle() -> None:
    for count in (0, 1, 3):
        points, shares = plane(np.ones((count, 4)))
        assert points.tolist() == [[0, 0]] * count
        assert shares == (0, 0)


def test_pictures_that_look_alike_are_near(atlas: Atlas, add: Callable[..., str]) -> None:
    red, pink, blue = add("a", "#ff0000"), add("b", "#ee1111"), add("c", "#0000ff")
    drawn = atlas.map("looks", owner="anna")
    assert drawn.ids == (red, pink, blue)
    assert drawn.labels == ("a", "b", "c")
    assert distance(drawn, red, pink) < 0.2 * distance(drawn, red, blue)
    assert sum(drawn.shares) == pytest.approx(1)
    assert np.abs(drawn.points).max() == pytest.approx(1)


def test_prompts_that_share_words_are_near(atlas: Atlas, add: Callable[..., str]) -> None:
    cat, cats = add("a red cat, oil painting"), add("a grey cat, oil painting")
    tower, towers = add("tall tower at night, photograph"), add("tall tower by day, photograph")
    drawn = atlas.map("words")
    for one, mate in ((cat, cats), (cats, cat), (tower, towers), (towers, tower)):
        others = [each for each in drawn.ids if each not in (one, mate)]
        assert distance(drawn, one, mate) < min(distance(drawn, one, each) for each in others)


def test_words_are_weighed_by_how_rare_they_are_and_order_counts_for_nothing() -> None:
    vectors = word_vectors(["a cat", "cat a", "a dog", "一只猫", ""])
    assert vectors.shape == (5, module.WORD_DIMENSIONS)
    np.testing.assert_allclose(vectors[0], vectors[1])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0])
    assert 0 < vectors[0] @ vectors[2] < 0.5
    assert abs(vectors[0] @ vectors[3]) < 0.1


def test_prompts_are_learnt_once_and_mapped_by_meaning(atlas: Atlas, add: Callable[..., str]) -> None:
    ids = [add("a cat"), add("a cat"), add("a dog AND a [tree:house:0.5]"), add("(bad:9999)"), add("")]
    assert atlas.map("meaning").ids == ()
    assert list(atlas.learn()) == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    drawn = atlas.map("meaning")
    assert drawn.ids == tuple(ids)
    assert distance(drawn, ids[0], ids[1]) == 0
    assert distance(drawn, ids[0], ids[2]) > 0.1
    assert distance(drawn, ids[3], ids[4]) == 0, "what cannot be read counts as no text"
    add("a bird")
    assert list(atlas.learn()) == [(0, 1), (1, 1)]
    assert len(atlas.map("meaning").ids) == 6


def test_an_owner_sees_its_own_and_nothing_that_is_in_the_trash(
    atlas: Atlas, gallery: Gallery, add: Callable[..., str]
) -> None:
    mine, gone, theirs = add("a", "red"), add("b", "green"), add("c", "blue", owner="bert")
    gallery.trash(gone)
    assert atlas.map(owner="anna").ids == (mine,)
    assert set(atlas.map().ids) == {mine, theirs}
    gallery.restore(gone)
    assert set(atlas.map(owner="anna").ids) == {mine, gone}


def test_a_map_is_drawn_anew_only_when_the_gallery_changes(
    atlas: Atlas, gallery: Gallery, add: Callable[..., str]
) -> None:
    first, second = add("a", "red"), add("b", "blue")
    drawn = atlas.map()
    gallery.change(first, rating=3)
    assert atlas.map() is drawn
    third = add("c", "green")
    fresh = atlas.map()
    assert fresh.ids == (first, second, third)
    gallery.trash(third)
    again = atlas.map()
    assert again is not fresh
    np.testing.assert_array_equal(again.points, drawn.points)
    gallery.restore(third)
    gallery.trash(first)
    before = atlas.map()
    gallery.restore(first)
    gallery.trash(second)
    assert (before.ids, atlas.map().ids) == ((second, third), (first, third)), "as many, but others"


def test_of_too_many_pictures_evenly_chosen_ones_are_shown(
    atlas: Atlas, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_POINTS", 3)
    monkeypatch.setattr(module, "_ROWS", 2)
    ids = [add(str(n), colour) for n, colour in enumerate(("red", "green", "blue", "white", "black"))]
    for by in ("looks", "words"):
        drawn = atlas.map(by)  # type: ignore[arg-type]  # both are kinds of maps
        assert drawn.ids == (ids[0], ids[2], ids[4])
        assert drawn.total == 5


def test_an_unknown_kind_of_map_is_refused(atlas: Atlas) -> None:
    with pytest.raises(RequestError, match="by='sound' is not one of looks, words, meaning"):
        atlas.map("sound")  # type: ignore[arg-type]
