"""PNG Info and Extras in a real browser: a picture of somebody else's is read, sent about and enlarged."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.ui.conftest import serving
from tests.ui.test_browser import HOSTILE, shows

pytestmark = pytest.mark.slow


def test_a_picture_is_read_and_enlarged(page: Any, tmp_path: Path) -> None:
    chunks = PngInfo()
    text = f"{HOSTILE}\nNegative prompt: grey\nSteps: 7, Sampler: Euler, CFG scale: 3, Seed: 5, Size: 128x64"
    chunks.add_text("parameters", text)
    Image.effect_mandelbrot((96, 64), (-2, -1.2, 1, 1.2), 60).save(tmp_path / "in.png", pnginfo=chunks)
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        page.get_by_role("tab", name="PNG Info").first.click()
        page.locator("#png_info_image input[type=file]").set_input_files(str(tmp_path / "in.png"))
        table = page.get_by_role("table", name="Parameters")
        assert table.get_by_role("row").filter(has_text="Prompt").first.inner_text().split("\t")[1] == HOSTILE
        assert page.locator("#png_info_infotext textarea").input_value() == text
        page.screenshot(path=tmp_path / "png_info.png", full_page=True)
        page.locator("#png_info_to_txt2img").click()
        shows(page, "sampling_steps", "7")
        shows(page, "prompt_text", HOSTILE)
        page.get_by_role("tab", name="PNG Info").first.click()
        page.locator("#png_info_to_extras").click()
        page.locator("#extras_image img").wait_for()
        assert page.locator("#extras_second_visibility input[type=number]").is_disabled()
        choose(page, "#extras_upscaler", "Lanczos")
        choose(page, "#extras_second", "Nearest")
        page.locator("#extras_second_visibility input[type=number]:not([disabled])").wait_for()
        page.locator("#extras_generate").click()
        page.locator("#extras_slider img").first.wait_for()
        done = page.locator("#extras_done").locator("textarea, input").input_value()
        assert "Postprocess upscaler 2: Nearest" in done
        assert page.locator("#extras_infotext textarea").input_value() == text
        page.screenshot(path=tmp_path / "extras.png", full_page=True)
        assert page.title() == "Sfumato"
        assert page.locator("img[src=x]").count() == 0
    (file,) = (tmp_path / "outputs").rglob("*.png")
    with Image.open(file) as image:
        assert image.size == (384, 256)


def choose(page: Any, place: str, word: str) -> None:
    """Choose in a list."""
    page.locator(f"{place} input").fill(word)
    page.keyboard.press("Enter")
