"""The commands that make many pictures from one request, with a checkpoint of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import run
from sfumato.pipeline import images, infotext


@pytest.fixture(autouse=True)
def settings(home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_MODELS", str(tiny_checkpoint.parent))
    monkeypatch.setenv("SFUMATO_DTYPE", "float32")
    monkeypatch.setenv("SFUMATO_DEVICE", "cpu")


TINY = ["-m", "tiny", "--steps", "1", "--size", "64x64"]


def made(capsys: pytest.CaptureFixture[str]) -> list[Path]:
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def failed(capsys: pytest.CaptureFixture[str], line: list[str]) -> str:
    assert run(line) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert not Path("outputs").exists()
    return said.err


def said(capsys: pytest.CaptureFixture[str], line: list[str]) -> str:
    capsys.readouterr()
    assert run(line) == 2
    return capsys.readouterr().err


def pixels(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(images.open_image(path)).astype(int)


def test_a_plot_holds_the_pictures_that_its_values_make_alone(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["xyz", "a red cat", *TINY, "--x", "Seed=3-4", "--y", "Prompt S/R=red,blue", "--no-legend"]
    assert run([*line, "--cells"]) == 0
    *cells, sheet = made(capsys)
    whole = pixels(sheet)
    for place, cell in enumerate(cells):
        row, column = divmod(place, 2)
        assert (whole[row * 64 :, column * 64 :][:64, :64] == pixels(cell)).all()
    assert run(["txt2img", "a blue cat", *TINY, "--seed", "4"]) == 0
    (alone,) = made(capsys)
    assert (pixels(alone) == pixels(cells[3])).all()
    assert images.read_infotext(alone) == images.read_infotext(cells[3])
    assert infotext.parse(images.read_infotext(sheet) or "").text("Y Values") == "red,blue"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--x", "Sampler=Euler a,Eulr"], "did you mean Euler"),
        (["--x", "Steps=1,0"], "steps=0"),
        (["--x", "Steps"], "AXIS=VALUES"),
        (["--x", "Stps=1"], "did you mean Steps"),
        (["--x", "Checkpoint name=tiny,tini"], "tiny"),
        (["--x", "Seed=1-1000", "--y", "CFG Scale=1-1000"], "1,000,000 cells"),
        (["--margin", "-1"], "margin=-1"),
    ],
)
def test_a_plot_that_cannot_be_finished_is_not_begun(
    capsys: pytest.CaptureFixture[str], given: list[str], named: str
) -> None:
    assert named in failed(capsys, ["xyz", "a cat", *TINY, *given])


def test_a_plot_too_large_says_how_long_it_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(capsys, ["xyz", "a cat", *TINY, "--x", "Seed=1-1000", "--y", "CFG Scale=1-1000"])
    assert any(unit in said for unit in ("seconds", "minutes", "hours", "days"))


def test_a_plot_of_a_source_varies_what_is_kept_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), "red").save("red.png")
    line = ["xyz", "a cat", "-m", "tiny", "--steps", "2", "--source", "red.png", "--cells"]
    assert run([*line, "--x", "Denoising=0.2,0.9", "--seed", "1"]) == 0
    *cells, _sheet = made(capsys)
    told = [infotext.parse(images.read_infotext(cell) or "").text("Denoising strength") for cell in cells]
    assert told == ["0.2", "0.9"]


def test_sheets_too_long_for_their_file_are_refused_first(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["xyz", "a cat", *TINY, "--x", "Seed=1-300", "--format", "webp"]
    assert "16383 pixels" in failed(capsys, line)


def test_a_matrix_combines_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["matrix", "a cat|night|oil", *TINY, "--seed", "1", "--cells"]) == 0
    *cells, _sheet = made(capsys)
    prompts = [infotext.parse(images.read_infotext(cell) or "").prompt for cell in cells]
    assert prompts == ["a cat", "a cat, night", "a cat, oil", "a cat, night, oil"]


def test_a_batch_goes_on_where_it_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ['{"prompt": "a", "sd_model": "tiny", "steps": 1, "seed": %d}' % seed for seed in (1, 2)]  # noqa: UP031
    Path("rows.jsonl").write_text("\n".join([rows[0], '{"promt": "b"}', rows[1]]))
    assert run(["batch", "rows.jsonl", "-o", "out"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == ["out/00001-1.png", "out/00002-2.png"]
    assert "row 2: 'promt'" in said.err
    Path("out/00001-1.png").unlink()
    assert run(["batch", "rows.jsonl", "-o", "out", "--json"]) == 1
    (answer,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "Seed: 1," in answer["infotext"]


def test_loopback_and_sd_upscale_start_from_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), "red").save("red.png")
    line = ["red.png", "a cat", "-m", "tiny", "--steps", "2", "--seed", "5"]
    assert run(["loopback", *line, "--loops", "3"]) == 0
    assert [path.name for path in made(capsys)] == ["00001-5.png", "00002-6.png", "00003-7.png"]
    assert run(["sd-upscale", *line, "--scale", "1.5", "--overlap", "16"]) == 0
    (path,) = made(capsys)
    assert images.open_image(path).size == (96, 96)


@pytest.mark.parametrize("file_format", ["webp", "gif", "mp4"])
def test_frames_lead_from_one_end_to_the_other(capsys: pytest.CaptureFixture[str], file_format: str) -> None:
    way = ["--to-prompt", "a dog", "--to-seed", "9", "--frames", "3", "--cells", "--format", file_format]
    assert run(["interpolate", "a cat", *TINY, "--seed", "3", *way]) == 0
    *frames, moving = made(capsys)
    assert moving.name == f"00004-frames.{file_format}"
    assert run(["txt2img", "a cat", *TINY, "--seed", "3"]) == 0
    assert run(["txt2img", "a dog", *TINY, "--seed", "9"]) == 0
    ends = made(capsys)
    for frame, end in zip((frames[0], frames[2]), ends, strict=True):
        assert np.abs(pixels(frame) - pixels(end)).max() <= 1  # the same arithmetic, in another order
    assert all(np.abs(pixels(frames[1]) - pixels(end)).max() > 1 for end in ends)


def test_a_way_to_nowhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere to go" in failed(capsys, ["interpolate", "a cat", *TINY])
    assert "gif, webp, mp4" in failed(
        capsys, ["interpolate", "a cat", *TINY, "--to-seed", "1", "--format", "avi"]
    )


def test_styles_dynamic_prompts_and_options_meet_in_txt2img(capsys: pytest.CaptureFixture[str]) -> None:
    Path("styles.csv").write_text("name,prompt,negative_prompt\noil,oil of {prompt},photo\n")
    Path("words").mkdir()
    Path("words/animal.txt").write_text("cat\ndog\n")
    Path("jobs.txt").write_text("# two jobs\n--prompt __animal__ --seed 4\nplain\n")
    line = ["txt2img", "--prompts-file", "jobs.txt", *TINY, "--style", "oil", "--styles", "styles.csv"]
    assert run([*line, "--dynamic", "all", "--wildcards", "words"]) == 0
    told = [infotext.parse(images.read_infotext(path) or "") for path in made(capsys)]
    assert [each.prompt for each in told] == ["oil of cat", "oil of dog", "oil of plain"]
    assert [each.negative for each in told] == ["photo"] * 3
    assert [each.text("Seed") for each in told[:2]] == ["4", "4"]
    assert run([*line, "x", "--insert", "middle"]) == 2
    Path("jobs.txt").write_text("plain\n--stps 3\n")
    assert "jobs.txt, line 2: 'stps'" in said(capsys, line)
    capsys.readouterr()
    assert run(["txt2img", "a", *TINY, "--style", "ink", "--styles", "styles.csv"]) == 2
    assert "there is no style 'ink'" in capsys.readouterr().err
