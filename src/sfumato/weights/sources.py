"""What is at a path: a single file, a folder in diffusers' layout or a pickle, opened for loading."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import ModelNotFoundError
from sfumato.types import Prediction
from sfumato.weights import folders, pickles
from sfumato.weights.detect import Detection, detect
from sfumato.weights.header import read_header
from sfumato.weights.layouts import PREFIXES, Part, split_single_file, table_of
from sfumato.weights.specs import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights found at a path: what they are and where each network's tensors lie.

    `main` is the file whose hash identifies the checkpoint; `file` is the safetensors file that was made of
    it where it is a pickle, and else the same.
    """

    found: Detection
    parts: Mapping[str, list[Part]]
    stray: tuple[str, ...]
    metadata: Mapping[str, str]
    main: Path
    file: Path


@contextlib.contextmanager
def open_source(path: Path, prediction: Prediction | None = None) -> Iterator[Source]:
    """Find out what is at a path. A pickle is read into a temporary safetensors file, which goes at the end.

    Args:
        path: a file or folder.
        prediction: what the caller knows of the prediction type.

    Raises:
        ModelNotFoundError: nothing is there.
        UnsafeFileError: a pickle that asks for something to be executed.
        WeightsError: it cannot be read.
    """
    if not path.exists():
        raise ModelNotFoundError(f"{path} does not exist; check the path or the models folder")
    if path.is_dir():
        folder = folders.read_folder(path, prediction)
        main = next(iter(folder.parts.values()))[0].file
        yield Source(
            found=folder.found, parts=folder.parts, stray=(), metadata=folder.metadata, main=main, file=main
        )
        return
    if not pickles.is_pickle(path):
        yield _single_file(path, path, prediction)
        return
    with pickles.as_safetensors(path) as converted:
        yield _single_file(converted, path, prediction)


def _single_file(file: Path, path: Path, prediction: Prediction | None) -> Source:
    header = read_header(file)
    found = detect(header, path, prediction)
    spec = found.spec or (found.rows[0] if found.rows else ModelSpec(family=found.family))
    stray: list[str] = []
    if found.kind == "VAE" and not any(name.startswith(PREFIXES["vae"]) for name in header.tensors):
        names = {name: name for name in header.tensors}
        parts = {"vae": [Part(file=file, header=header, names=names, table=table_of("vae", spec))]}
    else:
        parts, stray = split_single_file(file, header, spec)
    return Source(
        found=found, parts=parts, stray=tuple(stray), metadata=header.metadata, main=path, file=file
    )
