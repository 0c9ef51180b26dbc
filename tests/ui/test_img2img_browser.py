"""Inpainting in a real browser: a mask is drawn with the mouse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.ui.conftest import serving

pytestmark = pytest.mark.slow


def masks(folder: Path) -> list[Any]:
    """The masks of all jobs, as they are kept."""
    kept = [np.asarray(Image.open(each)) for each in (folder / "data").rglob("inputs/*.png")]
    return [each if each.ndim == 2 else each[..., 0] for each in kept if np.unique(each).tolist() == [0, 255]]


def test_what_the_mouse_did_not_paint_over_stays_as_it_was(page: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = Image.fromarray(rng.integers(0, 256, (760, 1000, 3), np.uint8))  # larger than the first canvas
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "source.png", exif=exif)
    upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        page.get_by_role("tab", name="img2img").first.click()
        page.get_by_role("tab", name="Inpaint", exact=True).click()
        canvas = page.locator("#img2img_inpaint_canvas")
        canvas.locator("canvas").first.wait_for()
        page.wait_for_load_state("networkidle")  # the editor is set up in the meantime
        canvas.locator("input[type=file]").first.set_input_files(str(tmp_path / "source.png"))
        canvas.get_by_role("button", name="Brush", exact=True).first.wait_for()
        area = canvas.locator("canvas").first
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        across, down = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(across - 20, down - 20)
        page.mouse.down()
        page.mouse.move(across + 20, down + 20, steps=8)
        page.mouse.up()
        page.locator("#img2img_inpaint_group > button").click()
        padding = page.locator("#img2img_mask_padding input[type=number]")
        assert padding.is_disabled()  # it is without effect on the whole picture
        page.get_by_label("Only masked", exact=True).check()
        page.locator("#img2img_mask_padding input[type=number]:not([disabled])").wait_for()
        page.locator("#img2img_prompt_text textarea").fill("a house")
        page.locator("#img2img_generate").click()
        page.locator("#img2img_gallery img").first.wait_for()
        (file,) = (tmp_path / "outputs").rglob("*.png")
        (painted,) = masks(tmp_path)
    result = np.asarray(Image.open(file).convert("RGB"))
    assert result.shape == upright.shape
    assert painted.shape == upright.shape[:2]
    assert 100 < (painted > 0).sum() < painted.size / 4
    rows, columns = np.nonzero(painted)
    assert abs(rows.mean() - 500) < 30  # it was drawn around the middle
    assert abs(columns.mean() - 380) < 30
    far = np.ones(painted.shape, bool)  # beyond the blur of 4 pixels: its kernel reaches 10
    far[rows.min() - 11 : rows.max() + 12, columns.min() - 11 : columns.max() + 12] = False
    assert np.array_equal(result[far], upright[far])
    assert not np.array_equal(result[painted > 0], upright[painted > 0])
