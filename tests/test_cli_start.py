"""How the command line starts, and what it answers where nothing is asked of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sfumato import __version__
from sfumato.cli import STOPPED, run
from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import SCHEDULES


@pytest.mark.parametrize("line", [[], ["models"]])
def test_a_group_without_a_command_answers_with_readable_help(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: sfumato")
    assert len(told.splitlines()) > 8


def test_interrupted_while_it_is_imported_it_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sfumato.cli_entry import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_terminal_that_does_not_know_a_character_stops_nothing() -> None:
    code = "import sys; from sfumato.cli_entry import main; sys.argv = ['sfumato', 'train', 'π…']; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: cannot read ??")


def test_samplers_and_schedules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for command, table in (("samplers", SAMPLERS), ("schedules", SCHEDULES)):
        assert run([command, "--json"]) == 0
        assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == list(table)
        assert run([command]) == 0
        assert len(capsys.readouterr().out.splitlines()) == len(table)


def test_without_anybody_to_ask_for_a_password_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert run(["users", "add", "bob", "--data", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "--password-stdin" in told
    assert len(told.splitlines()) == 1


def test_leaving_a_question_unanswered_is_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> str:
        raise typer.Abort

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.prompt", asked)
    assert run(["users", "add", "bob", "--data", str(tmp_path)]) == STOPPED
    assert capsys.readouterr().err == "stopped\n"


def test_the_package_is_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sfumato", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"sfumato {__version__}\n", done.stderr


def test_a_worker_is_refused_a_database_that_nobody_else_reaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/own.sqlite"
    assert run(["worker", "--data", str(tmp_path / "data"), "--database-url", url]) == 2
    told = capsys.readouterr().err
    assert "postgresql://" in told
    assert len(told.splitlines()) == 1
