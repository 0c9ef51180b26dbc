"""Logs as lines of JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

FIELDS = ("request_id", "method", "path", "status", "owner", "seconds", "job")


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: nothing that a client sends can break a line or colour a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said)


def log_json(level: int = logging.INFO) -> None:
    """Write what Sfumato logs to standard error as JSON. A stream that is gone ends nothing."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("sfumato")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
