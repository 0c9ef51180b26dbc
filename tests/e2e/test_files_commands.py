"""What a picture says of itself, and whether it can be made again, from the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.cli import run
from sfumato.pipeline import images


@pytest.fixture(autouse=True)
def settings(home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_MODELS", str(tiny_checkpoint.parent))
    monkeypatch.setenv("SFUMATO_DTYPE", "float32")
    monkeypatch.setenv("SFUMATO_DEVICE", "cpu")


@pytest.fixture
def picture(capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "2", "--seed", "7"]) == 0
    return Path(capsys.readouterr().out.strip())


def with_text(path: Path, infotext: str) -> Path:
    """The same pixels with other parameters."""
    chunks = PngInfo()
    chunks.add_text("parameters", infotext)
    images.open_image(path).save(path.with_stem("changed"), pnginfo=chunks)
    return path.with_stem("changed")


def test_info_says_who_wrote_it(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(picture)]) == 0
    said = capsys.readouterr()
    assert said.out == (images.read_infotext(picture) or "") + "\n"
    assert said.err.startswith("written by Sfumato ")
    assert run(["info", str(picture), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["request"]["canvas"]["seed"] == 7
    assert (answer["notes"], answer["fault"]) == ([], "")


def test_info_of_a_picture_without_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    assert run(["info", "plain.png"]) == 2
    assert capsys.readouterr().err == "error: plain.png: carries no generation parameters\n"


def test_info_of_parameters_beyond_reason(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_text(picture, "<script>\x1b[31m\nSteps: 1000000000, Sampler: a, Seed: 1")
    assert run(["info", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["request"] is None
    assert "steps=1000000000" in answer["fault"]


def test_replay_makes_the_same_picture(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(picture)]) == 0
    assert capsys.readouterr().out == "the same, every pixel\n"


def test_replay_says_that_and_why_it_differs(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = images.read_infotext(picture) or ""
    digits = text.partition("Model hash: ")[2][:10]
    path = with_text(picture, text.replace("Seed: 7", "Seed: 8").replace(digits, "0" * 10))
    assert run(["replay", str(path), "--json", "--keep"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert 0 < answer["largest"] <= 255
    assert answer["reasons"] == [f"Model hash: then 0000000000, now {digits}"]
    assert "Seed: 8" in (images.read_infotext(Path(answer["path"])) or "")


def test_replay_of_nothing_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    assert run(["replay", "plain.png"]) == 2
    assert run(["replay", "missing.png"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_replay_of_a_picture_made_from_others_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    for name, shade in (("source.png", 90), ("other.png", 200)):
        Image.linear_gradient("L").resize((64, 64)).point(lambda v, s=shade: v // 2 + s // 2).convert(
            "RGB"
        ).save(name)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save("mask.png")
    line = ["img2img", "source.png", "a cat", "-m", "tiny", "--steps", "2", "--mask", "mask.png"]
    assert run([*line, "--mask-blur-x", "2", "--mask-content", "latent noise"]) == 0
    path = capsys.readouterr().out.strip()
    assert run(["replay", path]) == 2
    assert "--source" in capsys.readouterr().err
    assert run(["replay", path, "--source", "source.png", "--mask", "mask.png"]) == 0
    assert run(["replay", path, "--source", "other.png", "--mask", "mask.png"]) == 1
    assert "Init image hash: then " in capsys.readouterr().out


@pytest.mark.parametrize(
    "more", [["--hires", "--hires-scale", "2"], ["--variation-strength", "0.3"], ["--tiling"]]
)
def test_replay_of_every_kind_of_request(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "2", "--batch-size", "2", *more]) == 0
    for path in capsys.readouterr().out.split():
        assert run(["replay", path]) in (0, 1)
        said = capsys.readouterr().out
        assert said.startswith("the same") or "up to 1/255" in said, said
