"""A preset gives the very request back, to its owner alone."""

from dataclasses import fields, replace

import pytest
import sqlalchemy as sa
from PIL import Image

from sfumato.app import presets
from sfumato.app.presets import Presets
from sfumato.errors import RequestError
from sfumato.types import Canvas, Mask, Prompt, Request, Sampling, Source

PORTRAIT = Request(
    prompt=Prompt(text="a (cat:1.2), 猫", negative="blurry"),
    sampling=Sampling(sampler="Euler a", steps=7, guidance=4.5),
    canvas=Canvas(width=512, height=768, seed=-1, batch_count=3),
    mask=Mask(blur_x=7, invert=True),
)


@pytest.fixture
def kept(database: sa.Engine) -> Presets:
    return Presets(database)


def test_what_is_put_in_comes_out(kept: Presets) -> None:
    kept.put("anna", " portrait ", PORTRAIT)
    kept.put("anna", "Nothing", Request())
    assert kept.names("anna") == ["Nothing", "portrait"]
    assert kept.get("anna", "portrait") == PORTRAIT
    assert kept.get("anna", "Nothing") == Request()


def test_a_new_one_takes_the_place_of_the_old(kept: Presets) -> None:
    kept.put("anna", "a", PORTRAIT)
    kept.put("anna", "a", Request())
    assert (kept.names("anna"), kept.get("anna", "a")) == (["a"], Request())
    kept.remove("anna", "a")
    kept.remove("anna", "a")
    assert kept.names("anna") == []


def test_an_owner_sees_only_its_own(kept: Presets) -> None:
    kept.put("anna", "a", PORTRAIT)
    kept.put("bert", "a", Request())
    kept.remove("bert", "a")
    assert kept.names("bert") == []
    assert kept.get("anna", "a") == PORTRAIT
    with pytest.raises(RequestError, match="no preset 'a'"):
        kept.get("bert", "a")


def test_pictures_are_not_kept_but_all_else_is(kept: Presets) -> None:
    picture = Image.new("RGB", (8, 8))
    given = replace(
        PORTRAIT,
        source=Source(image=picture, depth=picture, denoising_strength=0.3),
        mask=replace(PORTRAIT.mask, image=picture),
    )
    kept.put("anna", "a", given)
    found = kept.get("anna", "a")
    assert (found.source.image, found.source.depth, found.mask.image) == (None, None, None)
    assert found.source.denoising_strength == 0.3
    for part in fields(Request):
        if part.name != "source":
            assert getattr(found, part.name) == getattr(PORTRAIT, part.name)


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "a\0b"])
def test_a_name_that_is_none_is_refused(kept: Presets, name: str) -> None:
    with pytest.raises(RequestError, match="name has 1 to 100 printable characters"):
        kept.put("anna", name, Request())


def test_there_are_so_many_and_no_more(kept: Presets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "MAX_PRESETS", 2)
    kept.put("anna", "a", Request())
    kept.put("anna", "b", Request())
    with pytest.raises(RequestError, match="2 presets are the most"):
        kept.put("anna", "c", Request())
    kept.put("anna", "b", PORTRAIT)
    assert kept.names("anna") == ["a", "b"]
    with pytest.raises(RequestError, match="shorten the prompt"):
        kept.put("anna", "a", Request(prompt=Prompt(text="x" * 300_000)))
