"""A disk that is really full: a small file system of the tests' own, where they may mount one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from sfumato.app.engine import Engine
from sfumato.app.settings import Settings
from sfumato.errors import OutputError, StorageError
from sfumato.types import Canvas, Request, Sampling

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system with the options that are given, or changes those of the one that is there."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root mounts a file system, and tmpfs is Linux's")
    place = tmp_path / "small"
    place.mkdir()

    def mounted(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
        return place

    yield mounted
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)


def request(seed: int = 1) -> Request:
    return Request(sampling=Sampling(steps=1), canvas=Canvas(seed=seed, width=32, height=32))


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    path = folder / "filler"
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return path


def test_outputs_on_a_disk_that_is_full_fail_the_job_until_there_is_room(
    mount: Mount, settings: Settings
) -> None:
    outputs = mount("size=256k,nr_inodes=64")
    faults = {
        "bytes": (lambda: fill(outputs), lambda: (outputs / "filler").unlink()),
        "inodes": (
            lambda: [(outputs / f"f{n}").touch() for n in range(_free_inodes(outputs))],
            lambda: [path.unlink() for path in outputs.glob("f*")],
        ),
        "read only": (lambda: mount("remount,ro"), lambda: mount("remount,rw")),
    }
    with Engine(settings.model_copy(update={"outputs": outputs})) as engine:
        for name, (break_it, mend) in faults.items():
            break_it()  # type: ignore[no-untyped-call]
            failed = engine.wait(engine.submit(request()).id, 60)
            assert failed.fault is not None, name
            assert failed.fault.code == ("output" if name == "read only" else "no_space")
            assert not failed.made
            mend()  # type: ignore[no-untyped-call]
            assert not [path for path in outputs.rglob("*") if path.is_file()], name
            done = engine.wait(engine.submit(request()).id, 60)
            assert [(outputs / made.file).is_file() for made in done.made] == [True]
            (outputs / done.made[0].file).unlink()


def test_a_data_folder_on_a_disk_that_is_full_takes_nothing_in_and_goes_on_when_there_is_room(
    mount: Mount, settings: Settings
) -> None:
    data = mount("size=8m")
    with Engine(settings.model_copy(update={"data": data})) as engine:
        assert engine.wait(engine.submit(request()).id, 60).state == "done"
        fill(data)
        with pytest.raises((OutputError, StorageError), match=r"[Nn]o space|is full"):
            engine.keep(Image.new("RGB", (64, 64)), "ann")
        assert not list(data.glob("inputs/*"))
        accepted: list[str] = []

        def submit_many() -> None:
            for seed in range(1000):  # what its pages still hold is taken in
                accepted.append(engine.submit(request(seed)).id)

        with pytest.raises(StorageError, match="make room"):
            submit_many()
        (data / "filler").unlink()
        for job_id in accepted:
            assert engine.wait(job_id, 60).ended
        assert engine.wait(engine.submit(request()).id, 60).state == "done"
        assert engine.keep(Image.new("RGB", (64, 64)), "ann").is_file()


def _free_inodes(folder: Path) -> int:
    return os.statvfs(folder).f_favail
