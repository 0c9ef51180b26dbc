"""Programs that read what strangers have written: in processes of their own, with limits."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping

import sfumato

FILES = 32  # that such a process may have open
_PROGRAM = """
import importlib.util, runpy, sys
place, module = sys.argv.pop(1), sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("sfumato", place)  # this one, wherever others are
package = sys.modules["sfumato"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str) -> list[str]:
    """What starts a module of this package as a program.

    Args:
        module: its whole name.
        arguments: of the program.
    """
    return [sys.executable, "-I", "-B", "-c", _PROGRAM, sfumato.__file__, module, *arguments]


def environment() -> dict[str, str]:
    """What such a program sees of this process's environment: nothing that is worth knowing."""
    system = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    return {**system, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def limit(*, memory: int, output: int) -> None:
    """Bound this process, where the system can do that: memory, files, and no children.

    Args:
        memory: bytes of addresses.
        output: bytes of a file that it writes.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    _bound(
        {
            resource.RLIMIT_AS: memory,
            resource.RLIMIT_FSIZE: output,
            resource.RLIMIT_NOFILE: FILES,
            resource.RLIMIT_NPROC: 0,
            resource.RLIMIT_CORE: 0,
        },
        final=True,
    )


def allow(seconds: int) -> None:
    """Let this process compute for so long from now on, where the system can end it then."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _bound({resource.RLIMIT_CPU: math.ceil(time.process_time()) + seconds}, final=False)


def _bound(limits: Mapping[int, int], *, final: bool) -> None:
    import resource

    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        bounded = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (bounded, bounded if final else hard))
        except (OSError, ValueError):  # macOS refuses some; the other limits hold
            continue
