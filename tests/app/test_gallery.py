"""The gallery: pictures are found by words, values and looks, by their owner alone, and nothing is lost."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import sqlalchemy as sa
from PIL import Image

from sfumato.app.gallery import Gallery
from sfumato.app.gallery_files import SIDES
from sfumato.app.gallery_order import ORDERS, Order
from sfumato.app.gallery_table import Entry, Filter, Page, Picture
from sfumato.app.gallery_vectors import GAIN, SIDE, describe
from sfumato.errors import ConflictError, OutputError, PictureNotFoundError, RequestError
from sfumato.pipeline import images


def add(gallery: Gallery, file: str, image: Image.Image | None = None, **values: Any) -> Picture:
    """A picture with its file."""
    image = image or Image.new("RGB", (32, 16), "red")
    path = gallery.files.outputs / file
    images.save_as(image, path, "")
    given: dict[str, Any] = {
        "owner": "local",
        "sha256": file.ljust(64, "0")[:64],
        "created": 1000.0,
        "width": 32,
        "height": 16,
    }
    given |= {"seed": 1, "vector": describe(image)}
    return gallery.get(gallery.add(Entry(file=file, **(given | values)))[0])


def files(gallery: Gallery, text: str = "", **values: Any) -> list[str]:
    """Names of the pictures that are found."""
    return [each.file for each in gallery.pages(Filter(text=text, **values))]


TEXTS = {
    "cat.png": ("a Red cat, oil painting", "blurry dog"),
    "dog.png": ("a dog on a red_car", ""),
    "chinese.png": ("一只红色的苹果在桌子上", "模糊"),
    "japanese.png": ("机の上の赤いリンゴ", ""),
    "hindi.png": ("एक लाल सेब", ""),
    "empty.png": ("", ""),
    "hostile.png": ("'; drop table sfumato_pictures; -- \" OR * NEAR(", "\ud800\0 ünïcode"),
}


@pytest.mark.parametrize(
    ("text", "scope", "expected"),
    [
        ("red", "all", {"cat.png", "dog.png"}),
        ("RED cat", "all", {"cat.png"}),
        ('"red cat"', "all", {"cat.png"}),
        ('"cat red"', "all", set()),
        ("red_car", "all", {"dog.png"}),
        ("dog", "all", {"cat.png", "dog.png"}),
        ("dog", "prompt", {"dog.png"}),
        ("dog", "negative", {"cat.png"}),
        ("red -dog", "all", set()),
        ("red -car", "all", {"cat.png"}),
        ("a -blurry -苹果", "negative", set()),
        ("dog -blurry", "prompt", {"dog.png"}),
        ("-dog", "prompt", set(TEXTS) - {"dog.png"}),
        ("-red -苹", "all", {"japanese.png", "hindi.png", "empty.png", "hostile.png"}),
        ("pain*", "all", {"cat.png"}),
        ("pain", "all", set()),
        ("苹果", "all", {"chinese.png"}),
        ("红", "all", {"chinese.png"}),
        ("果苹", "all", set()),
        ("リンゴ", "all", {"japanese.png"}),
        ("赤い", "prompt", {"japanese.png"}),
        ("सेब", "all", {"hindi.png"}),
        ("ünïcode", "all", {"hostile.png"}),
        ("drop table", "all", {"hostile.png"}),
        ("", "all", set(TEXTS)),
        ("!!! ***", "all", set()),
        ("DPM", "all", {"cat.png"}),
        ("DPM", "prompt", set()),
        ("red AND cat", "all", set()),
        ("prompt:red", "all", set()),
        ("cat'", "all", {"cat.png"}),
        ("\0cat\ud800", "all", {"cat.png"}),
    ],
)
def test_pictures_are_found_by_words_in_any_writing(
    gallery: Gallery, text: str, scope: Any, expected: set[str]
) -> None:
    for name, (prompt, negative) in TEXTS.items():
        add(
            gallery,
            name,
            prompt=prompt,
            negative=negative,
            rest="Sampler DPM++ 2M" if name == "cat.png" else "",
        )
    assert set(files(gallery, text, scope=scope)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "'",
        '"',
        '""',
        "*",
        "-",
        "--",
        "NEAR(a b)",
        "a:*b",
        "{x} : y",
        "^a",
        "a & b | !c",
        "(",
        "\\",
        "%",
        "\x1b",
    ],
)
def test_whatever_is_typed_is_a_query(gallery: Gallery, text: str) -> None:
    add(gallery, "a.png", prompt="quiet")
    assert set(files(gallery, text)) <= {"a.png"}
    assert files(gallery, model=text, sampler=text) == []
    assert files(gallery, tags=[text]) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model": "anime"}, [3, 0]),
        ({"sampler": "Euler a"}, [4, 2, 0]),
        ({"seed": 2**64 - 1}, [4]),
        ({"since": 102.0}, [4, 3, 2]),
        ({"until": 102.0}, [1, 0]),
        ({"since": 101.0, "until": 103.0}, [2, 1]),
        ({"width": 512, "height": 768}, [2, 0]),
        ({"rating": 3}, [4, 3]),
        ({"tags": ["best"]}, [4, 1]),
        ({"tags": ["best", "赤"]}, [4]),
        ({"job": "j1"}, [1]),
        ({"text": "even", "sampler": "Euler a", "rating": 4}, [4]),
        ({"text": "even", "model": "anime"}, [0]),
        ({}, [4, 3, 2, 1, 0]),
    ],
)
def test_pictures_are_found_by_values(gallery: Gallery, values: dict[str, Any], expected: list[int]) -> None:
    for place in range(5):
        picture = add(
            gallery,
            f"{place}.png",
            prompt="odd" if place % 2 else "even",
            model="" if place % 3 else "anime",
            sampler="" if place % 2 else "Euler a",
            seed=2**64 - 1 if place == 4 else place,
            created=100.0 + place,
            width=512,
            height=512 if place % 2 or place == 4 else 768,
            job=f"j{place}",
        )
        gallery.change(picture.id, rating=place, tags=[[], ["best"], ["赤"], [], ["best", "赤"]][place])
    assert files(gallery, **values) == [f"{place}.png" for place in expected]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("text", ["", "cat"])
def test_pages_show_everything_once_while_pictures_come_in(gallery: Gallery, count: int, text: str) -> None:
    for place in range(count):
        add(gallery, f"{place}.png", prompt="cat")
    seen, before = [], None
    while True:
        page = gallery.search(Filter(text=text), before=before, limit=2)
        seen += [each.file for each in page.pictures]
        if page.more is None:
            break
        assert len(page.pictures) == 2
        before = page.more
        add(gallery, f"late-{before}.png", prompt="cat")
    assert seen == [f"{place}.png" for place in reversed(range(count))]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("text", ["", "cat"])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_pages_begin_where_their_places_say_in_every_order(
    gallery: Gallery, order: Order, text: str, count: int
) -> None:
    for place in range(count):
        picture = add(gallery, f"{place}.png", prompt="cat")
        gallery.change(picture.id, rating=place * 5 % 4)
    add(gallery, "another owner's.png", prompt="cat", owner="you")
    wanted = Filter(text=text)

    def page(before: int | None) -> Page:
        return gallery.search(wanted, owner="local", before=before, limit=3, order=order)

    places = gallery.places(wanted, owner="local", limit=3, order=order)
    pages = [page(before) for before in (None, *places.keys)]
    assert [each.more for each in pages] == [*places.keys, None]
    listed = [each for found in pages for each in found.pictures]
    assert places.total == count == len(listed)
    by = {
        "newest": lambda p: -p.number,
        "oldest": lambda p: p.number,
        "rating": lambda p: (-p.rating, -p.number),
    }
    assert listed == sorted(listed, key=by[order])


def test_an_order_that_is_none_is_refused(gallery: Gallery) -> None:
    for ask in (gallery.search, gallery.places):
        with pytest.raises(RequestError, match="order='best' is not one of newest, oldest, rating"):
            ask(Filter(), order="best")  # type: ignore[operator]


def test_values_are_those_of_the_owners_pictures_that_are_there(gallery: Gallery) -> None:
    for owner, model, sampler, tags in (
        ("me", "dream", "Euler", ["best", "赤"]),
        ("me", "dream", "", ["best"]),
        ("you", "other", "Heun", ["yours"]),
    ):
        gallery.change(
            add(gallery, f"{len(files(gallery))}.png", owner=owner, model=model, sampler=sampler).id,
            tags=tags,
        )
    gallery.trash(add(gallery, "gone.png", owner="me", model="gone").id)
    assert gallery.values("me") == {"models": ["dream"], "samplers": ["Euler"], "tags": ["best", "赤"]}
    assert gallery.values()["models"] == ["dream", "other"]


def test_an_owner_does_not_find_anothers_pictures(gallery: Gallery) -> None:
    mine, other = add(gallery, "mine.png", owner="me"), add(gallery, "other.png", owner="you")
    assert [each.id for each in gallery.search(Filter(), owner="me").pictures] == [mine.id]
    assert [each.id for each, _ in gallery.similar(mine.id, owner="me")] == []
    assert [each.id for each, _ in gallery.similar(mine.id)] == [other.id]
    for refused in (
        lambda: gallery.get(other.id, "me"),
        lambda: gallery.similar(other.id, owner="me"),
        lambda: gallery.change(other.id, owner="me", rating=1),
        lambda: gallery.trash(other.id, "me"),
        lambda: gallery.restore(other.id, "me"),
        lambda: gallery.get("nothing", "me"),
    ):
        with pytest.raises(PictureNotFoundError, match="no picture"):
            refused()
    gallery.trash(other.id)
    assert gallery.empty_trash("me") == 0
    assert gallery.get(other.id).state == "trash"


def test_what_is_deleted_comes_back_with_everything(gallery: Gallery) -> None:
    picture = gallery.change(add(gallery, "day/a.png", prompt="cat").id, tags=["x"], rating=5)
    path = gallery.path(picture)
    data = path.read_bytes()
    for _ in range(2):
        assert gallery.trash(picture.id).state == "trash"
    assert not path.exists()
    assert gallery.files.outputs in gallery.path(gallery.get(picture.id)).parents
    assert files(gallery) == files(gallery, "cat") == []
    assert files(gallery, state="trash") == ["day/a.png"]
    for _ in range(2):
        assert gallery.restore(picture.id) == picture
    assert path.read_bytes() == data
    assert files(gallery, "cat") == ["day/a.png"]


def test_an_emptied_trash_spares_another_file_of_the_name(gallery: Gallery) -> None:
    picture = add(gallery, "a.png")
    path = gallery.path(picture)
    gallery.trash(picture.id)
    path.write_bytes(b"another")
    gallery.empty_trash()
    assert path.read_bytes() == b"another"


class Bucket:
    """Pictures of other machines."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def fetch(self, name: str, path: Path) -> bool:
        if name in self.files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.files[name])
        return name in self.files

    def put(self, name: str, path: Path) -> None:
        self.files[name] = path.read_bytes()

    def remove(self, name: str) -> None:
        self.files.pop(name, None)


def test_other_machines_pictures_are_here_when_they_are_wanted(gallery: Gallery, database: sa.Engine) -> None:
    names = ("a.png", "b.png")
    pictures = [add(gallery, name, prompt="cat") for name in names]
    bucket = Bucket()
    bucket.files = {name: (gallery.files.outputs / name).read_bytes() for name in names}
    here = gallery.files.outputs.with_name("here")
    other = Gallery(database, here, here / "thumbnails", bucket)
    assert files(other, "cat") == ["b.png", "a.png"]
    assert not here.exists()
    assert other.path(pictures[0]).read_bytes() == bucket.files["a.png"]
    for picture in pictures:
        other.trash(picture.id)
        assert other.restore(picture.id).state == "there"
        assert other.path(picture).is_file()
        other.trash(picture.id)
    assert other.empty_trash() == 2
    assert bucket.files == {}
    assert not [path for path in here.rglob("*.png") if path.is_file()]


def test_who_looks_for_pictures_writes_nothing(gallery: Gallery, database: sa.Engine) -> None:
    pictures = [add(gallery, f"{place}.png", prompt="cat") for place in range(3)]
    gallery.path(pictures[1]).unlink()
    done: list[str] = []
    sa.event.listen(database, "before_cursor_execute", lambda *args: done.append(args[2]))
    gallery.search(Filter(text="cat"))
    gallery.get(pictures[1].id)
    gallery.similar(pictures[0].id)
    gallery.knows("", "o")
    assert done
    assert {statement.split()[0].upper() for statement in done} == {"SELECT"}


def test_files_are_moved_while_others_write(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is held meanwhile would keep them waiting, in SQLite for ever."""
    moved, other = add(gallery, "a.png"), add(gallery, "b.png")
    calls: list[str] = []

    def beside(name: str) -> None:
        original = getattr(gallery.files, name)

        def move(*args: object, **keywords: object) -> None:
            gallery.change(other.id, rating=len(calls) % 5)
            calls.append(name)
            original(*args, **keywords)

        monkeypatch.setattr(gallery.files, name, move)

    for name in ("discard", "bring_back", "destroy"):
        beside(name)
    gallery.trash(moved.id)
    gallery.restore(moved.id)
    gallery.trash(moved.id)
    assert gallery.empty_trash() == 1
    assert calls == ["discard", "bring_back", "discard", "destroy"]


def test_a_picture_that_cannot_be_moved_stays_as_it_was(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = add(gallery, "a.png")

    def refused(*_: object, **__: object) -> None:
        raise OutputError("refused")

    for name, state, call in (
        ("discard", "there", lambda: gallery.trash(picture.id)),
        ("bring_back", "trash", lambda: gallery.restore(picture.id)),
        ("destroy", "trash", gallery.empty_trash),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(gallery.files, name, refused)
            with pytest.raises(OutputError, match="refused"):
                call()
        assert gallery.get(picture.id).state == state
        if name == "discard":
            gallery.trash(picture.id)


def test_a_restored_picture_replaces_no_other(gallery: Gallery) -> None:
    picture = add(gallery, "a.png")
    path = gallery.path(picture)
    gallery.trash(picture.id)
    path.write_bytes(b"another")
    with pytest.raises(ConflictError, match=r"another file has the name a\.png"):
        gallery.restore(picture.id)
    assert path.read_bytes() == b"another"
    assert gallery.get(picture.id).state == "trash"


def test_a_deletion_cut_short_can_be_finished_either_way(gallery: Gallery) -> None:
    picture = add(gallery, "a.png")
    kept = gallery.path(picture)
    gallery.trash(picture.id)
    gallery.files.trashed(picture).rename(kept)  # as if the file had not been moved
    assert gallery.path(gallery.get(picture.id)) == kept
    assert gallery.restore(picture.id).state == "there"
    assert kept.is_file()


def test_an_emptied_trash_leaves_nothing(gallery: Gallery) -> None:
    gone, stays = add(gallery, "a.png", prompt="cat"), add(gallery, "b.png", prompt="cat")
    gallery.change(gone.id, tags=["x"])
    gallery.files.thumbnail(gone, 128)
    gallery.trash(gone.id)
    assert gallery.empty_trash() == 1
    assert [each.file for each in gallery.pages(Filter(text="cat"))] == ["b.png"]
    assert gallery.similar(stays.id) == []
    left = [path.name for path in gallery.files.outputs.rglob("*") if path.is_file()]
    assert left == ["b.png"]
    assert not list(gallery.files.thumbnails.rglob("*.webp"))
    with pytest.raises(PictureNotFoundError):
        gallery.get(gone.id)


def test_a_picture_whose_file_vanished_is_marked_until_it_is_back(gallery: Gallery) -> None:
    kept = [add(gallery, f"{place}.png", prompt="cat") for place in range(5)]
    path = gallery.path(kept[3])
    path.rename(path.with_suffix(".away"))
    assert gallery.get(kept[3].id).state == "missing"
    assert sum(gallery.check()) == 1
    page = gallery.search(Filter(text="cat"), limit=2)
    assert [each.file for each in page.pictures] == ["4.png", "2.png"]
    assert gallery.get(kept[3].id).state == "missing"
    assert files(gallery, state="missing") == ["3.png"]
    assert kept[3].id not in [each.id for each, _ in gallery.similar(kept[0].id)]
    with pytest.raises(OutputError, match="has vanished"):
        gallery.path(gallery.get(kept[3].id))
    path.with_suffix(".away").rename(path)
    assert gallery.get(kept[3].id).state == "there"
    assert sum(gallery.check()) == 1
    assert files(gallery, state="missing") == []
    assert "3.png" in files(gallery)


def test_without_the_outputs_folder_nothing_is_listed_and_nothing_forgotten(gallery: Gallery) -> None:
    add(gallery, "a.png")
    away = gallery.files.outputs.rename(gallery.files.outputs.with_name("away"))
    assert files(gallery) == files(gallery, state="missing") == []
    assert sum(gallery.check()) == 0
    away.rename(gallery.files.outputs)
    assert files(gallery) == ["a.png"]


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/passwd", "link/a.png", "", "a\\b.png"])
def test_no_name_leads_out_of_the_outputs_folder(gallery: Gallery, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for folder in (outside, tmp_path):
        (folder / "a.png").write_bytes(b"secret")
    (gallery.files.outputs / "link").symlink_to(outside)
    entry = Entry(owner="local", file=name, sha256="0" * 64, created=0.0, width=1, height=1, seed=None)
    picture_id = gallery.add(entry)[0]
    assert sum(gallery.check()) == 1
    assert files(gallery) == []
    with pytest.raises(OutputError):
        gallery.path(gallery.get(picture_id))
    with pytest.raises(OutputError):
        gallery.trash(picture_id)
    assert (outside / "a.png").exists()
    assert (tmp_path / "a.png").exists()


def test_a_file_made_again_keeps_its_tags_and_rating(gallery: Gallery) -> None:
    first = gallery.change(add(gallery, "a.png", prompt="cat").id, tags=["x"], rating=2)
    again = add(gallery, "a.png", prompt="dog")
    assert (again.id, again.number, again.tags, again.rating) == (first.id, first.number, ("x",), 2)
    assert files(gallery, "cat") == []
    assert files(gallery, "dog") == ["a.png"]


def test_tags_are_plain_words_and_ratings_bounded(gallery: Gallery) -> None:
    picture = add(gallery, "a.png")
    assert gallery.change(picture.id, tags=[" a  b ", "a b", "=1+1", "红"]).tags == ("=1+1", "a b", "红")
    assert gallery.change(picture.id, tags=[]).tags == ()
    for wrong in (
        {"tags": [""]},
        {"tags": ["x" * 61]},
        {"tags": [str(n) for n in range(101)]},
        {"rating": 6},
    ):
        with pytest.raises(RequestError):
            gallery.change(picture.id, **wrong)
    for limit in (0, 501):
        with pytest.raises(RequestError, match="limit"):
            gallery.search(Filter(), limit=limit)
        with pytest.raises(RequestError, match="limit"):
            gallery.similar(picture.id, limit=limit)
    with pytest.raises(RequestError, match="state"):
        Filter(state="gone")  # type: ignore[arg-type]


def smooth(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A picture of a few soft colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def test_vectors_are_the_lowest_cosine_coefficients() -> None:
    image = smooth(1)
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr")
    pixels = np.asarray(small, np.float64) / 127.5 - 1
    vector = np.frombuffer(describe(image), np.int8)
    for channel, start, count in ((0, 0, 36), (1, 36, 14), (2, 50, 14)):
        expected = scipy.fft.dctn(pixels[:, :, channel], norm="ortho")
        for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]):
            wanted = np.clip(expected[row, column] * GAIN, -127, 127)
            assert abs(vector[start + place] - wanted) <= 0.5 + 1e-9  # of rounding to a whole number
        assert start + count <= len(vector) == 64


def test_the_nearest_are_those_of_a_plain_comparison(gallery: Gallery) -> None:
    pictures = [add(gallery, f"{place}.png", smooth(place)) for place in range(40)]
    vectors = np.stack([np.frombuffer(describe(smooth(place)), np.int8) for place in range(40)]).astype(float)
    distances = np.linalg.norm(vectors - vectors[7], axis=1) / (GAIN * SIDE)
    expected = [place for place in np.argsort(distances) if place != 7][:10]
    found = gallery.similar(pictures[7].id, limit=10)
    assert [each.file for each, _ in found] == [f"{place}.png" for place in expected]
    np.testing.assert_allclose([distance for _, distance in found], distances[expected], rtol=1e-5)


def test_a_picture_is_known_again_smaller_brighter_and_compressed(gallery: Gallery, tmp_path: Path) -> None:
    for place in range(40):
        add(gallery, f"{place}.png", smooth(place))
    changed = smooth(11).resize((48, 32)).point(lambda value: min(255, value + 12))
    changed.save(tmp_path / "changed.jpg", quality=50)
    (first, near), (_, far) = gallery.like(images.open_image(tmp_path / "changed.jpg"), limit=2)
    assert first.file == "11.png"
    assert near < far / 2


def test_what_lies_in_the_trash_is_not_similar_however_much_it_is(gallery: Gallery) -> None:
    first = add(gallery, "first.png")
    for place in range(7):
        gallery.trash(add(gallery, f"{place}.png").id)
    other = add(gallery, "other.png", smooth(1))
    assert [each.id for each, _ in gallery.similar(first.id, limit=2)] == [other.id]


def test_two_galleries_on_one_database_see_each_others_pictures(
    gallery: Gallery, database: sa.Engine
) -> None:
    other = Gallery(database, gallery.files.outputs, gallery.files.thumbnails)
    first = add(gallery, "a.png")
    assert other.similar(first.id) == []
    second = add(gallery, "b.png")
    assert [each.id for each, _ in other.similar(first.id)] == [second.id]


@pytest.mark.parametrize("side", SIDES)
def test_small_pictures_keep_their_shape_and_are_made_once(gallery: Gallery, side: int) -> None:
    picture = add(gallery, "a.png", smooth(1, (1024, 512)))
    made = gallery.files.thumbnail(picture, side)
    assert images.open_image(made).size == (side, side // 2)
    gallery.path(picture).unlink()
    assert gallery.files.thumbnail(picture, side) == made
    with pytest.raises(RequestError, match="side=100"):
        gallery.files.thumbnail(picture, 100)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "I;16", "1"])
def test_pictures_of_every_mode_have_vectors_and_small_pictures(gallery: Gallery, mode: str) -> None:
    picture = add(gallery, "a.png", Image.new(mode, (40, 30)))
    assert images.open_image(gallery.files.thumbnail(picture, 128)).size == (40, 30)


def test_random_use_keeps_lists_and_files_in_step(gallery: Gallery) -> None:
    draw, known = random.Random(1), dict[str, str]()
    for turn in range(120):
        choice = draw.choice(("add", "trash", "restore", "rate", "empty"))
        if choice == "add" or not known:
            known[add(gallery, f"{turn}.png", prompt="cat").id] = "there"
        elif choice == "empty":
            if draw.random() < 0.3:
                gallery.empty_trash()
                known = {each: state for each, state in known.items() if state == "there"}
        else:
            chosen = draw.choice(sorted(known))
            if choice == "rate":
                gallery.change(chosen, rating=draw.randrange(6))
            else:
                known[chosen] = getattr(gallery, choice)(chosen).state
        for state in ("there", "trash"):
            expected = {each for each, value in known.items() if value == state}
            for text in ("", "cat"):
                found = list(gallery.pages(Filter(text=text, state=state)))
                assert {each.id for each in found} == expected
                assert all(gallery.path(each).is_file() for each in found)


def test_a_row_gives_back_what_was_taken_in(gallery: Gallery) -> None:
    request = {"prompt": {"text": "a\0b \ud800"}, "canvas": {"seed": 5}}
    picture = add(gallery, "a.png", request=request, infotext="x\ny", program="ComfyUI", job="j", seed=None)
    assert picture.request == json.loads(json.dumps(request))
    assert (picture.infotext, picture.program, picture.job, picture.seed) == ("x\ny", "ComfyUI", "j", None)


def test_many_use_it_at_once(gallery: Gallery) -> None:
    first = add(gallery, "first.png", prompt="cat")

    def use(turn: int) -> str:
        picture = add(gallery, f"{turn}.png", prompt="cat")
        gallery.change(picture.id, rating=turn % 6, tags=[str(turn)])
        gallery.search(Filter(text="cat"), limit=5)
        gallery.similar(first.id, limit=5)
        if turn % 2:
            gallery.trash(picture.id)
        return picture.id

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(use, range(40)))
    assert len(set(names)) == 40
    assert sorted(files(gallery, "cat")) == sorted(
        ["first.png", *(f"{turn}.png" for turn in range(0, 40, 2))]
    )
    assert [gallery.get(name).tags for name in names] == [(str(turn),) for turn in range(40)]
