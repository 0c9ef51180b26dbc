"""Downloads of models beside the queue: begun, watched and stopped from a page.

What was stopped or cut off goes on where it was when the same model is pulled again (weights/hub.py).
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sfumato.errors import ConflictError, JobNotFoundError, QueueFullError, SfumatoError
from sfumato.weights import store

if TYPE_CHECKING:
    from sfumato.weights.hub import PullStep

log = logging.getLogger(__name__)

AT_ONCE = 2
REMEMBERED = 50  # that have ended
MAX_NAME = 500  # characters of a repository or file


@dataclass(frozen=True, kw_only=True)
class Pull:
    """One download."""

    id: str
    owner: str
    repo: str
    file: str | None  # None = the best checkpoint of the repository
    state: Literal["running", "done", "failed", "cancelled"] = "running"
    done: int = 0  # bytes
    total: int = 0  # 0 = not known yet
    model: str = ""  # its name on the shelf, once it is there
    fault: str = ""  # why it failed, one line

    @property
    def share(self) -> float:
        """How much is there, 0 to 1."""
        return self.done / self.total if self.total else float(self.state == "done")


class Pulls:
    """The downloads of one process into one models folder."""

    def __init__(self, folder: Path, pull: Callable[..., Iterator[PullStep]] | None = None) -> None:
        """Begin nothing yet.

        Args:
            folder: the models folder.
            pull: what downloads; None = `weights.hub.pull`.
        """
        self._folder, self._pull = folder, pull
        self._changed = threading.Condition()
        self._pulls: OrderedDict[str, Pull] = OrderedDict()
        self._stopped: set[str] = set()

    def start(self, repo: str, file: str | None = None, *, owner: str = "local") -> Pull:
        """Begin a download.

        Args:
            repo: owner/name on the hub.
            file: one file of it; None or "" = the best checkpoint.
            owner: who asks.

        Raises:
            ConflictError: it is being downloaded already.
            QueueFullError: as many are under way as may be.
        """
        pull = Pull(
            id=uuid.uuid4().hex,
            owner=owner,
            repo=repo.strip()[:MAX_NAME],
            file=(file or "").strip()[:MAX_NAME] or None,
        )
        with self._changed:
            running = [each for each in self._pulls.values() if each.state == "running"]
            if any((each.repo, each.file) == (pull.repo, pull.file) for each in running):
                raise ConflictError(
                    f"{pull.repo} is being downloaded already; wait for it, or cancel it first"
                )
            if len(running) >= AT_ONCE:
                raise QueueFullError(f"{len(running)} downloads are under way; wait for one", retry_after=60)
            self._pulls[pull.id] = pull
            ended = [each.id for each in self._pulls.values() if each.state != "running"]
            for old in ended[: max(0, len(ended) - REMEMBERED)]:
                del self._pulls[old]
        threading.Thread(target=self._run, args=(pull,), name="pull", daemon=True).start()
        return pull

    def get(self, pull_id: str, owner: str | None = None) -> Pull:
        """The download of this id. Raises JobNotFoundError: none, or another owner's."""
        with self._changed:
            return self._find(pull_id, owner)

    def all(self, owner: str | None = None) -> list[Pull]:
        """An owner's downloads, the newest first; None = everybody's."""
        with self._changed:
            return [each for each in reversed(self._pulls.values()) if owner in (None, each.owner)]

    def cancel(self, pull_id: str, owner: str | None = None) -> Pull:
        """Stop a download at its next megabyte. Raises JobNotFoundError: none, or another owner's."""
        with self._changed:
            pull = self._find(pull_id, owner)
            if pull.state == "running":
                self._stopped.add(pull_id)
            return pull

    def wait(self, pull_id: str, timeout: float | None = None) -> Pull:
        """Wait until a download has ended, or for `timeout` seconds; as it then is."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(pull_id, None).state != "running", timeout)
            return self._find(pull_id, None)

    def close(self) -> None:
        """Stop all downloads, each at its next megabyte."""
        with self._changed:
            self._stopped.update(each.id for each in self._pulls.values() if each.state == "running")

    def _find(self, pull_id: str, owner: str | None) -> Pull:
        pull = self._pulls.get(pull_id)
        if pull is None or owner not in (None, pull.owner):
            raise JobNotFoundError(f"no download {pull_id[:80]!r}")
        return pull

    def _run(self, pull: Pull) -> None:
        """Download. Nothing it can meet ends the process."""
        try:
            pull = self._followed(pull)
        except SfumatoError as error:
            pull = replace(pull, state="failed", fault=" ".join(str(error).split()))
        except Exception:  # what nobody foresaw is the download's end, not the server's
            log.exception("pull %s", pull.repo)
            pull = replace(pull, state="failed", fault="an unforeseen error; the log has its details")
        with self._changed:
            last = self._pulls[pull.id]
            self._pulls[pull.id] = replace(pull, done=last.done, total=last.total)
            self._stopped.discard(pull.id)
            self._changed.notify_all()

    def _followed(self, pull: Pull) -> Pull:
        """Download, saying how far it is; the download as it ends."""
        from sfumato.weights import hub

        path = None
        for step in (self._pull or hub.pull)(pull.repo, pull.file, folder=self._folder):
            with self._changed:
                self._pulls[pull.id] = replace(pull, done=step.done, total=step.total)
                self._changed.notify_all()
                if pull.id in self._stopped and step.path is None:
                    return replace(pull, state="cancelled")
            path = step.path
        assert path is not None, "the last step has the path"
        return replace(pull, state="done", model=store.name_of(self._folder, path))
