import hashlib
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline import filenames, metadata
from sfumato.pipeline.filenames import MAX_BYTES, TOKENS, Made, file_label, folder, safe_name
from sfumato.types import Canvas, Hires, ModelChoice, Prompt, Request, Result, Sampling, Source, Variation

REQUEST = Request(
    prompt=Prompt(text="A cat, by (Monet:1.2)", negative="blurry", clip_skip=2),
    sampling=Sampling(sampler="Euler a", schedule="Karras", steps=12, guidance=6.5),
    canvas=Canvas(width=64, height=48, seed=7),
    model=ModelChoice(checkpoint="anime/dream", vae="soft"),
)
NOON = datetime(2024, 2, 29, 12, 0, 5, tzinfo=UTC)


def made(request: Request = REQUEST, index: int = 0, whole: Request | None = None) -> Made:
    image = Image.new("RGB", (64, 48), (1, 2, 3))
    text = metadata.write(request, model_hash="abcdef0123456789")
    result = Result(image=image, request=request, infotext=text, index=index, seconds=1.0)
    return Made(result=result, whole=whole, began=NOON, now=NOON)


def sha(text: bytes | str, digits: int = 8) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:digits]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[seed]", "7"),
        ("[steps]-[cfg]-[width]x[height]", "12-6.5-64x48"),
        ("[sampler]|[scheduler]|[sampler_scheduler]", "Euler a_Karras_Euler a Karras"),
        ("[model_hash] [model_name] [vae_filename]", "abcdef0123 anime_dream soft"),
        ("[date] [datetime] [job_timestamp]", "2024-02-29 20240229120005 20240229120005"),
        ("[datetime<%H.%M><Asia/Tokyo>]", "21.00"),
        ("[prompt]", "A_cat,_by_(Monet_1.2)"),
        ("[prompt_spaces]", "A cat, by (Monet_1.2)"),
        ("[prompt_words]", "A cat by Monet 1 2"),
        ("[prompt_hash]", sha("A cat, by (Monet:1.2)")),
        ("[prompt_hash<12>]", sha("A cat, by (Monet:1.2)", 12)),
        ("[negative_prompt_hash]", sha("blurry")),
        ("[full_prompt_hash]", sha("A cat, by (Monet:1.2) blurry")),
        ("[image_hash]", sha(bytes((1, 2, 3)) * 64 * 48)),
        ("[hasprompt<cat|dog><tree|bush><CAR>]", "catbush"),
        ("[clip_skip][none][user]", "2"),
        ("[styles]", "None"),
        ("a[b]", None),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_tokens_stand_for_what_the_web_ui_says(pattern: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(RequestError, match=r"\[b\] is no token"):
            file_label(pattern, made())
    else:
        assert file_label(pattern, made()) == expected


def test_numbers_of_a_batch() -> None:
    whole = replace(REQUEST, canvas=replace(REQUEST.canvas, batch_size=3, batch_count=2))
    fourth = made(replace(REQUEST, canvas=replace(REQUEST.canvas, seed=10)), index=3, whole=whole)
    pattern = "[seed]-[seed_first]-[seed_last]-[batch_number]-[batch_size]-[generation_number]"
    assert file_label(pattern, fourth) == "10-7-12-1-3-4"
    varied = replace(REQUEST, variation=Variation(seed=1, strength=0.5))
    assert file_label("[seed_first]-[seed_last]", made(varied, index=3, whole=whole)) == "7-7"


def test_a_single_picture_takes_the_text_before_its_number_away() -> None:
    assert file_label("[seed]-[seed_last] [batch_number]_[generation_number]x", made()) == "7x"


def test_the_basename_is_the_sources() -> None:
    source = Source(image=Path("summer/holiday.jpg"))
    assert file_label("[basename]", made(replace(REQUEST, source=source))) == "holiday"
    assert file_label("[basename]", made()) == ""


def test_denoising_is_that_of_the_second_pass_or_of_the_source() -> None:
    assert file_label("[denoising]", made()) == ""
    assert file_label("[denoising]", made(replace(REQUEST, hires=Hires(enabled=True)))) == "0.7"
    assert file_label("[denoising]", made(replace(REQUEST, source=Source(image=Path("a.png"))))) == "0.75"


def test_folders_are_separated_by_the_pattern_alone() -> None:
    assert folder("[date]/[model_name]\\x", made()) == Path("2024-02-29/anime_dream/x")
    assert folder("", made()) == Path(".")
    assert folder("/../[none]/./~/..", made()) == Path("_~")


HOSTILE = (
    "../../etc/passwd", "..\\..\\x", "/etc/passwd", "C:\\x", "\\\\?\\x", "~", "file:///x", "a\0b", "a. . ",
    "CON", "nul.png", "COM¹", "a:b", "x" * 10_000, "👩‍👩‍👧" * 100, "e\u0301" * 300, "a\nb", "-rf", ".", "",
    "\u202egpj.exe", "\ud800", "\u2028", "\x1b[31m", " lead", "trail.", "[seed]", "%2e%2e%2f",
    "\ufffe", "\ue000",
)  # fmt: skip


@given(st.text(st.characters(), max_size=300))
@example("lpt1.txt")
def test_every_text_becomes_a_safe_name(text: str) -> None:
    name = safe_name(text)
    assert len(name.encode("utf-8")) <= MAX_BYTES + 1
    assert not re.search(r'[#<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]', name)
    assert name == name.strip(" .")
    assert not name.startswith(("-", "~"))
    if name:
        assert not PureWindowsPath(name).is_reserved()
        assert PureWindowsPath(name).parts == (name,)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_prompts_name_a_file_in_its_folder(text: str, tmp_path: Path) -> None:
    hostile = made(replace(REQUEST, prompt=Prompt(text=text), model=ModelChoice(checkpoint=text or None)))
    label = file_label("[prompt]", hostile)
    below = folder("[prompt_spaces]/[model_name]", hostile)
    place = (tmp_path / below).resolve()
    assert place == tmp_path or tmp_path in place.parents
    place.mkdir(parents=True, exist_ok=True)
    (place / f"00001-{label}.webp").touch()
    assert os.listdir(place) == [f"00001-{label}.webp"]


@given(st.sampled_from(sorted(TOKENS)), st.text(st.characters(), max_size=40))
def test_no_token_leaves_its_folder(token: str, text: str) -> None:
    hostile = made(replace(REQUEST, prompt=Prompt(text=text), sampling=Sampling(sampler=text)))
    parts = folder(f"[{token}]", hostile).parts
    assert len(parts) <= 1
    assert ".." not in parts


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("[sed]", "no token"),
        ("[datetime<%Y><Nowhere/City>]", "time zone"),
        ("[datetime<%Y><../../etc/passwd>]", "time zone"),
        ("x" * 1001, "at most"),
        ("a/" * 9, "folders"),
    ],
)
def test_patterns_are_refused_before_any_work(pattern: str, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        filenames.Naming(folder=pattern, began=NOON)
