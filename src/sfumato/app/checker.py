"""Looks, beside everything else, whether the gallery's pictures have their files."""

from __future__ import annotations

import logging
import threading

from sfumato.app.gallery import Gallery
from sfumato.errors import StorageError

log = logging.getLogger(__name__)


class Checker:
    """Checks a gallery once, in a thread of its own."""

    def __init__(self, gallery: Gallery) -> None:
        """Get ready."""
        self._gallery = gallery
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="check", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Leave off, and wait until it has."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        changed = 0
        try:
            for some in self._gallery.check():
                changed += some
                if self._stop.is_set():
                    break
        except StorageError as error:
            log.warning("pictures were not checked: %s", error)
        if changed:
            log.warning("%d pictures have lost their files since the last start, or have them again", changed)
