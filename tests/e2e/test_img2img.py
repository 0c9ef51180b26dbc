"""From a command line and a picture to pictures, with a checkpoint of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.cli import run
from sfumato.pipeline import images, metadata

LINE = ["-m", "tiny", "--steps", "2", "--seed", "7"]


@pytest.fixture(autouse=True)
def settings(home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_MODELS", str(tiny_checkpoint.parent))
    monkeypatch.setenv("SFUMATO_DTYPE", "float32")
    monkeypatch.setenv("SFUMATO_DEVICE", "cpu")


def photo(path: str, width: int = 64, height: int = 48, **fields: object) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **fields)
    return Path(path)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(images.open_image(path))


def made(capsys: pytest.CaptureFixture[str]) -> list[Path]:
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def test_a_picture_becomes_another_of_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    photo("x.png", 70, 49)
    assert run(["img2img", "x.png", "a cat", *LINE, "--denoise", "0.6"]) == 0
    (path,) = made(capsys)
    assert path == Path("outputs/00001-7.png")
    assert images.open_image(path).size == (64, 48)
    told = metadata.read(images.read_infotext(path) or "")
    assert told.source.denoising_strength == 0.6
    assert (told.canvas.width, told.canvas.height) == (64, 48)


@pytest.mark.parametrize(("given", "size"), [(["--scale", "0.5"], (32, 24)), (["--size", "40x56"], (40, 56))])
def test_the_size_is_what_was_asked(
    capsys: pytest.CaptureFixture[str], given: list[str], size: tuple[int, int]
) -> None:
    photo("x.png")
    assert run(["img2img", "x.png", "a cat", *LINE, *given, "--resize-mode", "Crop and resize"]) == 0
    assert images.open_image(made(capsys)[0]).size == size


@pytest.mark.parametrize("area", ["Whole picture", "Only masked"])
@pytest.mark.parametrize("more", [[], ["--soft"], ["--mask-content", "fill"], ["--sampler", "DDIM"]])
def test_outside_the_mask_nothing_changes(
    capsys: pytest.CaptureFixture[str], area: str, more: list[str]
) -> None:
    source = photo("x.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[16:40, 24:56] = 255
    Image.fromarray(mask).save("mask.png")
    blur = ["--mask-blur-x", "0", "--mask-blur-y", "0"]
    assert (
        run(["img2img", "x.png", "a cat", *LINE, "--mask", "mask.png", "--mask-area", area, *blur, *more])
        == 0
    )
    result = pixels(made(capsys)[0])
    assert (result == pixels(source))[mask == 0].all()
    if "--soft" not in more:  # soft inpainting shows what has changed enough
        assert (result != pixels(source))[mask == 255].mean() > 0.5


def test_a_mask_with_nothing_in_it_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    photo("x.png")
    Image.new("L", (64, 48), 0).save("empty.png")
    for line, told in ((["--mask", "empty.png"], True), (["--mask", "empty.png", "--mask-invert"], False)):
        assert run(["img2img", "x.png", "a cat", *LINE, *line]) == 0
        assert ("empty.png: nothing in it is to change" in capsys.readouterr().err) is told


def test_sides_are_continued(capsys: pytest.CaptureFixture[str]) -> None:
    source = photo("x.png", 50, 40)
    assert (
        run(["img2img", "x.png", "a cat", *LINE, "--right", "13", "--up", "6", "--outpaint-blur", "0"]) == 0
    )
    result = pixels(made(capsys)[0])
    assert result.shape == (46, 63, 3)
    assert np.array_equal(result[6:, :50], pixels(source))


def test_of_a_folder_the_broken_get_a_line_and_the_others_are_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a.png", "d.jpg", "e.webp"):
        photo(f"in/{name}")
    Path("in/b.png").write_bytes(b"")
    Path("in/c.png").write_bytes(Path("in/a.png").read_bytes()[:-500])
    photo("in/f.png", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    Path("in/notes.txt").touch()
    assert run(["img2img", "in", "a cat", *LINE]) == 1
    out, err = capsys.readouterr()
    assert [Path(line).name for line in out.splitlines()] == ["00001-a.png", "00002-d.png", "00003-e.png"]
    lines = err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["in/b.png", "in/c.png", "in/f.png"]
    assert "animated" in lines[2]


def test_masks_go_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    half = np.zeros((48, 64), np.uint8)
    half[:, 32:] = 255
    Path("masks").mkdir()
    for name, mask in (("a", half), ("b", half[:, ::-1])):
        photo(f"in/{name}.jpg")
        Image.fromarray(mask).save(f"masks/{name}.png")
    photo("in/c.jpg")
    blur = ["--mask-blur-x", "0", "--mask-blur-y", "0"]
    assert run(["img2img", "in", "a cat", *LINE, "--mask", "masks", *blur]) == 1
    out, err = capsys.readouterr()
    first, second = (pixels(Path(line)) for line in out.splitlines())
    assert np.array_equal(first[:, :32], pixels(Path("in/a.jpg"))[:, :32])
    assert np.array_equal(second[:, 32:], pixels(Path("in/b.jpg"))[:, 32:])
    assert "c.jpg" in err
    assert err.count("\n") == 1


def test_what_each_file_says_of_itself_is_used_again(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("3", "4"):
        assert run(["txt2img", "a cat", "-m", "tiny", "--steps", "2", "--seed", seed, "-o", "in"]) == 0
    capsys.readouterr()
    assert run(["img2img", "in", "--reuse", "prompt, seed", "-m", "tiny", "--steps", "1", "--json"]) == 0
    told = [metadata.read(json.loads(line)["infotext"]) for line in capsys.readouterr().out.splitlines()]
    assert [(each.prompt.text, each.canvas.seed) for each in told] == [("a cat", 3), ("a cat", 4)]
    photo("plain/00001-3.png")
    line = ["img2img", "plain", "oil", "--reuse", "prompt", "-m", "tiny", "--steps", "1", "--json"]
    assert run([*line, "--reuse-from", "in"]) == 0
    (last,) = capsys.readouterr().out.splitlines()
    assert metadata.read(json.loads(last)["infotext"]).prompt.text == "oil a cat"


REFUSED = {
    "no source": ([], "source"),
    "no prompt": (["x.png"], "prompt"),
    "missing": (["none.png", "a cat"], "none.png"),
    "empty file": (["empty.png", "a cat"], "empty.png"),
    "no picture": (["text.png", "a cat"], "not a PNG"),
    "empty folder": (["nothing", "a cat"], "nothing"),
    "missing mask": (["x.png", "a cat", "--mask", "none.png"], "none.png"),
    "missing masks": (["in", "a cat", "--mask", "none"], "none"),
    "bad mask": (["x.png", "a cat", "--mask", "text.png"], "text.png"),
    "strength": (["x.png", "a cat", "--denoise", "1.5"], "--denoise=1.5"),
    "negative strength": (["x.png", "a cat", "--denoise", "-0.1"], "--denoise=-0.1"),
    "strength is no number": (["x.png", "a cat", "--denoise", "nan"], "--denoise=nan"),
    "scale": (["x.png", "a cat", "--scale", "9"], "--scale 9"),
    "mask and sides": (["x.png", "a cat", "--mask", "x.png", "--left", "8"], "mask"),
    "unknown reuse": (["x.png", "a cat", "--reuse", "size"], "'size'"),
    "reuse of nothing": (["x.png", "a cat", "--reuse-from", "in"], "--reuse"),
    "nothing to reuse": (["x.png", "a cat", "--reuse", "seed"], "x.png"),
    "hires": (["x.png", "a cat", "--hires"], "hires"),
}


@pytest.mark.parametrize(("line", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], line: list[str], message: str
) -> None:
    photo("x.png")
    photo("in/x.png")
    Path("empty.png").touch()
    Path("text.png").write_text("a letter")
    Path("nothing").mkdir()
    assert run(["img2img", *line, "-m", "tiny"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("outputs").exists()


def test_the_source_counts_as_the_strength_says(capsys: pytest.CaptureFixture[str]) -> None:
    photo("x.png")
    Image.new("RGB", (64, 48), "red").save("y.png")

    def apart(strength: str) -> float:
        for name in ("x.png", "y.png"):
            assert run(["img2img", name, "a cat", *LINE, "--denoise", strength, "--exact-steps"]) == 0
        one, other = (pixels(path).astype(int) for path in made(capsys))
        return float(np.abs(one - other).mean())

    assert apart("0") > 2 * apart("1")


@pytest.mark.parametrize("level", [0, 255])
def test_masks_of_one_colour_change_all(capsys: pytest.CaptureFixture[str], level: int) -> None:
    photo("x.png")
    Image.new("L", (5, 9), level).save("mask.png")
    assert run(["img2img", "x.png", "a cat", *LINE]) == 0
    assert run(["img2img", "x.png", "a cat", *LINE, "--mask", "mask.png"]) == 0
    plain, masked = (pixels(path) for path in made(capsys))
    assert np.array_equal(plain, masked)
