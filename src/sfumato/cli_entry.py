"""Where the command `sfumato` starts: Ctrl-C is quiet from here on, also while the rest is imported."""

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(128 + number))
    from sfumato import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()
