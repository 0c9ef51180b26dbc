"""From a command line to a picture's file and back, with a checkpoint of random weights."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import run
from sfumato.pipeline import images, metadata
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Sampling, Solver


@pytest.fixture(autouse=True)
def settings(home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_MODELS", str(tiny_checkpoint.parent))
    monkeypatch.setenv("SFUMATO_DTYPE", "float32")
    monkeypatch.setenv("SFUMATO_DEVICE", "cpu")


def made(capsys: pytest.CaptureFixture[str]) -> list[Path]:
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def test_a_prompt_becomes_a_picture_that_remembers_it(capsys: pytest.CaptureFixture[str]) -> None:
    line = "txt2img|a cat, (red:1.2)|-n|blurry|--model|tiny|--steps|2|--sampler|euler a|--seed|7|--size|64x48"
    line += "|--guidance|4.5|--eta|0.5|--clip-skip|2|--emphasis|no NORM|--guidance-rescale|0.25"
    line += "|--noise-source|cpu"
    assert run(line.split("|")) == 0
    (path,) = made(capsys)
    assert path == Path("outputs/00001-7.png")
    assert images.open_image(path).size == (64, 48)
    infotext = images.read_infotext(path)
    assert infotext is not None
    assert metadata.read(infotext) == Request(
        prompt=Prompt(text="a cat, (red:1.2)", negative="blurry", clip_skip=2, emphasis="No norm"),
        sampling=Sampling(
            sampler="Euler a", schedule="Automatic", steps=2, guidance=4.5, guidance_rescale=0.25
        ),
        solver=Solver(eta=0.5),
        canvas=Canvas(width=64, height=48, seed=7, noise_source="cpu"),
        model=ModelChoice(checkpoint="tiny"),
    )


@pytest.mark.parametrize("spelling", ["jpeg", "JPG"])
def test_a_file_format_may_be_spelled_otherwise(spelling: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "1", "--seed", "7", "--format", spelling]) == 0
    assert made(capsys) == [Path("outputs/00001-7.jpg")]


def test_a_picture_is_made_again_from_its_own_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "2"]) == 0
    (first,) = made(capsys)
    request = metadata.read(images.read_infotext(first) or "")
    seed, canvas = str(request.canvas.seed), request.canvas
    size = f"{canvas.width}x{canvas.height}"
    line = ["txt2img", request.prompt.text, "-m", str(request.model.checkpoint), "--steps", "2"]
    assert run([*line, "--schedule", request.sampling.schedule, "--seed", seed, "--size", size]) == 0
    (second,) = made(capsys)
    assert second != first
    assert second.read_bytes() == first.read_bytes()


def test_batches_equal_single_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    common = ["txt2img", "a cat", "-m", "tiny", "--steps", "3", "--sampler", "DPM++ 2M SDE"]
    assert run([*common, "--seed", "5", "--batch-size", "2", "--batch-count", "2"]) == 0
    batch = made(capsys)
    for seed in range(5, 9):
        assert run([*common, "--seed", str(seed)]) == 0
    for together, alone in zip(batch, made(capsys), strict=True):
        pixels = [np.asarray(images.open_image(path)).astype(int) for path in (together, alone)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1  # sums are taken in another order
        assert images.read_infotext(together) == images.read_infotext(alone)


def test_every_line_of_a_file_becomes_a_picture_and_a_grid(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "prompts.txt").write_text("a cat\na dog\n")
    line = ["txt2img", "--prompts-file", "prompts.txt", "-m", "tiny", "--steps", "1", "--seed", "3"]
    assert run([*line, "-c", "2", "--grid", "--format", "webp", "-o", "here/there"]) == 0
    paths = made(capsys)
    labels = ["00001-3", "00002-4", "00003-grid", "00004-3", "00005-4", "00006-grid"]
    assert [path.name for path in paths] == [f"{label}.webp" for label in labels]
    assert images.open_image(paths[2]).size == (128, 64)
    prompts = [metadata.read(images.read_infotext(path) or "").prompt.text for path in paths]
    assert prompts == ["a cat"] * 3 + ["a dog"] * 3


def test_json_says_what_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["txt2img", "", "-m", "tiny", "--steps", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert images.read_infotext(Path(answer["path"])) == answer["infotext"]
    assert answer["seconds"] > 0


def test_info_prints_what_a_picture_carries(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "1"]) == 0
    (path,) = made(capsys)
    assert run(["info", str(path)]) == 0
    assert capsys.readouterr().out == (images.read_infotext(path) or "") + "\n"
    assert run(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["prompt"]["text"] == "a cat"


WRONG = {
    "unknown sampler": (["--sampler", "Eulr"], "did you mean Euler"),
    "unknown schedule": (["--schedule", "Karas"], "did you mean Karras"),
    "zero steps": (["--steps", "0"], "steps=0"),
    "too many steps": (["--steps", "1001"], "steps=1001"),
    "steps that are none": (["--steps", "many"], "many"),
    "size": (["--width", "63"], "try 64"),
    "size that is none": (["--size", "big"], "512x768"),
    "guidance": (["--guidance", "-1"], "guidance=-1.0"),
    "rescale": (["--guidance-rescale", "2"], "--guidance-rescale=2.0"),
    "eta": (["--eta", "2"], "eta=2.0"),
    "seed": (["--seed", "-2"], "seed=-2"),
    "batch": (["--batch-size", "0"], "--batch-size=0"),
    "batches": (["--batch-count", "0"], "--batch-count=0"),
    "noise": (["--noise-source", "dice"], "philox, cpu"),
    "clip skip": (["--clip-skip", "13"], "--clip-skip=13"),
    "emphasis": (["--emphasis", "loud"], "None, Ignore, Original, No norm"),
    "missing model": (["--model", "tinny"], "tinny"),
    "missing vae": (["--vae", "none"], "none"),
    "format": (["--format", "gif"], "png, jpg, webp"),
    "device": (["--device", "cuda:7"], "cuda:7"),
    "no such device": (["--device", "tpu"], "tpu"),
    "dtype": (["--dtype", "int8"], "int8"),
    "threads": (["--threads", "0"], "threads"),
    "missing prompt file": (["--prompts-file", "none.txt"], "none.txt"),
    "unknown option": (["--stepz", "3"], "--stepz"),
    "memory": (["--size", "16384x16384", "--batch-size", "64"], "GiB are free"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_line_and_nothing_is_written(
    home: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    given, named = WRONG[name]
    prompt = [] if name == "missing prompt file" else ["a cat"]
    model = [] if "--model" in given else ["-m", "tiny"]
    assert run(["txt2img", *prompt, *model, *given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert named in captured.err
    assert list(home.iterdir()) == []


def test_an_output_folder_that_cannot_be_made_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").touch()
    assert run(["txt2img", "a cat", "-m", "tiny", "-o", "file/out"]) == 2
    assert "file" in capsys.readouterr().err


def test_a_full_disk_leaves_no_partial_file(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "1"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert list((home / "outputs").iterdir()) == []


def test_stopping_ends_within_one_step_and_leaves_no_partial_file(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.pipeline.models import Models

    calls = []
    predict = Models.predict

    def interrupted(self: Models, *args: object, **told: object) -> object:
        calls.append(len(calls))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C would, in the middle of the third step
        return predict(self, *args, **told)  # type: ignore[arg-type]

    monkeypatch.setattr(Models, "predict", interrupted)
    assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "10"]) == 130
    assert len(calls) == 3
    assert capsys.readouterr().out == ""
    assert list(home.iterdir()) == []


def test_a_stopped_process_says_130(tiny_checkpoint: Path, home: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "sfumato.cli",
        "txt2img",
        "a cat",
        "-m",
        "tiny",
        "--steps",
        "1",
        "-c",
        "10000",
    ]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # a picture is done; more are on their way
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert process.returncode == 130
    assert errors == "stopped\n"
    listed = sorted((first + rest).split())
    assert listed == sorted(str(path.relative_to(home)) for path in (home / "outputs").iterdir())
    for path in listed:
        with Image.open(path) as image:
            image.load()


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from sfumato.cli import run; code = run(sys.argv[1:]);"
        "assert not {'torch', 'PIL', 'pydantic_settings', 'numpy'} & set(sys.modules); sys.exit(code)"
    )
    for arguments in (["--help"], ["txt2img", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout
        assert done.stderr == ""


def test_patterns_name_files_and_folders(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["txt2img", "a/cat", "-m", "tiny", "--steps", "1", "--seed", "7", "--batch-size", "2"]
    patterns = [
        "--name-pattern",
        "[prompt_words]-[seed_last]-[batch_number]",
        "--folder-pattern",
        "x/[prompt]",
    ]
    assert run([*line, *patterns]) == 0
    folder = Path("outputs/x/a_cat")
    assert made(capsys) == [folder / "00001-a cat-8-1.png", folder / "00002-a cat-8-2.png"]
    assert run([*line, "--name-pattern", "[sed]"]) == 2
    assert "[sed] is no token" in capsys.readouterr().err
