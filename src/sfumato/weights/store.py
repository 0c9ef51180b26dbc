"""The models folder: what is in it, found by name, brought in whole.

A name is the path within the folder of a file, without its ending (`anime/dream`), or of a folder in
diffusers' layout. Models of the folders that are listed beside it (model_folders.py) count, too.
"""

import difflib
import hashlib
import re
import shutil
import unicodedata
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from sfumato.errors import ModelNotFoundError, OutputError, WeightsError
from sfumato.weights import model_folders
from sfumato.weights.atomic import atomic_file, atomic_folder
from sfumato.weights.convert import convert
from sfumato.weights.files import file_sha256
from sfumato.weights.folders import weight_files_of
from sfumato.weights.header import open_regular
from sfumato.weights.info import ModelInfo, describe
from sfumato.weights.pickles import is_pickle
from sfumato.weights.trees import ENDINGS, walk

EMBEDDED = "sfumato-mini"  # the model that comes with the package; no other is found by this name
UPSCALERS = "ESRGAN"  # the subfolder they are looked for in
_HASH = re.compile(r"[0-9a-f]{8,64}")
_TITLE = re.compile(r"(.+) \[([0-9a-f]{8,64})\]")  # as other programs write a checkpoint: name and hash
_CHUNK = 2**23


def scan(folder: Path) -> list[ModelInfo]:
    """Describe everything in the models folder, sorted by name; what cannot be read is listed with its fault.

    Pickles are listed unread. A folder that does not exist holds nothing.
    """
    faults: list[OSError] = []
    found = [
        describe(path, name=name, read_pickles=False) for name, path in named_paths(folder, faults.append)
    ]
    return found + [
        ModelInfo(
            path=Path(fault.filename), name=Path(fault.filename).name, size=0, fault=f"{fault.strerror}"
        )
        for fault in faults
        if not isinstance(fault, FileNotFoundError)
    ]


def named_paths(folder: Path, onerror: Callable[[OSError], object] | None = None) -> list[tuple[str, Path]]:
    """List names and paths of all models without opening a file of weights. What is hidden is left out."""
    found = list(walk(folder, onerror, whole=False))
    for each in model_folders.listed(folder):
        found += each.entries()
    return sorted(found, key=lambda entry: (entry[0], entry[1].suffix))


def paths(folder: Path) -> list[Path]:
    """Where all models are, opening none of them."""
    return [path for _, path in named_paths(folder)]


def count(folder: Path) -> int:
    """How many models there are, opening none of them."""
    return len(named_paths(folder))


def name_of(folder: Path, path: Path) -> str:
    """The name of a model by which `find` finds it; its file's, if it is none of the folder's."""
    own = path.name if path.is_dir() else path.stem
    return next((name for name, each in named_paths(folder) if each == path), own)


def find(folder: Path, name: str, *, paths: bool = True, kinds: Collection[str] = ()) -> Path:
    """Find a model by path, name, file name, stem, hash, or "name [hash]".

    Letter case and Unicode composition are overlooked where that leaves one choice. A hash is the first eight
    or more digits of a file's SHA-256. What has neither an ending nor a folder is first looked for in the
    models folder.

    Args:
        folder: the models folder.
        name: what the user gave.
        paths: whether a path anywhere on the machine is accepted; without it only what the folder holds.
        kinds: what is meant where several have that name, as in `ModelInfo.kind`; () = anything.

    Raises:
        ModelNotFoundError: nothing fits, or several do; near matches are named.
    """
    given = Path(name)
    if paths and (len(given.parts) > 1 or given.suffix.lower() in ENDINGS) and _exists(given):
        return given
    entries = named_paths(folder)
    title = _TITLE.fullmatch(name)
    wanted = title[1] if title else name
    for spelling in (_as_is, _folded):
        fitting = [
            (entry, path)
            for entry, path in entries
            if spelling(wanted) in map(spelling, _spellings(entry, path))
        ]
        if len(fitting) > 1 and kinds:
            of_kind = [each for each in fitting if describe(each[1], read_pickles=False).kind in kinds]
            fitting = of_kind or fitting
        if len(fitting) == 1:
            return fitting[0][1]
        if len(fitting) > 1:
            exact = [path for entry, path in fitting if spelling(entry) == spelling(wanted)]
            if len(exact) == 1:
                return exact[0]
            listed = ", ".join(_spellings(*each)[1] for each in fitting[:10])
            raise ModelNotFoundError(
                f"model {name!r} is ambiguous: {listed}; give the path within the folder"
            )
    by_hash = title[2] if title else name.lower()
    if _HASH.fullmatch(by_hash):
        for _, path in entries:
            if path.is_file() and file_sha256(path).startswith(by_hash):
                return path
    if paths and name and _exists(given):
        return given
    near = difflib.get_close_matches(wanted, [entry for entry, _ in entries], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the folder holds {len(entries)} models"
    raise ModelNotFoundError(f"no model {name[:200]!r} in {folder}; {hint}; see `sfumato models list`")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or a folder that may not be looked into
        return False


def _spellings(entry: str, path: Path) -> tuple[str, ...]:
    whole = path.is_dir()
    return (entry, entry if whole else entry + path.suffix, path.name, path.name if whole else path.stem)


def _as_is(name: str) -> str:
    return name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def add(folder: Path, source: Path, *, name: str | None = None, link: bool = False) -> ModelInfo:
    """Bring a model into the models folder: checked first, copied, compared, and visible only then.

    A pickle is read without being executed and arrives as safetensors. An upscaler goes into its subfolder.

    Args:
        folder: the models folder; it is made if need be.
        source: a file, or a folder in diffusers' layout.
        name: what it is called in the folder, without an ending; None = as it is.
        link: make a symbolic link in place of a copy (not for pickles).

    Raises:
        ModelNotFoundError: there is no such source.
        WeightsError: it is broken, or nothing that is known.
        OutputError: the name is no file name or that of the model that comes with Sfumato; the folder has
            another model of that name, or cannot be written.
    """
    if not source.exists():
        raise ModelNotFoundError(f"{source} does not exist; check the path")
    info = describe(source)
    if info.fault:
        raise WeightsError(info.fault)
    if info.kind == "unknown":
        raise WeightsError(f"{source} is a file of an unknown kind; nothing was added")
    folder = folder / UPSCALERS if info.kind == "upscaler" else folder
    pickled = source.is_file() and is_pickle(source)
    target = folder / _file_name(source, name, pickled)
    _make_folder(folder)
    if pickled:
        convert(source, target)
        return describe(target)
    if target.exists() or target.is_symlink():
        if source.is_file() and target.is_file() and file_sha256(source) == file_sha256(target):
            return describe(target)
        raise OutputError(f"{target} exists already and is another model; give yours another --name")
    if link:
        _link(source, target)
    elif source.is_dir():
        _copy_folder(source, target)
    else:
        _check_room(folder, info.size)
        _copy_file(source, target)
    return describe(target)


def _file_name(source: Path, name: str | None, pickled: bool) -> str:
    stem = source.name if source.is_dir() else source.stem
    ending = "" if source.is_dir() else ".safetensors" if pickled else source.suffix
    if name is not None:
        stem = name.removesuffix(ending)
        if not stem or Path(stem).name != stem or stem.startswith("."):
            raise OutputError(f"{name[:80]!r} is not the name of a file; give one without folders")
    if stem == EMBEDDED:
        raise OutputError(f"{EMBEDDED} is the model that comes with Sfumato; give yours another --name")
    return stem + ending


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made: {error.strerror}; choose another models folder"
        ) from error


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve(), target_is_directory=source.is_dir())
    except OSError as error:
        raise OutputError(f"{target} cannot be linked: {error.strerror}; copy it instead") from error


def _check_room(folder: Path, size: int) -> None:
    free = _free_bytes(folder)
    if free < size:
        raise OutputError(f"{folder} has {free / 1e9:.1f} GB free, {size / 1e9:.1f} GB are needed; make room")


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file and read the copy back against the source's hash before it is visible."""
    digest = hashlib.sha256()
    with open_regular(source) as original, atomic_file(target) as copy:
        for chunk in iter(lambda: original.read(_CHUNK), b""):
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        if file_sha256(Path(copy.name)) != digest.hexdigest():
            raise OutputError(f"{target} was not written: the copy differs from {source}; check the disk")


def _copy_folder(source: Path, target: Path) -> None:
    files = list(_folder_files(source))
    _check_room(target.parent, sum(path.stat().st_size for path in files))
    with atomic_folder(target) as part:
        for path in files:
            place = part / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy_file(path, place)


def _folder_files(folder: Path) -> Iterator[Path]:
    """List what of a diffusers folder is needed: settings and the weights that would be loaded."""
    yield from weight_files_of(folder)
    for pattern in ("*.json", "*/*.json", "*/*.txt"):
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())
