"""The map, a walk and a picture's close view in a real browser."""

import re
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

pytestmark = pytest.mark.slow
INFOTEXT = "#latent_infotext textarea"
SHARE = ".sf-zoom output"


def make(address: str, **fields: Any) -> str:
    """A picture, made by the API; its job."""
    body = {"fields": {"sampling.steps": 1, **fields}}
    job = requests.post(f"{address}/api/v1/jobs", json=body, timeout=300).json()["id"]
    while requests.get(f"{address}/api/v1/jobs/{job}", timeout=300).json()["state"] != "done":
        pass
    return str(job)


def holds(page: Any, place: str, text: str) -> None:
    """Wait until a field has a value that begins so."""
    page.wait_for_function(
        "([place, text]) => document.querySelector(place)?.value.startsWith(text)", arg=[place, text]
    )


def test_who_sees_pictures_on_the_map_walks_between_them(page: Any, served: str, tmp_path: Path) -> None:
    make(served, **{"prompt.text": "a red house", "canvas.seed": 1})
    page.goto(served)
    page.get_by_role("tab", name="Latent space").click()
    listed = page.locator(".sf-map-list button")
    listed.first.wait_for()
    page.locator(".sf-map canvas").click()  # the only picture is in the middle
    holds(page, INFOTEXT, "a red house\n")
    page.get_by_role("button", name="Add to the walk").click()
    page.locator(".sf-stops li").first.wait_for()
    make(served, **{"prompt.text": "the sea", "canvas.seed": 2})
    page.get_by_role("button", name="Look for new pictures").click()
    sea = listed.filter(has_text="the sea")
    sea.focus()
    page.keyboard.press("Enter")
    holds(page, INFOTEXT, "the sea\n")
    page.get_by_role("button", name="Add to the walk").click()
    page.locator(".sf-stops li").nth(1).wait_for()
    page.locator("#latent_frames input[type=number]").fill("2")
    page.locator("#latent_frames input[type=number]").press("Tab")
    page.locator("#latent_generate").click()
    link = page.get_by_role("link", name="Download the moving picture")
    link.wait_for()
    page.locator(".sf-walk-slider").fill("1")
    page.get_by_text("Frame 2 of 3: 50 % of the way from “a red house” to “the sea”").wait_for()
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename.endswith(".webp")
    with Image.open(download.value.path()) as moving:
        assert getattr(moving, "n_frames", 1) == 4  # there and back
    page.screenshot(path=tmp_path / "latent.png", full_page=True)


def test_a_result_is_looked_at_closely(page: Any, served: str, tmp_path: Path) -> None:
    make(served, **{"prompt.text": "a tree", "canvas.batch_count": 2})
    page.goto(served)

    def says(pattern: str) -> None:
        page.wait_for_function(
            "([place, pattern]) => document.querySelector(place)?.textContent.match(pattern)",
            arg=[SHARE, pattern],
        )

    def where() -> list[float]:
        matrix = page.locator(".sf-zoom img").evaluate("image => getComputedStyle(image).transform")
        return [float(each) for each in re.findall(r"-?[\d.]+(?:e-?\d+)?", matrix)]

    button = page.locator("#txt2img_gallery .media-button")
    button.focus()
    page.keyboard.press("Enter")
    says("1/2 · 781 %")  # 128 pixels in a window 1000 high
    page.mouse.move(700, 500)
    page.mouse.wheel(0, -500)
    says("1/2 · 2124 %")  # e times as large
    before = where()
    page.mouse.down()
    page.mouse.move(740, 530)
    page.mouse.up()
    moved = where()
    assert [round(b - a) for a, b in zip(before, moved, strict=True)] == [0, 0, 0, 0, 40, 30]
    page.keyboard.press("0")
    says("1/2 · 781 %")
    page.keyboard.press("+")
    says("1/2 · 977 %")
    page.keyboard.press("-")
    says("1/2 · 781 %")
    fingers = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 50), ("touchMove", 75), ("touchMove", 100), ("touchEnd", None)):
        points = (
            [] if apart is None else [{"x": 700 + side * apart, "y": 500, "id": side + 2} for side in (-1, 1)]
        )
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    says("1/2 · 1563 %")  # twice as far apart
    page.keyboard.press("PageDown")
    says("2/2 · 781 %")
    page.screenshot(path=tmp_path / "zoom.png")
    page.keyboard.press("Escape")
    page.locator(".sf-zoom").wait_for(state="hidden")
    assert button.evaluate("button => button === document.activeElement")
