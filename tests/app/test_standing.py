"""How an owner stands is looked up once for all who ask, and again when anything has changed."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

from sfumato.app.board import Board
from sfumato.app.database import JobTable
from sfumato.app.jobs import Job, Progress
from sfumato.app.standing import FRESH, Standings
from sfumato.types import Request

JOB = Job(id="a", number=1, owner="ann", kind="txt2img", request=Request(), state="running")


@dataclass
class Table:
    """Counts how often it is asked."""

    looks: list[str | None] = field(default_factory=list)

    def page(self, *, owner: str | None, **_: Any) -> list[Job]:
        self.looks.append(owner)
        return [JOB] if owner == "ann" else []

    def tally(self, states: list[str], owner: str | None) -> int:
        return 3 if owner == "ann" else 0


def standings(table: Table, times: list[float]) -> Standings:
    return Standings(table=cast(JobTable, table), board=Board(), clock=lambda: times[-1])


def test_many_who_ask_cost_one_look() -> None:
    table = Table()
    kept = standings(table, [0.0])
    assert kept.known("ann") is None
    standing = kept.look("ann")
    assert (standing.running, standing.waiting) == (JOB, 3)
    kept.board.post(Progress(job="a", step=1))  # a step changes nobody's standing
    assert {id(kept.known("ann")) for _ in range(100)} | {id(kept.look("ann"))} == {id(standing)}
    assert table.looks == ["ann"]


def test_every_owner_has_a_standing_of_their_own() -> None:
    kept = standings(Table(), [0.0])
    assert kept.look("ann").running == JOB
    assert kept.known("bob") is None
    assert (kept.look("bob").running, kept.look("bob").waiting) == (None, 0)


def test_a_change_and_the_time_make_it_look_again() -> None:
    table, times = Table(), [0.0]
    kept = standings(table, times)
    kept.look("ann")
    kept.board.touch("b")
    assert kept.known("ann") is None
    kept.look("ann")
    times.append(FRESH)  # another process may have changed something
    assert kept.known("ann") is None
    assert len(table.looks) == 2


def test_what_changes_while_it_looks_makes_it_look_again() -> None:
    table, board = Table(), Board()

    class Meanwhile(Table):
        def tally(self, states: list[str], owner: str | None) -> int:
            board.touch("a")
            return 0

    table = Meanwhile()
    kept = replace(standings(table, [0.0]), board=board)
    kept.look("ann")
    assert kept.known("ann") is None
