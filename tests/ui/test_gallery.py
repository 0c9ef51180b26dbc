"""The tab Gallery without a browser: what its script is told, and what it sends to other tabs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from sfumato.app.engine import Engine
from sfumato.app.gallery_import import import_folder
from sfumato.app.gallery_table import Filter, Picture
from sfumato.errors import OutputError, PictureNotFoundError, RequestError
from sfumato.pipeline import images
from sfumato.ui.page import TABS
from sfumato.ui.site import Outlet, Site, Visit
from sfumato.ui.strings import LANGUAGES
from sfumato.ui.tabs import gallery

INFOTEXT = "a cat\nSteps: 1, Seed: 7"


@pytest.fixture(scope="module")
def pictures(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    folder = tmp_path_factory.mktemp("pictures")
    for colour in ("red", "blue"):
        images.save_as(Image.new("RGB", (16, 16), colour), folder / f"{colour}.png", INFOTEXT)
    assert [each.outcome for each in import_folder(engine.gallery, engine.inputs, folder, owner="ann")] == [
        "new"
    ] * 2
    return list(engine.gallery.search(Filter(), owner="ann", order="oldest").pictures)


@pytest.fixture(scope="module")
def outlets(engine: Engine) -> list[Outlet]:
    async def build() -> Site:
        site = Site(engine=engine)
        with gr.Blocks():
            gallery.build(site)
        return site

    return asyncio.run(build()).outlets


def sent(outlets: list[Outlet], ids: Any, owner: str = "ann") -> Any:
    return outlets[0].send(Visit(owner=owner, role="user"), ids)


def test_a_picture_is_sent_with_its_file_and_text(
    engine: Engine, pictures: list[Picture], outlets: list[Outlet]
) -> None:
    one = sent(outlets, pictures[0].id)
    assert (one.image, one.infotext, one.before) == (engine.gallery.path(pictures[0]), INFOTEXT, None)
    two = sent(outlets, ",".join(each.id for each in pictures))
    assert (two.before, two.image) == tuple(map(engine.gallery.path, pictures))


@pytest.mark.parametrize("ids", ["", None, ","])
def test_nothing_chosen_is_said_in_words(outlets: list[Outlet], ids: Any) -> None:
    with pytest.raises(RequestError, match="no picture"):
        sent(outlets, ids)


@pytest.mark.parametrize("ids", ["../../etc/passwd", "0" * 32, "\0", "x" * 10_000])
def test_what_a_client_sends_names_pictures_of_its_own(
    pictures: list[Picture], outlets: list[Outlet], ids: str
) -> None:
    for each, owner in ((ids, "ann"), (pictures[0].id, "bob"), (f"{pictures[0].id},{ids}", "ann")):
        with pytest.raises(PictureNotFoundError):
            sent(outlets, each, owner)


def test_a_vanished_file_is_not_sent(engine: Engine, pictures: list[Picture], outlets: list[Outlet]) -> None:
    path = engine.gallery.path(pictures[1])
    away = path.rename(path.with_suffix(".away"))
    with pytest.raises(OutputError, match="has vanished"):
        sent(outlets, pictures[1].id)
    away.rename(path)


def test_it_sends_to_tabs_that_there_are(outlets: list[Outlet]) -> None:
    names = {name for name, _ in TABS} | {"inpaint"}
    assert [each.inlet for each in outlets] == list(gallery.SENDS)
    assert {each.inlet for each in outlets} <= names


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(("role", "imports"), [("admin", True), ("user", False), ("", False)])
def test_the_script_knows_every_word_it_says(language: str, role: str, imports: bool) -> None:
    told = gallery.told(Visit(role=role, language=language))
    assert told["imports"] is imports
    folder = Path(gallery.__file__).parents[1] / "static"
    script = "".join((folder / name).read_text("utf-8") for name in sorted(folder.glob("gallery*.js")))
    said = set(re.findall(r'\b(?:said|button|sign|beside)\("(\w+)"', script))
    fields = set(re.findall(r'field\("(\w+)",', script))
    assert len(said) > 40
    assert said | fields | {f"help_{each}" for each in fields} <= set(told["words"])
