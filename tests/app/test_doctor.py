import json
from pathlib import Path

import pytest

from sfumato.app import doctor
from sfumato.app.settings import Settings, load_settings
from sfumato.cli import run
from sfumato.errors import ModelNotFoundError
from sfumato.pipeline import images, memory, models


@pytest.fixture
def settings(home: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(models, "embedded_model", lambda: tiny_checkpoint)
    monkeypatch.setattr(doctor, "TEST", doctor.replace(doctor.TEST, sampling=doctor.Sampling(steps=1)))
    monkeypatch.setenv("SFUMATO_MODELS", str(tiny_checkpoint.parent))
    return load_settings()


def by_name(settings: Settings) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine(settings)}


def test_everything_is_looked_at_and_a_picture_is_made(settings: Settings, home: Path) -> None:
    findings = by_name(settings)
    assert list(findings) == list(doctor.LOOKS)
    assert "missing" not in {finding.state for finding in findings.values()}
    assert findings["test picture"].image is not None
    assert findings["models"].found.startswith("1 in ")
    assert list(home.iterdir()) == []


def test_each_thing_missing_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise ModelNotFoundError("no such file; install again")

    monkeypatch.setattr(models, "embedded_model", none)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    findings = by_name(settings.model_copy(update={"device": "cuda:9", "models": Path("none")}))
    missing = {name for name, finding in findings.items() if finding.state == "missing"}
    assert {"device", "embedded model", "test picture"} <= missing
    assert all(
        finding.remedy or ";" in finding.found for finding in findings.values() if finding.state != "good"
    )


def test_the_command_answers_in_json_and_by_its_exit_code(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["what"] for answer in answers] == list(doctor.LOOKS)
    assert images.open_image(Path(answers[-1]["path"])).size == (64, 64)
    assert run(["doctor", "--device", "cuda:9"]) == 1
    assert "✗ device: device='cuda:9' is not on this machine" in capsys.readouterr().out
