"""The script `run`: whose environment it installs into."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/calls"
case "$1 $2" in
"-c import importlib.metadata"*) echo "$SAID" ;;
"-c "*) echo "$(dirname "$0")" ;;
esac
"""


@pytest.mark.parametrize("other", [True, False])
def test_it_does_not_install_into_the_environment_of_another_copy(tmp_path: Path, other: bool) -> None:
    place = tmp_path / "venv" / "bin"
    place.mkdir(parents=True)
    for name in ("python", "sfumato"):
        (place / name).write_text(PYTHON)
        (place / name).chmod(0o755)
    said = str(tmp_path / "copy" if other else ROOT)
    environment = {**os.environ, "SFUMATO_VENV": str(tmp_path / "venv"), "SAID": said}
    environment.pop("PYTHON", None)
    command = ["sh", str(ROOT / "run"), "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    installed = "pip install" in (place / "calls").read_text()
    assert installed is not other
    if other:
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert said in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert str(ROOT) in (tmp_path / "venv" / ".installed").read_text()
    (place / "calls").unlink()
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert (place / "calls").read_text() == "doctor\n"  # it is installed already
