"""The page in a real browser, with a server as a process."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.ui.conftest import serving

pytestmark = pytest.mark.slow


def test_words_become_a_picture(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as address:
        page.goto(address)
        page.locator("#txt2img_prompt_text textarea").fill("a slice of pizza, 3d")
        page.keyboard.press("Control+Enter")
        picture = page.locator("#txt2img_gallery img").first
        picture.wait_for()
        assert page.locator("#txt2img_infotext textarea").input_value().startswith("a slice of pizza, 3d\n")
        (file,) = (tmp_path / "outputs").rglob("*.png")
        with Image.open(file) as image:
            assert image.size == (128, 128)
        page.screenshot(path=tmp_path / "txt2img.png", full_page=True)
