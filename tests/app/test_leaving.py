"""How a process leaves: the first signal begins, the second hastens, even if both come at once."""

import signal
from collections.abc import Callable

import pytest

from sfumato.app.leaving import Leaving


def test_the_first_signal_begins_and_the_second_hastens() -> None:
    drained: list[bool] = []
    leaving = Leaving(lambda: drained.append(True), grace=3600)
    assert not leaving.now
    assert leaving.left == float("inf")
    leaving.told(signal.SIGTERM, None)
    assert leaving.now
    assert 3000 < leaving.left <= 3600
    leaving.told(signal.SIGINT, None)
    assert leaving.left == 0
    assert drained == [True]


def test_the_third_signal_ends_the_process_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    leaving = Leaving(grace=3600)
    for _ in range(2):
        leaving.told(signal.SIGTERM, None)
    assert codes == []
    leaving.told(signal.SIGINT, None)
    assert codes == [130]


def test_a_signal_in_the_midst_of_the_first_hastens_as_well() -> None:
    second: list[Callable[[], None]] = [lambda: leaving.told(signal.SIGINT, None)]
    leaving = Leaving(lambda: second.pop()(), grace=3600)
    leaving.told(signal.SIGTERM, None)
    assert leaving.left == 0
