"""Extra networks: cards come a page at a time, in the visitor's language; a click writes what calls them."""

from pathlib import Path
from typing import Any

import pytest
from tests.app.test_cards import embedding, lora, png
from tests.ui.conftest import serving

from sfumato.app.engine import Engine
from sfumato.app.settings import Settings
from sfumato.ui import cards
from sfumato.ui.site import Visit

VISIT = Visit(owner="ann", role="user", language="de")


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("stocked")
    for number in range(cards.AT_ONCE + 5):
        lora(folder / "models" / f"fur{number:03d}.safetensors")
    (folder / "models" / "fur001.png").write_bytes(png("red"))
    engine = Engine(Settings(models=folder / "models", data=folder / "data", outputs=folder / "outputs"))
    engine.close()
    return engine


def test_cards_come_a_page_at_a_time(stocked: Engine) -> None:
    first = cards.page(stocked, VISIT, {"kind": "lora"})
    assert (len(first["cards"]), first["total"]) == (cards.AT_ONCE, cards.AT_ONCE + 5)
    rest = cards.page(stocked, VISIT, {"kind": "lora", "start": str(cards.AT_ONCE)})
    assert [each["name"] for each in rest["cards"]] == [f"fur{number:03d}" for number in range(60, 65)]
    assert first["words"]["search"] == "Suchen"


@pytest.mark.parametrize(
    "query", [{}, {"kind": "x"}, {"start": "-1"}, {"start": "9" * 400}, {"query": "a" * 10**5}]
)
def test_what_a_client_asks_is_never_an_error(stocked: Engine, query: dict[str, str]) -> None:
    assert cards.page(stocked, VISIT, query)["kind"] == "lora"


def test_pictures_are_those_of_cards(stocked: Engine) -> None:
    picture = cards.picture(stocked, {"kind": "lora", "name": "fur001"})
    assert picture is not None
    assert picture[8:12] == b"WEBP"
    for name in ("fur002", "", "fur001.png", "../models/fur001", "/etc/passwd", "\0"):
        assert cards.picture(stocked, {"kind": "lora", "name": name}) is None


@pytest.mark.slow
def test_a_click_writes_what_calls_an_adapter_and_a_second_takes_it_away(page: Any, tmp_path: Path) -> None:
    models = tmp_path / "models"
    hostile = {"modelspec.title": "<img src=x onerror=document.title='taken' "}
    fur = lora(models / "fur.safetensors", hostile)
    fur.with_suffix(".json").write_text('{"activation text": "fluffy", "preferred weight": 0.8}')
    fur.with_suffix(".png").write_bytes(png("red"))
    embedding(models / "embeddings" / "zqx.safetensors")
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        prompt, negative = (page.locator(f"#txt2img_prompt_{each} textarea") for each in ("text", "negative"))
        prompt.fill("a cat")
        page.locator("#txt2img_cards button").first.click()
        card = page.locator("#txt2img_cards .sf-card-use").first
        page.wait_for_function("document.querySelector('#txt2img_cards .sf-card-use img')?.naturalWidth > 0")
        assert "onerror" in card.inner_text()
        card.click()
        assert prompt.input_value() == "a cat <lora:fur:0.8>, fluffy"
        card.click()
        assert prompt.input_value() == "a cat"
        negative.click()
        page.get_by_role("button", name="Textual Inversion").first.click()
        page.locator("#txt2img_cards .sf-card-use", has_text="zqx").click()
        assert negative.input_value() == "zqx"
        page.locator("#txt2img_cards .sf-cards-kinds button").last.click()
        page.locator("#quick_model_checkpoint input").fill("other")
        page.keyboard.press("Tab")
        page.locator("#txt2img_cards .sf-card-use", has_text="sfumato-mini").click()
        page.wait_for_function(
            "document.querySelector('#quick_model_checkpoint input').value === 'sfumato-mini'"
        )
        assert page.title() == "Sfumato"
