"""Whatever moment a process is killed at, every accepted job ends once, with the bytes of a quiet run."""

import pytest

from benchmarks import chaos
from sfumato.app.settings import Settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "jobs", "kills", "attempts"),
    [("sqlite", 60, 30, 10), ("sqlite", 6, 5, 1), ("postgresql", 20, 10, 10)],
)
def test_kills_at_random_moments_lose_double_and_change_nothing(
    settings: Settings, kind: str, jobs: int, kills: int, attempts: int, request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        url = request.getfixturevalue("database_url")
        settings = settings.model_copy(update={"database_url": url})
    settings = settings.model_copy(update={"attempts": attempts})  # 1: what was killed is made alone
    outcome = chaos.run(settings, jobs=jobs, kills=kills)
    assert outcome == chaos.Outcome(
        kills=kills, jobs=jobs, lost=0, given_up=0, doubled=0, different=0, partial=0
    )
