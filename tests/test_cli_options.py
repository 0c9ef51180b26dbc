import io
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sfumato.app.settings import Settings
from sfumato.cli_given import NEEDS
from sfumato.cli_options import (
    MAX_PROMPTS_BYTES,
    PROMPT,
    REQUEST_FLAGS,
    SERVER_FLAGS,
    SETTING_FLAGS,
    SOURCE,
    SOURCE_FLAGS,
    Options,
)
from sfumato.errors import RequestError
from sfumato.types import Canvas, Request


def options(**given: Any) -> Options:
    table: dict[str, Any] = {flag.field: None for flag in (PROMPT, *REQUEST_FLAGS)}
    return Options(table | {name.replace("__", "."): value for name, value in given.items()}, {})


def requests(size: str | None = None, prompts_file: Path | None = None, **given: Any) -> list[Request]:
    return options(**given).requests(size=size, prompts_file=prompts_file)


def test_every_field_of_a_request_has_one_option() -> None:
    request = Request()
    named = [
        f"{part.name}.{each.name}" for part in fields(Request) for each in fields(getattr(request, part.name))
    ]
    assert sorted(flag.field for flag in (PROMPT, SOURCE, *REQUEST_FLAGS, *SOURCE_FLAGS)) == sorted(named)


def test_every_setting_has_one_option() -> None:
    assert sorted(flag.field for flag in (*SETTING_FLAGS, *SERVER_FLAGS)) == sorted(Settings.model_fields)


def test_spellings_are_different() -> None:
    spellings = [
        each
        for flag in (*REQUEST_FLAGS, *SOURCE_FLAGS, *SETTING_FLAGS, *SERVER_FLAGS)
        for each in flag.spellings
    ]
    assert len(set(spellings)) == len(spellings)


def test_what_is_not_given_keeps_its_default() -> None:
    (request,) = requests(prompt__text="a cat")
    assert request == Request(prompt=request.prompt)
    assert request.prompt.text == "a cat"


def test_an_empty_prompt_is_allowed() -> None:
    assert requests(prompt__text="")[0].prompt.text == ""


def test_size_sets_both_sides() -> None:
    (request,) = requests(size="512x768", prompt__text="")
    assert request.canvas == Canvas(width=512, height=768)


@pytest.mark.parametrize("size", ["512", "x", "512x", "axb", "-8x8", "8x8x8", "9" * 50 + "x8", ""])
def test_a_size_of_another_form_is_refused(size: str) -> None:
    with pytest.raises(RequestError, match="512x768"):
        requests(size=size, prompt__text="")


def test_a_size_beside_a_width_is_refused() -> None:
    with pytest.raises(RequestError, match="one or the other"):
        requests(size="8x8", canvas__width=8, prompt__text="")


def test_a_file_gives_one_request_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\n  a dog, é  \n".encode())
    assert [request.prompt.text for request in requests(prompts_file=path)] == ["a cat", "a dog, é"]


@pytest.mark.parametrize("given", [{"prompt__text": "-"}, {"prompts_file": Path("-")}])
def test_a_dash_reads_standard_input(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a cat\na dog\n")))
    assert [request.prompt.text for request in requests(**given)] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"\xff\xfe", "UTF-8"), (b"\n \n", "no prompt"), (b"a" * (MAX_PROMPTS_BYTES + 1), "more than")],
    ids=["bytes", "blank", "endless"],
)
def test_files_that_hold_no_prompts_are_refused(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=named):
        requests(prompts_file=path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(RequestError, match=str(path)):
            requests(prompts_file=path)


def test_one_source_of_prompts_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no prompt"):
        requests()
    with pytest.raises(RequestError, match="one or the other"):
        requests(prompt__text="a cat", prompts_file=tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hires__scale": 3.0}, "--hires-scale has no effect without --hires;"),
        ({"hires__enabled": False, "hires__steps": 3}, "--hires-steps has no effect without --hires;"),
        ({"mask__padding": 8}, "--mask-padding has no effect without --mask;"),
        ({"mask__overlay": False}, "--overlay has no effect without --mask;"),
        ({"mask__padding": 8, "outpaint__left": 64}, "--mask-padding has no effect without --mask;"),
        ({"soft__enabled": True}, "--soft has no effect without --mask or"),
        (
            {"soft__schedule_bias": 1.0, "mask__image": Path("m.png")},
            "--soft-bias has no effect without --so",
        ),
        ({"refiner__switch_at": 0.5}, "--refiner-switch-at has no effect without --refiner;"),
        ({"outpaint__falloff": 1.0}, "--outpaint-falloff has no effect without --left or --right or"),
        ({"variation__seed": 4}, "--variation-seed has no effect without --variation-strength;"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        requests(prompt__text="a", **given)


def test_options_with_what_they_need_are_taken(tmp_path: Path) -> None:
    requests(prompt__text="a", hires__enabled=True, hires__scale=3.0)
    requests(prompt__text="a", mask__image=Path("m.png"), mask__padding=8, soft__enabled=True)
    requests(prompt__text="a", outpaint__left=64, outpaint__falloff=2.0, soft__enabled=True)
    requests(prompt__text="a", mask__conditioning_weight=0.5, mask__invert=False)
    requests(prompt__text="a", variation__strength=0.5, variation__seed=4, hires__enabled=False)
    lines = tmp_path / "prompts.txt"  # whose lines may ask for the second pass
    lines.write_text("a cat\n", "utf-8")
    assert requests(prompts_file=lines, hires__scale=3.0)[0].hires.scale == 3.0


def test_every_part_that_needs_something_is_there() -> None:
    known = {flag.field for flag in (*REQUEST_FLAGS, *SOURCE_FLAGS)}
    for name, needed in NEEDS.items():
        assert set(needed) <= known
        assert name in known or any(field.startswith(f"{name}.") for field in known)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"variation__from_width": 99999}, "^--resize-seed-width=99999 is outside"),
        ({"levels__sigma_min": 2.0, "levels__sigma_max": 1.0}, "^--sigma-min=2.0 is not below --sigma-max=1"),
        ({"canvas__batch_count": 0}, "^--batch-count=0 is outside"),
        ({"source__denoising_strength": 3.0}, "^--denoise=3.0 is outside"),
        ({"canvas__noise_source": "x"}, "^--noise-source='x'"),
    ],
)
def test_errors_name_what_was_typed(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        requests(prompt__text="a", **given)
