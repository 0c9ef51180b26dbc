"""Who waits for a job is woken by that job alone."""

from threading import Thread

from sfumato.app.board import TOUCHED, Board
from sfumato.app.jobs import Progress


def test_a_change_that_came_before_the_wait_is_not_missed() -> None:
    board = Board()
    version = board.version()
    board.touch("a")
    board.wait_for("a", version, 60)
    assert board.wait(version, 60) > version


def test_steps_and_other_jobs_wake_nobody_who_waits_for_one() -> None:
    board = Board()
    woken: list[str] = []
    version = board.version()
    waiting = Thread(target=lambda: woken.append(str(board.wait_for("a", version, 60))))
    waiting.start()
    for number in range(100):
        board.post(Progress(job="a", step=number))
        board.touch("b")
    assert not woken
    board.clear("a")
    waiting.join(60)
    assert woken
    assert board.read("a") is None


def test_the_board_stays_small() -> None:
    board = Board()
    for number in range(2 * TOUCHED):
        board.touch(str(number))
    assert board.version() == 2 * TOUCHED
    assert len(board._touched) == TOUCHED
