"""A folder of pictures and runs on the tiny checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sfumato.train.config import read_config
from sfumato.train.run import run

Train = Callable[..., Path]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 200, 40)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a field, number {number}")
    return folder


@pytest.fixture
def tune(tmp_path: Path, pictures: Path, tiny_checkpoint: Path) -> Train:
    """Runs a method on the tiny checkpoint and gives the output folder; tables come as further text."""

    def run_it(
        method: str, tables: str = "", *, output: str = "thing", resume: bool = False, **fields: object
    ) -> Path:
        given = {"steps": 4, "batch_size": 2, "save_every": 2} | fields
        head = "\n".join(f"{name} = {value}" for name, value in given.items())
        text = f'method = "{method}"\noutput = "{tmp_path / output}"\n{head}\n{tables}\n'
        if "[model]" not in text:
            text += f'[model]\nbase = "{tiny_checkpoint}"\n'
        if "[pictures]" not in text:
            text += f'[pictures]\nsource = "{pictures}"\nprior_prompt = "a field"\n'
        path = tmp_path / "config.toml"
        path.write_text(text)
        for _ in run(read_config(path), models=tmp_path / "models", resume=resume):
            pass
        return tmp_path / output

    return run_it
