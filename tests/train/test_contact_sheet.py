"""The sheet shows what training sees, and what it does not see under a veil."""

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.train.contact_sheet import COLUMNS, contact_sheet
from sfumato.train.dataset import find_pictures
from sfumato.train.picture_config import PicturesConfig


def sheet_of(folder: Path, **fields: object) -> Image.Image:
    found = find_pictures(PicturesConfig.model_validate({"source": folder, "resolution": 64, **fields}))
    for _ in found.look():
        pass
    return contact_sheet(found)


def share(image: Image.Image, colour: tuple[int, int, int]) -> float:
    near = np.abs(np.asarray(image, int) - colour).max(-1) <= 3
    return float(near.sum() / 160**2)


def test_what_is_cropped_away_is_grey_and_what_is_not_counted_purple(tmp_path: Path) -> None:
    Image.new("RGB", (128, 64), (0, 0, 255)).save(tmp_path / "a.png")
    plain = sheet_of(tmp_path, buckets=False)
    blue, veiled = (0, 0, 255), (83, 83, 172)  # 0.35 of the blue and 0.65 of the grey
    assert 0.9 < share(plain, blue) <= 1  # the middle square, less the frame around it
    assert 0.9 < share(plain, veiled) <= 1
    glass = Image.new("RGBA", (64, 64), (0, 0, 255, 255))
    glass.paste((0, 0, 255, 0), (0, 0, 32, 64))
    glass.save(tmp_path / "a.png")
    masked = sheet_of(tmp_path, masks="alpha")
    purple = (219, 89, 219)  # 0.35 of the white below and 0.65 of the purple
    assert abs(share(masked, purple) - 0.5) < 0.02
    assert abs(share(masked, blue) - 0.5) < 0.02


def test_every_bucket_has_its_row_and_a_large_one_more(tmp_path: Path) -> None:
    for number in range(COLUMNS + 1):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / f"{number}.png")
    square = sheet_of(tmp_path)
    for number, size in enumerate([(64, 128), (128, 64)]):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"x{number}.png")
    assert square.height > 2 * 160
    assert sheet_of(tmp_path).height > 4 * 160


def test_the_command_names_bad_files_and_counts_the_steps(tmp_path: Path) -> None:
    folder = tmp_path / "3_cat"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
    arguments = ["dataset", "check", str(tmp_path), "--resolution", "64", "--batch-size", "2"]
    done = CliRunner().invoke(app, [*arguments, "--sheet", str(tmp_path / "new" / "sheet.png")])
    assert done.exit_code == 0
    assert "3_cat/0.png: no caption (trained on 'cat'): used" in done.output
    assert "3 pictures, 0 left out; a round is 9 visits, 5 steps of up to 2" in done.output
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width > 160
    (folder / "x.png").write_bytes(b"")
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 1
    assert '"name": "3_cat/x.png", "kind": "empty file"' in done.output
    assert '"visits": 9, "steps": 5' in done.output


def test_names_from_strangers_do_nothing_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[31mred\u202e.png").write_bytes(b"")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    done = CliRunner().invoke(app, ["dataset", "check", str(tmp_path), "--resolution", "64"])
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output
