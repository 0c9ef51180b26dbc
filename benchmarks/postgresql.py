"""A PostgreSQL for a while, with the programs that the machine has; tests use it, too."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import psycopg


def installed() -> bool:
    """Whether there are PostgreSQL's programs."""
    return None not in (_program("initdb"), _program("pg_ctl"))


@contextmanager
def server() -> Iterator[str]:
    """The address of a server without databases; it never runs as root."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        raise SystemExit("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    folder = Path(mkdtemp(prefix="sfumato-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        switch = {"user": user, "group": pwd.getpwnam(user).pw_gid} if os.getuid() == 0 else {}
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **switch)  # type: ignore[call-overload]

    data = str(folder / "data")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
    try:
        run(initdb, "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
        run(pg_ctl, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://postgres@/DATABASE?host={folder}"
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def database(address: str) -> str:
    """The address of a new, empty database of a server."""
    name = f"d{uuid.uuid4().hex}"
    with psycopg.connect(address.replace("DATABASE", "postgres"), autocommit=True) as db:
        db.execute(f"create database {name}".encode())
    return address.replace("DATABASE", name)


def _program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)
