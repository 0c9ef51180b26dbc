"""PyTorch pickles (`.ckpt`, `.pt`, `.bin`) as safetensors, read in a limited process that runs nothing."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sfumato.errors import OutputError, UnsafeFileError, WeightsError
from sfumato.weights import apart
from sfumato.weights.files import read_safetensors
from sfumato.weights.header import ITEM_BYTES, Header, TensorInfo, open_regular, read_header

WALL_SECONDS = 1800


def is_pickle(path: Path) -> bool:
    """Tell whether a file starts like a pickle or a PyTorch archive."""
    with open_regular(path) as file:
        start = file.read(9)
    return start[8:9] != b"{" and start.startswith((b"PK\x03\x04", b"\x80"))


def pickle_header(path: Path) -> Header:
    """Describe the tensors of a pickle without reading their data; places in the file are not known.

    Raises:
        UnsafeFileError: the pickle asks for something to be executed.
        WeightsError: it is damaged or beyond a limit.
    """
    answer = _run(path, "--list")
    try:
        tensors = {
            name: TensorInfo(dtype, tuple(shape), 0, 0)
            for name, (dtype, shape) in answer["tensors"].items()
            if dtype in ITEM_BYTES
        }
        return Header(tensors=tensors, metadata=dict(answer["facts"]), file_size=path.stat().st_size)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read: its description is damaged") from error


def unpickle_to(path: Path, output: Path) -> None:
    """Write the tensors of a pickle to a safetensors file, to the bit.

    Args:
        path: the pickle.
        output: a path where nothing is yet.

    Raises:
        UnsafeFileError: the pickle asks for something to be executed; its name is in the message.
        WeightsError: it is damaged or beyond a limit.
        OutputError: `output` cannot be written.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(output.unlink, missing_ok=True)
        _run(path, str(output.absolute()))
        read_header(output)  # what came out is trusted no more than any other file
        undo.pop_all()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors of a small safetensors file or pickle, in the order of its header, and its metadata.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: the pickle asks for something to be executed.
        WeightsError: it is damaged or beyond a limit.
    """
    if not is_pickle(path):
        return read_safetensors(path), read_header(path).metadata
    with as_safetensors(path) as converted:
        tensors = {name: tensor.clone() for name, tensor in read_safetensors(converted).items()}
        return tensors, read_header(converted).metadata


@contextlib.contextmanager
def as_safetensors(path: Path) -> Iterator[Path]:
    """Give a temporary safetensors file with the tensors of a pickle; see `unpickle_to`."""
    with tempfile.TemporaryDirectory(prefix="sfumato-") as folder:
        output = Path(folder) / f"{path.stem}.safetensors"
        unpickle_to(path, output)
        yield output


def _run(path: Path, output: str) -> dict[str, Any]:
    open_regular(path).close()
    try:
        done = subprocess.run(
            apart.command("sfumato.weights.unpickle", str(path.absolute()), output),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=apart.environment(),
            timeout=WALL_SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read: it went beyond the limits on memory, time or size; "
            "get the safetensors version"
        ) from error
    message = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(answer.get("message", ""))[:300])
    if answer["status"] == "unsafe":
        raise UnsafeFileError(
            f"{path} asks for {message} to be executed, which Sfumato never does; "
            "get the safetensors version from a source you trust"
        )
    if answer["status"] == "system":
        raise OutputError(f"{path} was not converted: {message}; check the room on the disk")
    if answer["status"] != "ok":
        raise WeightsError(
            f"{path} cannot be read: {message}; get the file again, or its safetensors version"
        )
    assert isinstance(answer, dict)
    return answer
