"""Whatever moment a process is killed at, every accepted job ends once, with the bytes of a quiet run."""

from pathlib import Path

import pytest

from benchmarks import chaos
from sfumato.app.settings import Settings


@pytest.mark.slow
def test_kills_at_random_moments_lose_double_and_change_nothing(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    settings = Settings(
        data=tmp_path, models=tiny_checkpoint.parent, checkpoint="tiny", device="cpu", dtype="float32"
    )
    outcome = chaos.run(settings, jobs=60, kills=30)
    assert outcome == chaos.Outcome(kills=30, jobs=60, lost=0, doubled=0, different=0, partial=0)
