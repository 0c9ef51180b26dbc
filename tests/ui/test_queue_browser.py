"""The tab Queue and the first start in a real browser."""

from pathlib import Path
from typing import Any

import pytest
import requests
from tests.ui.conftest import free_port, serving
from tests.ui.test_browser import PROMPT, begin_long_job, jobs, says, shows, write

pytestmark = pytest.mark.slow
ROWS = "#queue_list .sf-row"


def row(page: Any, text: str) -> Any:
    """The job that shows this text."""
    return page.locator(ROWS).filter(has_text=text)


def send(address: str, prompt: str) -> str:
    """A job that another program asks for; its id."""
    body: Any = {"request": {"prompt": {"text": prompt}, "sampling": {"steps": 3}, "canvas": {"seed": 7}}}
    answer = requests.post(f"{address}/api/v1/jobs", json=body, timeout=300)
    return str(answer.json()["id"])


def test_jobs_are_watched_moved_cancelled_and_begun_again(page: Any, tmp_path: Path) -> None:
    port = str(free_port())
    with serving(tmp_path, "--port", port) as address:
        page.goto(address)
        begin_long_job(page)
        first, second, third = (send(address, f"<i>a {each} tree</i>") for each in ("red", "green", "blue"))
        page.get_by_role("tab", name="Queue").click()
        row(page, "Step ").wait_for()
        assert page.locator(ROWS).count() == 4
        row(page, "blue").get_by_role("button", name="To the front").click()
        row(page, "blue").filter(has_text="0 before it").wait_for()
        page.screenshot(path=tmp_path / "queue.png", full_page=True)
    row(page, "blue").wait_for()
    page.locator("#queue_list .sf-rows-note", has_text="connection is lost").wait_for()
    with serving(tmp_path, "--port", port, page=page) as address:
        row(page, "Step ").wait_for()
        row(page, "green").get_by_role("button", name="Cancel").click()
        row(page, "green").filter(has_text="Stopped").wait_for()
        row(page, "Step ").get_by_role("button", name="Interrupt").click()
        row(page, "Interrupted").wait_for()
        page.reload()
        page.get_by_role("tab", name="Queue").click()
        row(page, "red").filter(has_text="Done").get_by_role("button", name="Open").click()
        page.locator("#queue_gallery img").first.wait_for()
        assert page.locator("#queue_infotext textarea").input_value().startswith("<i>a red tree</i>\n")
        page.screenshot(path=tmp_path / "ended.png", full_page=True)
        states = {each["id"]: each["state"] for each in jobs(address)}
        assert [states[each] for each in (first, second, third)] == ["done", "cancelled", "done"]
        ended = sorted(jobs(address), key=lambda job: job["finished"])
        assert [each["id"] for each in ended][-2:] == [third, first]
        row(page, "blue").get_by_role("button", name="Use these settings again").click()
        shows(page, "sampling_steps", "3")
        shows(page, "canvas_seed", "7")
        shows(page, "prompt_text", "<i>a blue tree</i>")
        write(page, "preset", "calm")
        page.locator("#txt2img_tool_save_preset").click()
        page.reload()
        shows(page, "sampling_steps", "20")
        page.locator("#txt2img_preset input").click()
        page.get_by_role("option", name="calm").click()
        shows(page, "sampling_steps", "3")
        page.screenshot(path=tmp_path / "preset.png", full_page=True)
        page.locator("#txt2img_tool_remove_preset").click()
        shows(page, "preset", "")


def test_the_first_start_finds_other_programs_models(
    page: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    place = tmp_path / "stable-diffusion-webui" / "models" / "Stable-diffusion"
    place.mkdir(parents=True)
    (place / "mine.safetensors").symlink_to(tiny_checkpoint)
    with serving(tmp_path, page=page, first=True) as address:
        page.goto(address)
        panel = page.locator("#first_start")
        panel.wait_for()
        page.locator("#first_repo input, #first_repo textarea").fill("../nothing")
        page.locator("#pulls_do_start").click()
        page.locator("#pulls_list .sf-row .sf-fault").wait_for()
        page.locator("#first_look").click()
        page.wait_for_function(
            "document.querySelector('#first_found textarea')?.value.includes('Stable-diffusion: 1')"
        )
        page.screenshot(path=tmp_path / "first.png", full_page=True)
        page.locator("#first_use_folder").click()
        panel.wait_for(state="hidden")
        shows(page, "canvas_width", "64")  # as the checkpoint was trained
        page.locator(PROMPT).fill("a house")
        write(page, "sampling_steps", "1")
        page.locator("#txt2img_generate").click()
        says(page, "Done")
        (job,) = jobs(address)
        assert job["request"]["model"]["checkpoint"].endswith("Stable-diffusion/mine")
        page.reload()
        page.wait_for_function(  # the question would have come before
            "document.querySelector('#txt2img_ticket :is(input, textarea)')?.value"
        )
        assert panel.is_hidden()
