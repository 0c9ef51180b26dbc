"""The bell makes the queue's thread look at once, then less and less often, and stops it."""

import threading
from typing import Any

import pytest

from sfumato.app.queue import SOON, Bell


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long is waited each time; no time passes."""
    waited: list[float] = []
    wait_for = threading.Condition.wait_for

    def told(self: threading.Condition, ready: Any, timeout: float) -> bool:
        waited.append(timeout)
        return wait_for(self, ready, 0)

    monkeypatch.setattr(threading.Condition, "wait_for", told)
    return waited


def test_it_looks_less_and_less_often_and_soon_again_when_rung(pauses: list[float]) -> None:
    bell = Bell(rest=5.5 * SOON)
    assert not any(bell.wait(60.0) for _ in range(5))
    bell.ring()
    assert not any(bell.wait(60.0) for _ in range(3))
    expected = [1, 2, 4, 5.5, 5.5, 5.5, 1, 2]  # the sixth was cut short
    assert pauses == [SOON * each for each in expected]


@pytest.mark.usefixtures("pauses")
def test_it_stops_for_good() -> None:
    bell = Bell(rest=1.0)
    bell.set()
    assert [bell.wait(), bell.wait(), bell.is_set()] == [True] * 3


@pytest.mark.parametrize("act", [Bell.ring, Bell.set])
def test_who_waits_is_woken(act: Any) -> None:
    bell = Bell(rest=3600.0)
    bell._pause = 3600.0
    thread = threading.Thread(target=bell.wait)
    thread.start()
    act(bell)
    thread.join(60)
    assert not thread.is_alive()
