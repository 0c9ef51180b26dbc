"""Cards of what a prompt can call by name, and of checkpoints: what files tell of it, and those beside them.

    fur.safetensors      its header: title, description, words that call it, its training's tags, a picture
    fur.png, fur.preview.png, fur.jpg …     its picture
    fur.json             description, notes, "activation text", "preferred weight", "negative text"
    fur.civitai.info     description, trainedWords
    fur.txt, fur.description.txt            description

No pickle is opened. What was read of a file is known until it, or one beside it, changes.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from PIL import Image

from sfumato.errors import ModelNotFoundError, OutputError
from sfumato.pipeline import embeddings, images
from sfumato.pipeline.models import embedded_model
from sfumato.pipeline.shelf import ModelShelf
from sfumato.weights import store
from sfumato.weights.adapters import hypernetworks
from sfumato.weights.info import ModelInfo, describe

Kind = Literal["lora", "embedding", "hypernet", "checkpoint"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PREVIEWS = (".png", ".preview.png", ".jpg", ".jpeg", ".webp", ".gif")  # endings of the picture beside a file
MAX_PREVIEW = 16 * 2**20  # bytes
SIDE = 384  # pixels of a card's picture, the longer side
KEPT = 500  # such pictures
MAX_TEXT = 4000  # characters of what is shown
MAX_WORDS = 24
_MAX_BESIDE = 2**20  # bytes of a text beside a file
_LORA_FOLDERS = {"lora", "loras", "lycoris"}  # in which pickles are taken for them
_TEXTS = (".json", ".civitai.info", ".txt", ".description.txt")
_MARKUP = re.compile(r"<[^<>]{0,2000}>")
_DATA = re.compile(r"data:image/\w+;base64,", re.IGNORECASE)
_OF_KIND: Mapping[str, Kind] = MappingProxyType(
    {"LoRA": "lora", "embedding": "embedding", "hypernetwork": "hypernet", "checkpoint": "checkpoint"}
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One thing that can be chosen."""

    kind: Kind
    name: str  # within the models folder
    call: str  # what a prompt calls it by
    title: str
    family: str = ""  # of checkpoints that it is made for
    description: str = ""
    notes: str = ""
    activation: str = ""  # text that belongs into the prompt with it
    negative: str = ""  # and into the negative prompt
    weight: float = 1.0  # that is recommended
    words: tuple[str, ...] = ()  # that call for what it has learnt, the most frequent first
    picture: str = ""  # changes with its picture; "" = there is none

    def matches(self, query: str) -> bool:
        """Whether all words of a query stand somewhere on it."""
        text = "\n".join((self.name, self.title, self.description, self.activation, *self.words)).casefold()
        return all(part in text for part in query.casefold().split())


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A card with the places of what it was made from."""

    card: Card
    path: Path
    beside: Path | None  # its picture


class Cards:
    """The cards of a models folder. May be shared by threads."""

    def __init__(self, shelf: ModelShelf) -> None:
        """Read nothing yet."""
        self._shelf = shelf
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[object, _Entry | None]] = {}
        self._pictures: OrderedDict[tuple[Path, str], bytes] = OrderedDict()

    def find(self, kind: Kind, query: str = "") -> list[Card]:
        """The cards of a kind on which all words of a query stand, by name."""
        return [each.card for each in self._entries(kind) if each.card.matches(query)]

    def picture(self, kind: Kind, name: str) -> bytes:
        """The picture of a card as a small WebP file.

        Raises:
            ModelNotFoundError: no such card, or it has no picture.
            OutputError: the picture is none, or damaged.
        """
        path = next((path for each, path in self._paths() if each == name), None)
        entry = None if path is None else self._entry(name, path, _listed(path.parent))
        if entry is None or entry.card.kind != kind or not entry.card.picture:
            raise ModelNotFoundError(f"{name[:200]!r} has no picture")
        key = (entry.path, entry.card.picture)
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        small = images.small_webp(_picture_of(entry), SIDE)
        with self._lock:
            self._pictures[key] = small
            while len(self._pictures) > KEPT:
                self._pictures.popitem(last=False)
        return small

    def _entries(self, kind: Kind) -> list[_Entry]:
        found: dict[str, _Entry] = {}
        listed = cache(_listed)
        for name, path in self._paths():
            entry = self._entry(name, path, listed(path.parent))
            if entry is not None and entry.card.kind == kind:
                found.setdefault(entry.card.name, entry)
        calls = Counter(each.card.call for each in found.values())
        clear = [each if calls[each.card.call] == 1 else _in_full(each) for each in found.values()]
        return sorted(clear, key=lambda each: each.card.name.casefold())

    def _paths(self) -> Iterator[tuple[str, Path]]:
        yield store.EMBEDDED, embedded_model()
        yield from store.named_paths(self._shelf.folder)
        for path in self._shelf.adapters.embeddings.pictures():
            yield path.relative_to(self._shelf.folder).with_suffix("").as_posix(), path

    def _entry(self, name: str, path: Path, folder: Mapping[str, os.stat_result]) -> _Entry | None:
        """The card of a file, made anew where something has changed; None = it has none."""
        stem = path.name if path.is_dir() else path.stem
        near = {end: folder[stem + end] for end in (*PREVIEWS, *_TEXTS) if stem + end in folder}
        own = folder.get(path.name) or path.stat()
        key = (name, _stamp(own), *((end, _stamp(each)) for end, each in near.items()))
        with self._lock:
            known = self._known.get(path)
        if known is None or known[0] != key:
            known = (key, self._made(name, path, own, near))
            with self._lock:
                self._known[path] = known
        return known[1]

    def _made(
        self, name: str, path: Path, own: os.stat_result, near: Mapping[str, os.stat_result]
    ) -> _Entry | None:
        stem = path if path.is_dir() else path.with_suffix("")
        if path.suffix.lower() in embeddings.PICTURES:
            embedding = self._shelf.adapters.embeddings.read(path)
            if embedding is None:
                return None
            title, picture = embedding.name, _version(own)
            card = Card(kind="embedding", name=name, call=title, title=title, picture=picture)
            return _Entry(card=card, path=path, beside=path)
        info = describe(path, name=name, read_pickles=False)
        kind = _kind(info)
        if kind is None:
            return None
        ends = [end for end in PREVIEWS if end in near and near[end].st_size <= MAX_PREVIEW]
        beside = stem.with_name(stem.name + ends[0]) if ends else None
        inside = any(key in info.metadata for key in ("modelspec.thumbnail", "ssmd_cover_images"))
        picture = _version(near[ends[0]]) if ends else _version(own) if inside else ""
        told = _told(info.metadata, {end: stem.with_name(stem.name + end) for end in _TEXTS if end in near})
        call = name if kind == "checkpoint" else stem.name
        card = Card(
            kind=kind, name=name, call=call, family=info.family, picture=picture, **{"title": call, **told}
        )
        return _Entry(card=card, path=path, beside=beside)


def _kind(info: ModelInfo) -> Kind | None:
    if info.fault:
        return None
    if info.kind != "pickle":
        return _OF_KIND.get(info.kind)
    parts = {part.casefold() for part in info.path.parent.parts}
    if hypernetworks.FOLDER in parts:
        return "hypernet"
    if embeddings.FOLDER in parts:
        return "embedding"
    return "lora" if parts & _LORA_FOLDERS else "checkpoint" if info.path.suffix.lower() == ".ckpt" else None


def _listed(folder: Path) -> Mapping[str, os.stat_result]:
    """The files and folders in a folder; none where it cannot be read."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    found[entry.name] = entry.stat()
                except OSError:  # gone again, or a link to nothing
                    continue
    except OSError:
        return {}
    return found


def _in_full(entry: _Entry) -> _Entry:
    """An entry that is called by its place in the folder, as another has the same name."""
    return replace(entry, card=replace(entry.card, call=entry.card.name))


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size


def _version(status: os.stat_result) -> str:
    return f"{status.st_mtime_ns:x}"


def _told(metadata: Mapping[str, str], beside: Mapping[str, Path]) -> dict[str, Any]:
    """What texts tell, by the fields of a card: those beside the file before those in it."""
    own = _object(_text(beside.get(".json")))
    site = _object(_text(beside.get(".civitai.info")))
    trained = site.get("trainedWords")
    words = [*_lines(own.get("activation text")), *(trained if isinstance(trained, list) else ())]
    words += [*_lines(metadata.get("modelspec.trigger_phrase")), *_tags(metadata)]
    description = (
        own.get("description")
        or _text(beside.get(".txt"))
        or _text(beside.get(".description.txt"))
        or site.get("description")
        or metadata.get("modelspec.description")
    )
    told = {
        "title": metadata.get("modelspec.title") or metadata.get("ss_output_name"),
        "description": description,
        "notes": own.get("notes"),
        "activation": own.get("activation text"),
        "negative": own.get("negative text"),
    }
    fields: dict[str, Any] = {name: plain for name, each in told.items() if (plain := _plain(each))}
    fields["words"] = tuple(dict.fromkeys(filter(None, map(_word, words))))[:MAX_WORDS]
    weight = own.get("preferred weight")
    if isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < abs(weight) <= 10:
        fields["weight"] = float(weight)
    return fields


def _tags(metadata: Mapping[str, str]) -> list[str]:
    """The tags of the pictures it was trained with, the most frequent first."""
    counts: dict[str, int] = {}
    for folder in _object(metadata.get("ss_tag_frequency", "")).values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            if isinstance(count, int):
                counts[tag] = counts.get(tag, 0) + count
    return sorted(counts, key=lambda tag: -counts[tag])[:MAX_WORDS]


def _text(path: Path | None) -> str:
    """A text beside a file; "" where it cannot be read."""
    try:
        if path is None or not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_MAX_BESIDE).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def _object(text: str) -> dict[str, Any]:
    """A JSON object; {} where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(text: object) -> Iterable[str]:
    return text.split(",") if isinstance(text, str) else ()


def _plain(text: object) -> str:
    """A text for people, without the markup that sites write."""
    return _MARKUP.sub("", text).strip()[:MAX_TEXT] if isinstance(text, str) else ""


def _word(text: object) -> str:
    return " ".join(text.split())[:200] if isinstance(text, str) else ""


def _picture_of(entry: _Entry) -> Image.Image:
    """Raises OutputError: it is damaged, or none."""
    if entry.beside is not None:
        return images.first_frame(entry.beside)
    metadata = describe(entry.path, read_pickles=False).metadata
    packed = metadata.get("modelspec.thumbnail", "")
    if not packed:
        try:
            covers = json.loads(metadata.get("ssmd_cover_images", "[]"))
        except (ValueError, RecursionError):
            covers = []
        packed = next((each for each in covers if isinstance(each, str)), "")
    try:
        return images.open_image(base64.b64decode(_DATA.sub("", packed, count=1), validate=False))
    except (binascii.Error, ValueError) as error:
        raise OutputError(f"{entry.path.name}: the picture in it is no base64") from error
