"""What does the page load of a gallery of 10,000 pictures, beside what is seen of it?

    python -m benchmarks.gallery_page            # a minute or two; writes results/gallery_page.json
    python -m benchmarks.gallery_page --small    # 1,000 pictures, nothing written

In Chromium, 1400×1000: the tab is opened; scrolled by screens, with a rest on each; and drawn to the end in
one go. A picture counts as seen when its cell was in sight in any frame. Counts and bytes, no times. The exit
code is 1 when more small pictures were loaded than seen, or where one in sight has not come.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import gallery, timing
from benchmarks.server import serving
from sfumato.app.gallery import open_gallery
from sfumato.app.settings import Settings

COUNT, SMALL = 10_000, 1_000  # pictures
SCREENS = 10  # that are scrolled through
SIDE = 512  # pixels of a picture
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# The places of cells in sight, gathered frame by frame.
WATCH = """() => {
  window.seen = new Set();
  const look = () => {
    const box = document.querySelector(".sf-g-box")?.getBoundingClientRect();
    if (box?.height) for (const cell of document.querySelectorAll(".sf-g-cell")) {
      const {top, bottom} = cell.getBoundingClientRect();
      if (bottom > box.top && top < box.bottom) window.seen.add(cell.dataset.place);
    }
    requestAnimationFrame(look);
  };
  look();
}"""
THERE = """() => {
  const images = [...document.querySelectorAll(".sf-g-cell img")];
  return images.length && images.every(image => image.src && image.complete && image.naturalWidth);
}"""
DRAW = """async () => { // the handle of the scroll bar, drawn from where it is to the end in 60 frames
  const box = document.querySelector(".sf-g-box"), from = box.scrollTop;
  for (let frame = 1; frame <= 60; frame++) {
    box.scrollTop = from + (box.scrollHeight - from) * frame / 60;
    await new Promise(requestAnimationFrame);
  }
}"""


class Wire:
    """What has come over it: requests and bytes, small pictures and lists apart."""

    def __init__(self, page: Any) -> None:
        """Listen to a page."""
        self._kinds: dict[str, str] = {}
        self.requests = {"thumbnails": 0, "list": 0}
        self.bytes = {"thumbnails": 0, "list": 0}
        session = page.context.new_cdp_session(page)
        session.on("Network.requestWillBeSent", self._sent)
        session.on("Network.loadingFinished", self._came)
        session.send("Network.enable")

    def _sent(self, event: Any) -> None:
        url = event["request"]["url"]
        if "/api/v1/gallery" in url:
            kind = "thumbnails" if "/thumbnail" in url else "list"
            self._kinds[event["requestId"]] = kind
            self.requests[kind] += 1

    def _came(self, event: Any) -> None:
        kind = self._kinds.get(event["requestId"])
        if kind is not None:
            self.bytes[kind] += int(event["encodedDataLength"])


def picture() -> Image.Image:
    """Soft colours with some grain: what small pictures of are about as large as photographs'."""
    draw = np.random.default_rng(1)
    coarse = Image.fromarray(draw.integers(0, 256, (24, 24, 3), np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.int16)
    grain = draw.normal(0, 8, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


@contextmanager
def filled(count: int) -> Iterator[str]:
    """A server with so many pictures; its address."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "outputs").mkdir()
        with open_gallery(Settings(data=home / "data", outputs=home / "outputs")) as (there, _):
            gallery.fill(there, count, picture())
        with serving(home, options=("--data", str(home / "data"))) as served:
            served.settle()
            yield f"http://{served.host}:{served.port}"


def measure(page: Any, wire: Wire, count: int) -> Iterator[dict[str, Any]]:
    """Open the gallery and scroll; a row for each part."""
    before = {"seen": 0, "thumbnails": 0, "thumbnail_bytes": 0, "list_requests": 0, "list_bytes": 0}

    def row(name: str) -> dict[str, Any]:
        page.wait_for_timeout(300)  # until the calm after the last movement is noticed
        page.wait_for_function(THERE)
        page.wait_for_timeout(300)
        total = {
            "seen": page.evaluate("window.seen.size"),
            "thumbnails": wire.requests["thumbnails"],
            "thumbnail_bytes": wire.bytes["thumbnails"],
            "list_requests": wire.requests["list"],
            "list_bytes": wire.bytes["list"],
        }
        found = {key: value - before[key] for key, value in total.items()}
        before.update(total)
        cells = page.locator(".sf-g-cell").count()
        met = found["thumbnails"] <= found["seen"]
        return {"name": name, "pictures": count, **found, "cells_in_the_page": cells, "met": met}

    page.evaluate(WATCH)
    page.get_by_role("tab", name="Gallery", exact=True).click()
    page.locator(".sf-g-cell").first.wait_for()
    yield row("the first view")
    for _ in range(SCREENS):
        page.locator(".sf-g-box").press("PageDown")
        page.wait_for_timeout(300)
        page.wait_for_function(THERE)
    yield row(f"scrolled by {SCREENS} screens")
    page.evaluate(DRAW)
    yield row("drawn to the end in one go")


def main() -> int:
    chosen = timing.options(__doc__, runs=1).parse_args()
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"no browser here: none of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    began = timing.machine()
    count = SMALL if chosen.small else COUNT
    with filled(count) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(locale="en-US", viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        wire = Wire(page)
        page.goto(address)
        page.locator("#txt2img_generate").wait_for()
        rows = list(measure(page, wire, count))
        browser.close()
    for row in rows:
        print(row)
    if not chosen.small:
        timing.write("gallery_page", began, rows)
    return int(not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
