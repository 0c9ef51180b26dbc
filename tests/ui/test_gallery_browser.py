"""The gallery in Chromium: found, opened, rated, deleted, brought back; nothing is taken for markup."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.ui.conftest import serving

from sfumato.app.gallery import open_gallery
from sfumato.app.gallery_import import import_folder
from sfumato.app.settings import Settings
from sfumato.pipeline import images

pytestmark = pytest.mark.slow
HOSTILE = """<img src=x onerror="document.title='taken'"><script>document.title='taken'</script> ${7*7}"""
FILE = "<img src=x onerror=document.title='taken'>.png"
COUNT = 100


def fill(folder: Path) -> None:
    """Pictures of many colours, the newest a hostile one."""
    outputs = folder / "outputs"
    for place in range(COUNT):
        image = Image.new("RGB", (48, 32), (place * 2, 255 - place, place * 7 % 256))
        animal = "a red fox" if place % 10 == 0 else "a house"
        text = f"{animal}\nSteps: 1, Sampler: Euler, Seed: {place}, Size: 48x32"
        images.save_as(image, outputs / f"{place:03d}.png", text)
    rest = f"Steps: 1, Sampler: Heun, Seed: {2**64 - 1}, Size: 48x32"
    text = f"{HOSTILE} fox\nNegative prompt: {HOSTILE}\n{rest}"
    images.save_as(image, outputs / FILE, text)
    with open_gallery(Settings(data=folder / "data", outputs=outputs)) as (gallery, inputs):
        *_, last = import_folder(gallery, inputs, outputs)
        assert last.done == COUNT + 1


def counts(page: Any, number: int) -> None:
    """Wait until the list has so many pictures."""
    page.wait_for_function("n => document.querySelector('.sf-g-cell')?.ariaSetSize === String(n)", arg=number)


def test_pictures_are_found_opened_deleted_and_brought_back(page: Any, tmp_path: Path) -> None:
    fill(tmp_path)
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url) if "/thumbnail" in request.url else None)
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        page.get_by_role("tab", name="Gallery", exact=True).click()
        counts(page, COUNT + 1)
        gallery = page.locator("#gallery_root")
        cells, grid = page.locator(".sf-g-cell"), page.locator(".sf-g-box")
        page.locator(".sf-g-cell img[src]").first.wait_for()
        assert len(loaded) <= cells.count() < 100  # what is seen, and nothing else

        # What others have written is text, in the list and in the large view.
        assert cells.first.get_attribute("aria-label").startswith(HOSTILE[:100])
        grid.focus()
        page.keyboard.press("Enter")
        text = page.locator(".sf-g-text")
        page.wait_for_function("document.querySelector('.sf-g-text').textContent.includes('Seed')")
        assert text.inner_text().startswith(f"{HOSTILE} fox\nNegative prompt: {HOSTILE}")
        facts = page.locator(".sf-g-facts").inner_text()
        assert FILE in facts
        assert str(2**64 - 1) in facts  # more than a number of JavaScript holds
        gallery.get_by_label("New tag").fill(HOSTILE[:40])
        page.keyboard.press("Enter")
        page.locator(".sf-g-tags li").wait_for()
        page.screenshot(path=tmp_path / "view.png")
        assert page.locator("img[src=x]").count() == 0
        assert page.title() == "Sfumato"

        # The keys: the next picture, five stars, away with it, and back.
        page.locator(".sf-g-view").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.querySelector('.sf-g-text').textContent.includes('Seed: 99')")
        page.keyboard.press("5")
        page.locator(".sf-g-rate [aria-pressed=true]").nth(4).wait_for()
        page.keyboard.press("Delete")
        counts(page, COUNT)
        page.wait_for_function("document.querySelector('.sf-g-text').textContent.includes('Seed: 98')")
        assert len(list((tmp_path / "outputs" / ".trash").iterdir())) == 1
        gallery.get_by_role("button", name="Undo").click()
        counts(page, COUNT + 1)
        assert not list((tmp_path / "outputs" / ".trash").iterdir())
        page.keyboard.press("Escape")
        page.locator(".sf-g-view").wait_for(state="hidden")

        # Words and values.
        gallery.get_by_placeholder("Search").fill("fox -masterpiece")
        counts(page, COUNT // 10 + 1)
        gallery.get_by_text("Filters", exact=True).click()
        gallery.get_by_label("Sampling method").select_option("Euler")
        counts(page, COUNT // 10)
        page.screenshot(path=tmp_path / "found.png")
        gallery.get_by_role("button", name="Clear filters").click()
        counts(page, COUNT + 1)
        gallery.get_by_label("Order").select_option("rating")
        page.wait_for_function("document.querySelector('.sf-g-cell').ariaLabel.includes('Rating: 5')")

        # Several at once, into the trash; one of them back out of it.
        grid.focus()
        page.keyboard.press("Home")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        gallery.get_by_text("Chosen: 3").wait_for()
        page.keyboard.press("Delete")
        counts(page, COUNT - 2)
        gallery.get_by_label("Show", exact=True).select_option("trash")
        counts(page, 3)
        page.locator(".sf-g-check").first.click(force=True)
        gallery.get_by_role("button", name="Restore").click()
        counts(page, 2)

        # A picture goes to another tab with what it was made from.
        gallery.get_by_label("Show", exact=True).select_option("there")
        counts(page, COUNT - 1)
        cells.nth(1).click()
        page.locator("[data-to=img2img]").click()
        page.locator("#img2img_generate").wait_for()
        page.wait_for_function(
            "document.querySelector('#img2img_prompt_text textarea').value.startsWith('a ')"
        )
        assert page.title() == "Sfumato"
