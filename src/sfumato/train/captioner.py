"""Captions and tags by a model that the user has: sentences by transformers, tags by a WD14-type ONNX file.

Both need libraries that are not installed along; whoever lacks one is told what to install.

Shape letters: B pictures, S side of the tagger's input, K tags.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sfumato.errors import ModelNotFoundError, OutputError, TrainingError, WeightsError
from sfumato.train.captions import decode_caption
from sfumato.train.entries import Entry
from sfumato.train.pictures import read_colours, solid
from sfumato.train.sources import open_folder
from sfumato.weights.atomic import atomic_file
from sfumato.weights.hub import cached_files

NETWORK, TAGS = "model.onnx", "selected_tags.csv"
_GENERAL, _CHARACTER = 0, 4  # categories in the table of tags; 9 is how suggestive a picture is
_WHITE = (255, 255, 255)
_BEAMS, _MOST_TOKENS = 3, 75


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of a tagger's tags are written."""

    threshold: float = 0.35  # probability of a general tag
    character_threshold: float = 0.35  # of a character's name
    unwanted: tuple[str, ...] = ()


class Captioner(Protocol):
    """Says what is in a picture."""

    def describe(self, image: Image.Image) -> str:
        """Give one line for an RGB picture."""


def open_captioner(model: str, choice: Choice) -> Captioner:
    """Open a tagger (a folder or hub name with `model.onnx` and `selected_tags.csv`) or a captioner.

    Args:
        model: a folder, a file `.onnx`, or owner/name on the hub, which is downloaded once.
        choice: of a tagger's tags.

    Raises:
        ModelNotFoundError, DownloadError: there is no such model.
        WeightsError: it is none of either kind.
        TrainingError: a library is missing.
    """
    path = Path(model)
    if path.suffix == ".onnx":
        return Tagger(path, path.with_name(TAGS), choice)
    if path.is_dir():
        return Tagger(path / NETWORK, path / TAGS, choice) if (path / NETWORK).is_file() else Describer(model)
    if path.exists() or model.count("/") != 1:
        raise ModelNotFoundError(f"no model {model!r}: give a folder, a .onnx file, or owner/name on the hub")
    found = cached_files(model, (NETWORK, TAGS))
    if found is None:
        return Describer(model)
    network, tags = found
    return Tagger(network, tags, choice)


class Tagger:
    """Tags of a picture by a network with a probability for each: WD14 and its successors."""

    def __init__(self, network: Path, tags: Path, choice: Choice) -> None:
        """Open a network and the table of its tags.

        Raises:
            ModelNotFoundError, WeightsError: a file is missing, or they do not belong together.
        """
        runtime = _library("onnxruntime")
        for path in (network, tags):
            if not path.is_file():
                raise ModelNotFoundError(f"{path} is missing; a tagger is {NETWORK} beside {TAGS}")
        try:
            self.session = runtime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
        except _faults_of(runtime) as error:
            raise WeightsError(f"{network} is no ONNX network: {str(error).splitlines()[0]}") from error
        self.tags = _read_tags(tags)
        (self.input,) = self.session.get_inputs()
        count = self.session.get_outputs()[0].shape[-1]
        shape = self.input.shape
        if [*shape[2:], count] != [shape[1], 3, len(self.tags)] or self.input.type != "tensor(float)":
            raise WeightsError(
                f"{network} takes {shape} and gives {count} numbers; a tagger takes pictures (B,S,S,3) of "
                f"float32 and gives the {len(self.tags)} of {tags.name}"
            )
        self.side: int = shape[1]
        self.choice = choice

    def describe(self, image: Image.Image) -> str:
        """See `Captioner`: names of characters first, then the most probable tags."""
        (probabilities,) = self.session.run(None, {self.input.name: self._pixels(image)})[0]  # (K,)
        least = {_GENERAL: self.choice.threshold, _CHARACTER: self.choice.character_threshold}
        found = [
            (category != _CHARACTER, -float(probability), name)
            for (name, category), probability in zip(self.tags, probabilities, strict=True)
            if category in least and probability >= least[category] and name not in self.choice.unwanted
        ]
        return ", ".join(name for _, _, name in sorted(found))

    def _pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """Pad to a white square and resize: (1,S,S,3), 0 to 255, blue first."""
        side = max(image.size)
        square = ImageOps.pad(image, (side, side), color=_WHITE)
        small = square.resize((self.side, self.side), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(small, np.float32)[None, :, :, ::-1])


class Describer:
    """Sentences by a network of transformers: BLIP, GIT and their like."""

    def __init__(self, model: str) -> None:
        """Open a folder or hub name; weights are read as safetensors alone, and no code comes with them.

        Raises:
            ModelNotFoundError, WeightsError: no such model, or none that describes pictures.
        """
        transformers = _library("transformers")
        try:
            self.processor = transformers.AutoProcessor.from_pretrained(model, backend="pil")
            self.network = transformers.AutoModelForImageTextToText.from_pretrained(
                model, use_safetensors=True
            ).eval()
        except OSError as error:
            raise ModelNotFoundError(f"no model {model!r}: {str(error).splitlines()[0]}") from error
        except (ValueError, KeyError) as error:
            raise WeightsError(f"{model} describes no pictures: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def describe(self, image: Image.Image) -> str:
        """See `Captioner`."""
        given = self.processor(images=image, return_tensors="pt")
        ids = self.network.generate(**given, max_new_tokens=_MOST_TOKENS, num_beams=_BEAMS, do_sample=False)
        (text,) = self.processor.batch_decode(ids, skip_special_tokens=True)
        return " ".join(text.split())


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A picture that was looked at."""

    name: str
    caption: str
    fault: str = ""  # why there is no caption


def caption_folder(
    folder: Path, captioner: Captioner, *, prefix: str = "", overwrite: bool = False
) -> Iterator[Captioned]:
    """Write a caption beside each picture of a folder that has none.

    Args:
        folder: of pictures, or of folders `NUMBER_name`.
        captioner: says what is in them.
        prefix: put before each, with a comma.
        overwrite: replace captions that are there.

    Yields:
        Each picture looked at; stop iterating to stop. A file is written whole or not at all.

    Raises:
        TrainingError: no folder. OutputError: a caption cannot be written.
    """
    source = open_folder(folder)
    for entry in source.entries():
        if not isinstance(entry, Entry) or (_has_caption(entry) and not overwrite):
            continue
        try:
            image = solid(read_colours(source.read(entry.address)))
        except (OSError, ValueError) as error:  # OutputError is one of them
            reason = str(error).partition(": ")[2] if isinstance(error, OutputError) else str(error)
            yield Captioned(name=entry.name, caption="", fault=reason or str(error))
            continue
        caption = ", ".join(part for part in (prefix, captioner.describe(image)) if part)
        with atomic_file(folder / PurePosixPath(entry.address).with_suffix(".txt")) as file:
            file.write(caption.encode())
        yield Captioned(name=entry.name, caption=caption)


def _has_caption(entry: Entry) -> bool:
    """Say whether there is one; what cannot be read is somebody's, too."""
    try:
        return isinstance(entry.caption, bytes) and bool(decode_caption(entry.caption))
    except ValueError:
        return True


def _read_tags(path: Path) -> Sequence[tuple[str, int]]:
    """Read names, their underscores as spaces, and categories."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [(_spoken(row["name"]), int(row["category"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise WeightsError(f"{path} is no table of tags with columns name and category: {error}") from error


def _spoken(tag: str) -> str:
    """Leave faces such as ^_^ as they are."""
    return tag.replace("_", " ") if any(char.isalpha() for char in tag) and len(tag) > 3 else tag


def _faults_of(runtime: Any) -> tuple[type[Exception], ...]:
    """Name the errors of ONNX Runtime, which have no base of their own."""
    state = vars(runtime.capi.onnxruntime_pybind11_state).values()
    return tuple(each for each in state if isinstance(each, type) and issubclass(each, Exception))


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainingError(f"this needs one library more: pip install {name}") from error
