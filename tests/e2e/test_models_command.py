"""The models folder from the command line."""

import json
import shutil
from pathlib import Path

import pytest

from sfumato.cli import run
from sfumato.weights import hub
from sfumato.weights.files import file_sha256


@pytest.fixture(autouse=True)
def models(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFUMATO_MODELS", str(home / "models"))
    return home / "models"


def test_a_model_is_added_listed_and_described(
    models: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "list"]) == 0
    assert capsys.readouterr().out.startswith("sfumato-mini: checkpoint, sfumato-mini, v-prediction, 128 px")
    assert run(["models", "add", str(tiny_checkpoint)]) == 0
    assert file_sha256(models / tiny_checkpoint.name) == file_sha256(tiny_checkpoint)
    assert run(["models", "list"]) == 0
    assert (
        capsys.readouterr().out.splitlines()[-1].startswith("tiny: checkpoint, tiny, eps-prediction, 64 px")
    )
    assert run(["models", "list", "--json"]) == 0
    _, listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (listed["name"], listed["native_size"]) == ("tiny", 64)
    assert run(["models", "info", "tiny"]) == 0
    told = capsys.readouterr().out
    assert "family: tiny\n" in told
    assert "\n      unet:\n        attention_levels: [1]\n" in told  # no JSON within JSON
    assert run(["models", "info", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "checkpoint"


def test_a_model_goes_to_a_folder_and_back(
    home: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "convert", str(tiny_checkpoint), "folder"]) == 0
    assert run(["models", "convert", "folder", "again.safetensors", "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == "folder\nagain.safetensors\n"
    assert (home / "again.safetensors").stat().st_size < tiny_checkpoint.stat().st_size
    assert run(["txt2img", "a cat", "-m", "again.safetensors", "--steps", "1"]) == 0


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("models add none.safetensors", "none.safetensors"),
        ("models info none", "none"),
        ("models info {broken}", "README.md is not a usable safetensors file"),
        ("models info {broken} --json", "README.md is not a usable safetensors file"),
        ("models add {tiny} --name sfumato-mini", "give yours another --name"),
        ("models convert sfumato-mini out.ckpt", "out.ckpt"),
        ("models convert none out", "none"),
        ("models convert none out --dtype int8", "int8"),
        ("models convert none out --prediction x", "eps, v"),
        ("info none.png", "none.png"),
        ("train none.toml", "none.toml"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    home: Path,
    tmp_path: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    line: str,
    named: str,
) -> None:
    broken = tmp_path / "README.md"
    broken.write_text("# Not a model\n")
    assert run(line.format(broken=broken, tiny=tiny_checkpoint).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert named in captured.err
    assert list(home.iterdir()) == []


def test_pull_prints_where_the_model_is(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pulled(repo: str, file: str | None, *, folder: Path) -> list[hub.PullStep]:
        asked.append((repo, file, folder))
        done = [hub.PullStep(file="x", done=k, total=2) for k in range(2)]
        return [*done, hub.PullStep(file="x", done=2, total=2, path=folder / "x")]

    monkeypatch.setattr(hub, "pull", pulled)
    assert run(["pull", "owner/name", "x"]) == 0
    assert asked == [("owner/name", "x", models)]
    assert capsys.readouterr().out == f"{models / 'x'}\n"


def test_another_programs_folder_is_looked_at_used_and_let_go(
    home: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = home / "webui" / "models" / "Stable-diffusion"
    place.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, place / "dream.safetensors")
    folders = ["models", "folders"]
    assert run([*folders, "add", str(home / "webui"), "--look"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"AUTOMATIC1111, {home / 'webui'}")
    assert "  1 checkpoints in Stable-diffusion, 0.00 GB" in told
    assert run([*folders, "list"]) == 0
    assert capsys.readouterr().out == ""
    assert run([*folders, "add", str(home / "webui"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["name"], answer["places"][0]["files"]) == ("webui", 1)
    assert run(["models", "info", "webui/Stable-diffusion/dream"]) == 0
    assert run([*folders, "remove", "webui"]) == 0
    assert run(["models", "info", "dream"]) == 2
    assert (place / "dream.safetensors").is_file()
