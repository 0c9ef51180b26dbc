"""The page in a real browser, with a server as a process."""

import base64
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from tests.ui.conftest import free_port, serving

pytestmark = pytest.mark.slow
PROMPT = "#txt2img_prompt_text textarea"
LINE = "#txt2img_strip .sf-line"
HOSTILE = (
    """<img src=x onerror="document.title='taken'"><script>document.title='taken'</script> ${7*7} {{7*7}}"""
)

DROP = """([place, packed]) => {
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], "a.png", {type: "image/png"}));
  const drop = new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true});
  document.querySelector(place).dispatchEvent(drop);
}"""


def write(page: Any, element: str, text: str) -> None:
    """Type into a field of the form."""
    field = page.locator(f"#txt2img_{element}").locator("textarea, input:not([type=range])").first
    field.fill(text)
    field.press("Tab")


def shows(page: Any, element: str, value: str) -> None:
    """Wait until a field of the form has this value."""
    page.wait_for_function(
        "([place, value]) => document.querySelector(place)?.value === value",
        arg=[f"#txt2img_{element} :is(textarea, input:not([type=range]))", value],
    )


def says(page: Any, pattern: str) -> None:
    """Wait until the strip says it."""
    page.wait_for_function(
        "([place, pattern]) => document.querySelector(place)?.textContent.match(pattern)", arg=[LINE, pattern]
    )


def begin_long_job(page: Any) -> None:
    write(page, "sampling_steps", "150")
    write(page, "canvas_batch_count", "100")
    page.locator(PROMPT).fill("a house")
    page.locator("#txt2img_generate").click()
    says(page, r"Step \d+/150")


def jobs(address: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = requests.get(f"{address}/api/v1/jobs", timeout=300).json()["jobs"]
    return found


def test_words_become_a_picture(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        page.locator(PROMPT).fill("a slice of pizza, 3d")
        page.keyboard.press("Control+Enter")
        page.locator("#txt2img_gallery img").first.wait_for()
        assert page.locator("#txt2img_infotext textarea").input_value().startswith("a slice of pizza, 3d\n")
        seed = page.locator("#txt2img_made_seed input, #txt2img_made_seed textarea").input_value()
        (file,) = (tmp_path / "outputs").rglob(f"*-{seed}.png")
        with Image.open(file) as image:
            assert image.size == (128, 128)
        page.screenshot(path=tmp_path / "txt2img.png", full_page=True)
        page.locator("#txt2img_tool_recycle_seed").click()
        shows(page, "canvas_seed", seed)
        page.locator("#txt2img_tool_random_seed").click()
        shows(page, "canvas_seed", "-1")


def test_what_runs_is_shown_after_a_reload_in_a_second_tab_and_after_a_kill(
    page: Any, tmp_path: Path
) -> None:
    port = str(free_port())
    with serving(tmp_path, "--port", port) as address:
        page.goto(address)
        begin_long_job(page)
        page.reload()
        says(page, r"Step \d+/150")
        page.locator("#txt2img_strip .sf-preview[src^='data:image/jpeg']").wait_for()
        second = page.context.new_page()
        second.goto(address)
        says(second, r"Step \d+/150")
        second.close()
        page.locator("#txt2img_gallery img").first.wait_for()
        assert len(jobs(address)) == 1
    says(page, "connection is lost")
    with serving(tmp_path, "--port", port, page=page) as address:
        says(page, r"Step \d+/150")
        page.screenshot(path=tmp_path / "again.png", full_page=True)
        page.keyboard.press("Escape")
        says(page, "Interrupted")
        (job,) = jobs(address)
        assert (job["state"], job["interrupted"]) == ("done", True)
        assert "Interrupted: " in job["pictures"][-1]["infotext"]  # half made, and kept
        page.wait_for_function(
            "count => document.querySelectorAll('#txt2img_gallery .thumbnail-item').length === count",
            arg=len(job["pictures"]),
        )
        page.locator(PROMPT).fill("a tree")
        write(page, "canvas_batch_count", "1")
        write(page, "sampling_steps", "1")
        page.locator("#txt2img_generate").click()  # the page is the one that was there before
        says(page, "Done")
        assert len(jobs(address)) == 2


def test_a_form_sent_twice_is_one_job(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        page.locator(PROMPT).fill("a house")
        page.locator("#txt2img_generate").dblclick()
        says(page, "Done")
        assert len(jobs(address)) == 1
        # An answer that is lost: the server has the job, and the page does not know it.
        lost: list[str] = []

        def lose(route: Any) -> None:
            route.fetch()
            route.abort()
            lost.append(route.request.url)

        page.route("**/gradio_api/run/predict", lose)
        page.locator("#txt2img_generate").click()
        while not lost or len(jobs(address)) < 2:
            page.wait_for_timeout(50)
        page.unroute("**/gradio_api/run/predict")
        page.locator("#txt2img_generate").click()
        page.locator("#txt2img_generate:not(.pending)").wait_for()
        says(page, "Done")
        assert len(jobs(address)) == 2


def test_what_others_write_is_shown_as_text(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        write(page, "sampling_steps", "1")
        page.locator(PROMPT).fill(HOSTILE)
        page.keyboard.press("Control+Enter")
        page.locator("#txt2img_gallery img").first.wait_for()
        assert page.locator("#txt2img_infotext textarea").input_value().startswith(HOSTILE)
        write(page, "sampling_sampler", HOSTILE)
        page.locator("#txt2img_generate").click()
        page.get_by_text("onerror=").first.wait_for()
        page.screenshot(path=tmp_path / "hostile.png", full_page=True)
        assert page.title() == "Sfumato"
        assert page.locator("img[src=x]").count() == 0


def test_a_picture_that_is_dropped_on_the_prompt_fills_the_form(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        write(page, "sampling_steps", "3")
        write(page, "canvas_seed", "12345678901234567890")  # more than a number of JavaScript holds
        page.locator(PROMPT).fill("a red house")
        page.locator("#txt2img_generate").click()
        page.locator("#txt2img_gallery img").first.wait_for()
        page.reload()
        shows(page, "sampling_steps", "20")
        (file,) = (tmp_path / "outputs").rglob("*.png")
        packed = base64.b64encode(file.read_bytes()).decode("ascii")
        page.evaluate(DROP, [PROMPT, packed])
        shows(page, "sampling_steps", "3")
        shows(page, "canvas_seed", "12345678901234567890")
        shows(page, "prompt_text", "a red house")


def test_a_script_makes_its_sheet(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        write(page, "sampling_steps", "2")
        page.locator("#txt2img_script input").click()
        page.get_by_role("option", name="X/Y/Z plot").click()
        page.locator("#txt2img_script_values_x textarea, #txt2img_script_values_x input").fill("1-3")
        page.locator(PROMPT).fill("a tree")
        page.locator("#txt2img_generate").click()
        says(page, "Done")
        (job,) = jobs(address)
        assert job["script"]["name"] == "x/y/z plot"
        page.locator("#txt2img_gallery img").first.wait_for()
        page.screenshot(path=tmp_path / "plot.png", full_page=True)


def test_it_generates_until_it_is_told_to_stop(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        write(page, "sampling_steps", "1")
        page.locator("#txt2img_tool_forever").click()
        while len(jobs(address)) < 3:
            page.wait_for_timeout(50)
        page.locator("#txt2img_tool_forever[aria-pressed=true]").click()
        says(page, "Done")
        page.locator("#txt2img_tool_forever[aria-pressed=false]").wait_for()


def test_size_is_swapped_and_keeps_its_ratio(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, page=page) as address:
        page.goto(address)
        page.locator("#txt2img_generate").wait_for()
        write(page, "canvas_width", "256")
        page.locator("#txt2img_tool_swap").click()
        shows(page, "canvas_height", "256")
        shows(page, "canvas_width", "128")
        page.locator("#txt2img_lock input").check()
        write(page, "canvas_width", "256")
        shows(page, "canvas_height", "512")


@pytest.mark.parametrize(
    ("keys", "before", "after"),
    [
        (["Alt+ArrowUp"], "a cat, red", "a (cat:1.1), red"),
        (["Control+ArrowUp", "Control+ArrowUp"], "a cat, red", "a (cat:1.2), red"),
        (["Alt+ArrowUp", "Alt+ArrowDown"], "a cat, red", "a cat, red"),
        (["Alt+ArrowDown"], "a cat, red", "a (cat:0.9), red"),
        (["Alt+ArrowRight"], "a cat, red", "red, a cat"),
    ],
)
def test_keys_weigh_and_move_words(page: Any, served: str, keys: list[str], before: str, after: str) -> None:
    page.goto(served)
    field = page.locator(PROMPT)
    field.fill(before)
    field.evaluate("field => field.setSelectionRange(4, 4)")
    for key in keys:
        field.press(key)
    assert field.input_value() == after
    page.wait_for_function("document.querySelector('#txt2img_tokens').textContent.match(/[1-9]\\d*.75/)")


@pytest.mark.parametrize(
    ("language", "word"), [("de-DE", "Erzeugen"), ("zh-CN", "生成"), ("fr-FR", "Generate")]
)
def test_the_page_speaks_the_browsers_language(browser: Any, served: str, language: str, word: str) -> None:
    context = browser.new_context(locale=language)
    page = context.new_page()
    page.goto(served)
    assert page.locator("#txt2img_generate").text_content().strip() == word
    context.close()


def test_who_is_not_known_logs_in_first(page: Any, tmp_path: Path) -> None:
    with serving(tmp_path, "--login", page=page) as address:
        page.goto(address)
        assert page.url.endswith("/login")
        page.locator("[name=password]").fill((tmp_path / "data" / "token").read_text().strip())
        page.get_by_role("button").click()
        page.locator(PROMPT).fill("a house")
        write(page, "sampling_steps", "1")
        page.locator("#txt2img_generate").click()
        page.locator("#txt2img_gallery img").first.wait_for()


def test_an_open_page_does_not_keep_the_server(page: Any, tmp_path: Path) -> None:
    processes: list[Any] = []
    with serving(tmp_path, "--grace", "3600", processes=processes) as address:
        page.goto(address)
        page.locator("#txt2img_generate").wait_for()
        says(page, "^$")
        processes[0].send_signal(signal.SIGTERM)
        assert processes[0].wait(300) == 0
    assert not re.search("Traceback", (tmp_path / "log").read_text())
