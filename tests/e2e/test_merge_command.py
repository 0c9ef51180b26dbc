"""Merging from the command line."""

import json
from pathlib import Path

import pytest

from sfumato.cli import run
from sfumato.weights.files import read_header


@pytest.fixture(autouse=True)
def models(home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFUMATO_MODELS", str(home / "models"))
    (home / "models").mkdir()
    for name in ("a", "b"):
        (home / "models" / f"{name}.safetensors").symlink_to(tiny_checkpoint)
    return home / "models"


def test_two_models_become_a_third(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "merge", "a", "b", "--multiplier", "0.25", "--dtype", "float16"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == models / "0.75(a) + 0.25(b).safetensors"
    assert json.loads(read_header(path).metadata["sd_merge_recipe"])["multiplier"] == 0.25
    assert run(["txt2img", "a cat", "-m", path.stem, "--steps", "1"]) == 0


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        (["a"], "2 checkpoints"),
        (["a", "b", "--block-weights", "1,2"], "BLOCK"),
        (["a", "b", "--block-weights", "x"], "not numbers"),
        (["a", "b", "--dtype", "int8"], "dtype"),
        (["a", "b", "--to", "missing/m.safetensors"], "missing/m.safetensors"),
        (["a", "nothing"], "nothing"),
    ],
)
def test_what_cannot_be_merged_is_one_line(
    rest: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "merge", *rest]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named.casefold() in error.casefold() or "outside" in error
