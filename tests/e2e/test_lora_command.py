"""`sfumato lora …`: from files to files, and what comes of them in a picture."""

import json
from pathlib import Path

import pytest
from tests.weights.adapters.conftest import kohya_lora

from sfumato.cli import run
from sfumato.weights.adapters.read import read_adapter
from sfumato.weights.files import write_safetensors


@pytest.fixture(autouse=True)
def folder(home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = home / "models"
    folder.mkdir()
    (folder / "tiny.safetensors").symlink_to(tiny_checkpoint)
    for seed, name in enumerate(("fur", "oil")):
        write_safetensors(folder / f"{name}.safetensors", kohya_lora(seed=seed, rank=3))
    for key, value in {"MODELS": folder, "DTYPE": "float32", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"SFUMATO_{key}", str(value))
    return folder


def pixels(prompt: str, model: str = "tiny") -> bytes:
    line = ["txt2img", prompt, "-m", model, "--steps", "1", "--seed", "1", "--size", "32x32", "--no-show"]
    before = set(Path("outputs").glob("*.png"))
    assert run([*line, "--sampler", "Euler"]) == 0
    (path,) = set(Path("outputs").glob("*.png")) - before
    from PIL import Image

    return Image.open(path).tobytes()


def test_a_baked_checkpoint_makes_the_picture_that_the_tag_makes(folder: Path) -> None:
    assert run(["lora", "bake", "tiny", "fur:0.5:0.8", "oil", "--to", str(folder / "baked.safetensors")]) == 0
    worn = pixels("a cat<lora:fur:0.5:0.8><lora:oil:1>")
    baked = pixels("a cat", "baked")
    assert max(abs(a - b) for a, b in zip(worn, baked, strict=True)) <= 1  # rounded to bytes
    assert worn != pixels("a cat")


def test_each_tool_writes_a_file_and_says_where(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lora", "bake", "tiny", "fur", "--to", "baked.safetensors"]) == 0
    lines = {
        "sum": ["merge", "fur:0.5", "oil:-1", "--model", "tiny"],
        "small": ["resize", "fur", "--rank", "2", "--model", "tiny"],
        "peft": ["convert", "fur", "--layout", "peft", "--model", "tiny"],
        "found": ["extract", "tiny", "./baked.safetensors", "--rank", "3", "--dtype", "float32"],
    }
    for name, line in lines.items():
        capsys.readouterr()
        assert run(["lora", *line, "--to", f"{name}.safetensors"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"{name}.safetensors"
    ranks = {
        name: {p.rank for p in read_adapter(Path(f"{name}.safetensors")).pieces.values()} for name in lines
    }
    assert ranks == {"sum": {6}, "small": {2}, "peft": {3}, "found": {3}}


def test_what_an_adapter_is_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lora", "info", "fur", "--model", "tiny", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["modules"] == {"unet": 48, "text": 12}
    assert (said["kinds"], said["ranks"], said["unmatched"]) == ({"lora": 60}, {"3": 60}, [])
    assert run(["models", "list"]) == 0
    assert "fur: LoRA" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["merge", "fur:x", "--to", "a.safetensors", "--model", "tiny"], "NAME:WEIGHT"),
        (["merge", "fur", "--to", "a.safetensors"], "--model"),
        (["resize", "fur", "--to", "a.pt", "--model", "tiny"], ".safetensors"),
        (["resize", "fur", "--to", "a.safetensors", "--model", "tiny", "--rank", "0"], "rank=0"),
        (["convert", "fur", "--to", "a.safetensors", "--model", "tiny", "--layout", "b"], "kohya, peft"),
        (["bake", "tiny", "nothing", "--to", "a.safetensors"], "no model"),
        (["extract", "tiny", "tiny", "--to", "a.safetensors"], "does not differ"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lora", *line]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not Path("a.safetensors").exists()
