"""The store of tensors: whole or not there, never stale, begun anew where it is damaged."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sfumato.errors import TrainingError
from sfumato.train.caches import FILE, TensorStore, name_of

_WRITER = """
import sys, torch
from pathlib import Path
from sfumato.train.caches import TensorStore
store = TensorStore(Path(sys.argv[1]))
number = 0
while True:
    store.put(str(number), torch.full((64, 64), float(number)))
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_is_kept_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    TensorStore(tmp_path).put("a", tensor)
    found = TensorStore(tmp_path).get("a")
    assert found is not None
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    assert TensorStore(tmp_path).get("b") is None


def test_a_writer_killed_at_any_moment_leaves_all_that_it_said_was_kept(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
    store = TensorStore(tmp_path)
    for number in said:
        found = store.get(str(number))
        assert found is not None
        assert torch.equal(found, torch.full((64, 64), float(number)))


def test_a_value_that_was_changed_on_disk_is_made_again(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    store.put("a", torch.zeros(8))
    (value,) = store.file.database.execute("SELECT value FROM kept").fetchone()
    with store.file.database:
        store.file.database.execute("UPDATE kept SET value = ?", (value[:-1] + b"x",))
    assert store.get("a") is None
    assert torch.equal(store.get_or_make("a", lambda: torch.ones(8)), torch.ones(8))
    assert torch.equal(store.get_or_make("a", lambda: torch.zeros(8)), torch.ones(8))


@pytest.mark.parametrize("content", [b"no database, but long enough for a header" * 30, b"SQLite format 3\0"])
def test_a_file_that_is_no_store_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    store = TensorStore(tmp_path)
    store.put("a", torch.ones(2))
    assert store.get("a") is not None


def test_a_torn_store_is_begun_anew(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    for number in range(40):
        store.put(str(number), torch.ones(1000))
    store.close()
    data = bytearray((tmp_path / FILE).read_bytes())
    data[4096:20_000] = bytes(len(data[4096:20_000]))
    (tmp_path / FILE).write_bytes(data)
    torn = TensorStore(tmp_path)
    for number in range(40):
        assert torch.equal(torn.get_or_make(str(number), lambda: torch.ones(1000)), torch.ones(1000))


def test_what_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TensorStore(tmp_path)
    store.file.database.execute("PRAGMA max_page_count = 3")  # a full disk
    with pytest.raises(TrainingError, match="there is room"):
        store.put("a", torch.ones(10_000))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TrainingError, match="cannot be made"):
        TensorStore(tmp_path / "file" / "cache")


def test_names_differ_where_any_part_does() -> None:
    names = [name_of("a", "bc"), name_of("ab", "c"), name_of("abc"), name_of("a", "bc", ""), name_of("a", 1)]
    assert len(set(names)) == len(names)
    assert name_of("a", "bc") == names[0]


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    one, other = TensorStore(tmp_path), TensorStore(tmp_path)
    one.put("a", torch.ones(1))
    other.put("b", torch.ones(1))
    assert one.get("b") is not None
    assert sqlite3.connect(tmp_path / FILE).execute("PRAGMA integrity_check").fetchone() == ("ok",)
