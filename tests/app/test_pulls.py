"""A download beside the queue says how far it is, stops when told, and ends with a model or one line."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from sfumato.app import pulls as module
from sfumato.app.pulls import Pulls
from sfumato.errors import ConflictError, DownloadError, JobNotFoundError, QueueFullError
from sfumato.weights.hub import PullStep

LONG = 60.0  # seconds, of which none is waited


def downloading(folder: Path, *gates: Event) -> Pulls:
    """Downloads of four bytes; before each gate they stand still."""

    def pull(repo: str, file: str | None, *, folder: Path) -> Iterator[PullStep]:
        name = file or "best.safetensors"
        for done in range(1, 5):
            if done <= len(gates):
                assert gates[done - 1].wait(LONG)
            yield PullStep(file=name, done=done, total=4)
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"abcd")
        yield PullStep(file=name, done=4, total=4, path=folder / name)

    return Pulls(folder, pull)


def test_a_download_ends_with_the_name_of_its_model(tmp_path: Path) -> None:
    pulls = downloading(tmp_path / "models")
    begun = pulls.start(" some/model ", "")
    assert (begun.state, begun.repo, begun.file, begun.share) == ("running", "some/model", None, 0.0)
    ended = pulls.wait(begun.id, LONG)
    assert (ended.state, ended.model, ended.share, ended.fault) == ("done", "best", 1.0, "")


def test_a_download_stops_where_it_is_told_to(tmp_path: Path) -> None:
    gate = Event()
    pulls = downloading(tmp_path / "models", gate)
    begun = pulls.start("some/model")
    pulls.cancel(begun.id)
    gate.set()
    ended = pulls.wait(begun.id, LONG)
    assert (ended.state, ended.done, ended.total) == ("cancelled", 1, 4)
    assert not (tmp_path / "models").exists()
    assert pulls.cancel(begun.id).state == "cancelled"
    assert pulls.wait(pulls.start("some/model").id, LONG).state == "done", "it may be begun again"


def test_the_same_twice_and_too_many_are_refused(tmp_path: Path) -> None:
    gate = Event()
    pulls = downloading(tmp_path, gate)
    first = pulls.start("some/model", "a.pt")
    with pytest.raises(ConflictError, match="is being downloaded already"):
        pulls.start("some/model", "a.pt")
    pulls.start("some/model", "b.pt")
    with pytest.raises(QueueFullError, match="2 downloads are under way"):
        pulls.start("some/model", "c.pt")
    pulls.close()
    gate.set()
    assert pulls.wait(first.id, LONG).state == "cancelled"


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (DownloadError("some/model is\ngated: accept"), "some/model is gated: accept"),
        (RuntimeError("no one knew"), "an unforeseen error; the log has its details"),
    ],
)
def test_what_goes_wrong_is_one_line(tmp_path: Path, error: Exception, fault: str) -> None:
    def pull(*_: Any, **__: Any) -> Iterator[PullStep]:
        yield PullStep(file="a", done=1, total=9)
        raise error

    pulls = Pulls(tmp_path, pull)
    ended = pulls.wait(pulls.start("some/model").id, LONG)
    assert (ended.state, ended.fault, ended.done) == ("failed", fault, 1)


def test_the_hub_itself_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.weights.hub.pull", downloading(tmp_path / "models")._pull)
    pulls = Pulls(tmp_path / "models")
    assert pulls.wait(pulls.start("some/model", "x.pt").id, LONG).model == "x"


def test_an_owner_sees_its_own_and_old_ones_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    pulls = downloading(tmp_path)
    begun = [pulls.wait(pulls.start("some/model", f"{n}.pt", owner="anna").id, LONG).id for n in range(4)]
    other = pulls.start("some/model", "x.pt", owner="bert")
    pulls.wait(other.id, LONG)
    assert [each.id for each in pulls.all("anna")] == begun[:1:-1]
    assert [each.owner for each in pulls.all()] == ["bert", "anna", "anna"]
    for pull_id, owner in ((begun[0], "anna"), (other.id, "anna"), ("no such", "bert")):
        with pytest.raises(JobNotFoundError, match="no download"):
            pulls.get(pull_id, owner)
