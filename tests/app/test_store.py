"""What is put into a store comes back under its name, whole, on every machine."""

import uuid
from pathlib import Path

import pytest

from sfumato.app.store import Store
from sfumato.errors import OutputError, RequestError


@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_files_come_back_whole_and_go_when_removed(tmp_path: Path, kind: str) -> None:
    store = Store(str(tmp_path / "store") if kind == "folder" else f"memory://{uuid.uuid4().hex}/pictures")
    source, copy = tmp_path / "a.png", tmp_path / "other machine" / "a.png"
    for data in (b"first", b"second"):
        source.write_bytes(data)
        store.put("2026-11-24/a.png", source)
        copy.unlink(missing_ok=True)
        assert store.fetch("2026-11-24/a.png", copy)
        assert copy.read_bytes() == data
    store.remove("2026-11-24/a.png")
    store.remove("2026-11-24/a.png")  # again: nothing happens
    assert store.fetch("2026-11-24/a.png", copy)  # it is on this machine still
    copy.unlink()
    assert not store.fetch("2026-11-24/a.png", copy)


def test_a_store_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="store: "):
        Store("nosuch://place")
    (tmp_path / "store").write_text("a file in the way")
    (tmp_path / "a.png").write_bytes(b"a")
    with pytest.raises(OutputError, match=r"a\.png was not (stored|written)"):
        Store(str(tmp_path / "store")).put("day/a.png", tmp_path / "a.png")
