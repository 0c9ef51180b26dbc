"""The tab PNG Info: texts of a picture as text, and its parameters in the forms."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.pipeline.test_dialects import TEXTS
from tests.ui.test_browser import HOSTILE
from tests.ui.test_img2img import built

from sfumato.app.engine import Engine
from sfumato.errors import RequestError
from sfumato.pipeline.dialects import origin
from sfumato.ui.page import TABS
from sfumato.ui.site import Sent, Site, Visit
from sfumato.ui.tabs import png_info

VISIT = Visit()


def file_with(folder: Path, **texts: str) -> str:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.new("RGB", (8, 8)).save(folder / "a.png", pnginfo=chunks)
    return str(folder / "a.png")


def cells(table: str) -> dict[str, str]:
    found = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td></tr>', table, re.DOTALL)
    return {unescape(name): unescape(value) for name, value in found}


@pytest.mark.parametrize("program", TEXTS)
def test_every_dialect_is_read_and_sent_in_our_words(tmp_path: Path, program: str) -> None:
    file = file_with(tmp_path, **TEXTS[program])
    said, text, notes, fields, texts = png_info.read(VISIT, file)
    assert said == program
    assert notes.visible
    assert cells(fields)["Prompt"] == "a cat"
    assert cells(fields)["Size"] == "512x768"
    assert cells(texts) == TEXTS[program]
    sent = png_info.send(VISIT, file)
    assert origin({"parameters": sent.infotext}).request == origin(TEXTS[program]).request
    assert sent.image == Path(file)
    assert text == sent.infotext


def test_nothing_in_a_picture_is_markup(tmp_path: Path) -> None:
    quoted = json.dumps(f"{HOSTILE}\ud800\x07")
    text = f"{HOSTILE}\nNegative prompt: {HOSTILE}\nSteps: 2, Seed: 1, Size: 8x8, Evil<b>: 1, Evil: {quoted}"
    answer = png_info.read(VISIT, file_with(tmp_path, parameters=text, **{"<i>key": HOSTILE}))
    _, shown, _, fields, texts = answer
    assert shown == text
    for table in (fields, texts):
        assert not re.search(r"<(?!/?(table|caption|tr|th|td)\b)", table)
    assert cells(fields)["Prompt"] == HOSTILE
    assert cells(texts)["<i>key"] == HOSTILE
    orjson.dumps([shown, fields, texts])  # what cannot be sent to the page is not sent


def test_a_picture_without_parameters_is_said_to_have_none(tmp_path: Path) -> None:
    file = file_with(tmp_path)
    said, text, _, fields, texts = png_info.read(VISIT, file)
    assert said.startswith("This file carries no text")
    assert (text, fields, texts) == ("", "", "")
    assert png_info.send(VISIT, file).infotext == ""


def test_texts_that_are_no_parameters_are_shown_all_the_same(tmp_path: Path) -> None:
    said, _, _, fields, texts = png_info.read(VISIT, file_with(tmp_path, Title="a house"))
    assert "no generation parameters" in said
    assert fields == ""
    assert cells(texts) == {"Title": "a house"}


def test_a_text_without_end_is_cut(tmp_path: Path) -> None:
    *_, texts = png_info.read(VISIT, file_with(tmp_path, Title="x" * 100_000))
    assert len(texts) < 2 * png_info.LONGEST
    assert "(100,000)" in texts


def test_without_a_picture_there_is_nothing_to_send() -> None:
    assert png_info.read(VISIT, None)[:2] == ["", ""]
    with pytest.raises(RequestError, match="no picture"):
        png_info.send(VISIT, None)


@pytest.mark.parametrize("target", ["txt2img", "img2img", "inpaint", "extras"])
def test_it_reaches_every_form_with_all_fields(engine: Engine, tmp_path: Path, target: str) -> None:
    text = "a cat\nNegative prompt: grey\nSteps: 7, Sampler: Euler, CFG scale: 3.5, Seed: 5, Size: 128x64"
    sent = png_info.send(VISIT, file_with(tmp_path, parameters=text))

    def build(site: Site) -> None:
        for name, module in TABS:
            if name in ("txt2img", "img2img", "extras") and module.build:
                module.build(site)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
        site, _ = built(engine, build)
        values: list[Any] = list(site.inlets[target].fill(VISIT, sent))
    if target != "extras":
        assert {"a cat", "grey", 7, 3.5, "5", 128, 64} <= {
            v for v in values if isinstance(v, str | int | float)
        }
    else:
        assert Path(values[0]).read_bytes() == Path(str(sent.image)).read_bytes()


@pytest.mark.parametrize("target", ["img2img", "inpaint", "extras", "png_info", "compare"])
def test_a_tab_that_needs_a_picture_says_so_where_none_was_sent(engine: Engine, target: str) -> None:
    def build(site: Site) -> None:
        for name, module in TABS:
            if name in ("img2img", "extras", "png_info", "compare") and module.build:
                module.build(site)

    site, _ = built(engine, build)
    with pytest.raises(RequestError, match="no picture"):
        site.inlets[target].fill(VISIT, Sent(infotext="a cat"))
