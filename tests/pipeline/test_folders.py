from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import images, metadata
from sfumato.pipeline.folders import (
    REUSABLE,
    check_reusable,
    mask_for,
    named_error,
    of_same_name,
    pictures_in,
    reuse,
)
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Sampling


def picture(path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(path)
    return path


def test_pictures_come_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp", "notes.txt", "d.gif"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures_in(tmp_path)] == ["a.JPG", "b.png", "c.webp"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_pictures_is_said(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "x"
    if there:
        folder.mkdir()
    with pytest.raises(OutputError, match="no PNG"):
        pictures_in(folder)


def test_one_mask_serves_all_and_several_go_by_name(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    one = picture(masks / "a.png")
    assert mask_for(Path("z.jpg"), one) == one
    assert mask_for(Path("z.jpg"), masks) == one
    other = picture(masks / "b.webp")
    assert mask_for(Path("in/b.jpg"), masks) == other
    assert of_same_name(Path("a.webp"), masks) == one
    with pytest.raises(OutputError, match=r"z\.jpg.*z\.png"):
        mask_for(Path("z.jpg"), masks)


def told(path: Path) -> tuple[Path, Request]:
    request = Request(
        prompt=Prompt(text="a cat", negative="dogs"),
        sampling=Sampling(sampler="Euler a", schedule="Karras", steps=9, guidance=3.5),
        canvas=Canvas(seed=99, width=64, height=32),
        model=ModelChoice(checkpoint="other"),
    )
    return images.save(Image.new("RGB", (8, 8)), path, "1", metadata.write(request)), request


@pytest.mark.parametrize("name", REUSABLE)
def test_only_what_is_named_is_taken_over(tmp_path: Path, name: str) -> None:
    path, other = told(tmp_path)
    own = Request(prompt=Prompt(text="oil painting", negative="blurry"), canvas=Canvas(seed=1))
    taken = reuse(own, path, [name])
    behind = replace(other, prompt=Prompt(text="oil painting a cat", negative="blurry dogs"))
    for field in (field for fields in REUSABLE.values() for field in fields):
        part, key = field.split(".")
        expected = behind if field in REUSABLE[name] else own
        assert getattr(getattr(taken, part), key) == getattr(getattr(expected, part), key), field
    assert taken.canvas.width is None


def test_an_empty_prompt_is_the_files_own(tmp_path: Path) -> None:
    path, _ = told(tmp_path)
    assert reuse(Request(), path, ["prompt"]).prompt.text == "a cat"


def test_a_picture_that_tells_nothing_is_named(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png")
    with pytest.raises(OutputError, match=r"x\.png.*no generation parameters"):
        reuse(Request(), path, ["seed"])


def test_unknown_names_are_refused_with_the_known() -> None:
    with pytest.raises(RequestError, match=r"'size'.*prompt, negative, seed"):
        check_reusable(["seed", "size"])


def test_errors_name_the_picture_once() -> None:
    assert named_error(Path("a.png"), RequestError("too\nlarge")) == "a.png: too large"
    assert named_error(Path("a.png"), OutputError("a.png: damaged")) == "a.png: damaged"
