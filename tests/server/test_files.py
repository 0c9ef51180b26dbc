"""Files by name: below their folder, or not at all."""

import ast
import os
from pathlib import Path

import pytest

import sfumato.server
from sfumato.errors import OutputError, RequestError
from sfumato.server.files import read_inside, resolve_inside

NAMES = (
    "../secret",
    "..\\secret",
    "a/../../secret",
    "%2e%2e%2fsecret",
    "%252e%252e%252fsecret",
    "....//secret",
    "/etc/passwd",
    "//etc/passwd",
    "C:\\x",
    "C:/x",
    "C:x",
    "\\\\?\\C:\\x",
    "\\\\host\\share",
    "~",
    "~/x",
    "file:///etc/passwd",
    "good.png\0.txt",
    "\0",
    "good.png ",
    "good.png.",
    "good.png::$DATA",
    "a:b",
    "",
    ".",
    "..",
    "./good.png",
    "a//good.png",
    "good.png/",
    ".hidden",
    "-rf",
    "x" * 300,
    "x/" * 2048 + "x",
    "e\u0301.png",
    "\u00e9.png",
    "\U0001f600.png",
    "a\nb",
    "a\rb",
    "a\u2028b",
    "a\u202eb",
    "\uff0e\uff0e/secret",
    "\u2215etc",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("canary")
    root = tmp_path / "root"
    (root / "day").mkdir(parents=True)
    (root / "good.png").write_bytes(b"picture")
    (root / "day" / "good.png").write_bytes(b"another")
    return root


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:40]))
def test_no_name_leads_out_of_the_folder(root: Path, name: str) -> None:
    with pytest.raises(RequestError, match="no file"):
        read_inside(root, name)


def test_what_is_below_the_folder_is_read(root: Path) -> None:
    assert read_inside(root, "good.png") == b"picture"
    assert read_inside(root, "day/good.png") == b"another"
    assert resolve_inside(root, "day/new.png") == root / "day" / "new.png"
    for name in ("none.png", "day"):
        with pytest.raises(OutputError, match=name):
            read_inside(root, name)


@pytest.mark.skipif(os.name != "posix", reason="links need a right elsewhere")
def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    (root / "link.png").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "inner.png").symlink_to(root / "good.png")
    for name in ("link.png", "folder/secret", "inner.png"):
        with pytest.raises(RequestError, match="no file"):
            read_inside(root, name)
    (tmp_path / "also").symlink_to(root)
    assert read_inside(tmp_path / "also", "good.png") == b"picture"  # the folder itself may be a link


OPENERS = {"open", "fdopen", "read_bytes", "read_text", "write_bytes", "write_text", "unlink", "atomic_file"}
SERVERS = {"FileResponse", "StaticFiles"}
MAY_OPEN = {"files.py", "accounts.py", "options.py", "internal.py"}
DECODERS = {"open_image", "size_of", "read_texts", "read_picture", "first_frame"}
MAY_DECODE = {"answers.py"}  # what the server has made; what clients send, a process of its own decodes
NEVER = {"eval", "exec", "pickle", "popen", "Popen", "subprocess", "yaml", "shelve", "marshal"}


@pytest.mark.parametrize(
    "path", sorted(Path(sfumato.server.__file__).parent.rglob("*.py")), ids=lambda path: path.name
)
def test_files_are_opened_in_few_places_and_nothing_is_run(path: Path) -> None:
    names = {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
    }
    modules = {
        alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not (names | modules) & (NEVER | SERVERS)
    assert path.name in MAY_OPEN or not names & OPENERS
    assert path.name in MAY_DECODE or not names & DECODERS
