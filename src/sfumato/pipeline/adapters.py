"""What the network tags of a prompt ask for: `<lora:name:te:unet>`, found and fitted to the checkpoint."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sfumato.errors import ModelNotFoundError, PromptError
from sfumato.pipeline import memory
from sfumato.pipeline.embeddings import EmbeddingShelf, fits
from sfumato.pipeline.wishes import Curve, Wish, read_wish
from sfumato.text import grammar
from sfumato.types import Prompt
from sfumato.weights import store
from sfumato.weights.adapters.apply import Part, Use
from sfumato.weights.adapters.embeddings import Embedding, vectors_of
from sfumato.weights.adapters.hypernetworks import read_hypernetwork
from sfumato.weights.adapters.read import Adapter, Fitted, fit, read_adapter

if TYPE_CHECKING:
    from sfumato.pipeline.models import Models

log = logging.getLogger(__name__)

LORA, HYPERNETWORK = ("lora", "lyco"), "hypernet"  # what tags are called
KEPT = 16  # adapters remembered, those used last
_HASH_DIGITS = 12
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Worn:
    """What the networks of a pass wear."""

    text: tuple[Use, ...] = ()
    unet: tuple[tuple[Use, Curve], ...] = ()  # as strong as the curve says
    calls: int = 1  # of the denoiser in the pass
    on_the_fly: bool = False  # else merged
    hashes: tuple[tuple[str, str], ...] = ()  # name and hash of each adapter
    unmatched: tuple[tuple[str, int], ...] = ()  # adapters with so many keys that change nothing
    hypernetworks: tuple[tuple[str, str], ...] = ()
    embeddings: tuple[Embedding, ...] = ()  # that the prompts call by name

    @property
    def words(self) -> tuple[str, ...]:
        """The embeddings that are files of their own, as they stand in the pictures."""
        own = (each for each in self.embeddings if " " not in each.digest)
        return tuple(f"{each.name}: {each.digest[:_HASH_DIGITS]}" for each in own)

    @property
    def text_key(self) -> tuple[object, ...]:
        """Tells what the text encoder makes of a text."""
        words = ((each.name, each.digest) for each in self.embeddings)
        return (self.on_the_fly, *(use.key for use in self.text), *words)

    def at(self, call: int) -> tuple[Use, ...]:
        """What the U-Net wears at a call, counted from 0."""
        share = call / self.calls
        return tuple(replace(use, strength=curve.at(share)) for use, curve in self.unet)


NOTHING = Worn()


@dataclass(kw_only=True, eq=False)
class _Wearing:
    """What is found, tag by tag."""

    text: list[Use] = field(default_factory=list)
    unet: list[tuple[Use, Curve]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    hypernetworks: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, Embedding] = field(default_factory=dict)


class AdapterShelf:
    """Finds adapters by name and remembers the last ones; they are read from their files as they are used."""

    def __init__(self, folder: Path, *, paths: bool = True) -> None:
        """Look names up in `folder`; with `paths`, a path anywhere on the machine is accepted too."""
        self.folder = folder
        self.embeddings = EmbeddingShelf(folder)
        self._paths = paths
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, int, int], Any] = OrderedDict()
        self._fitted: OrderedDict[Path, tuple[object, Fitted]] = OrderedDict()

    def wear(self, prompt: Prompt, models: Models, steps: int, calls: int) -> Worn:
        """Understand the tags of a prompt, and the embeddings it calls by name, for a checkpoint.

        Args:
            prompt: both texts.
            models: the checkpoint.
            steps: of the pass.
            calls: of the denoiser in it.

        Raises:
            PromptError: a tag of an unknown kind, or with arguments that are none.
            ModelNotFoundError: no adapter of that name.
            UnknownModelError, WeightsError: it is broken, or made for another family.
        """
        worn = _Wearing()
        positive, tags = grammar.split_tags(grammar.strip_comments(prompt.text))
        width = models.spec.text.width
        words = self.embeddings.called(f"{positive}\n{prompt.negative}", width, models.reader.tokenizer)
        worn.embeddings = {each.name: each for each in words}
        for tag in tags:
            wish = read_wish(tag, steps, models.spec.unet)
            if tag.kind in LORA:
                self._wear_adapter(worn, wish, models)
            elif tag.kind == HYPERNETWORK:
                self._wear_hypernetwork(worn, wish, models)
            else:
                raise PromptError(
                    f"{tag} asks for a {tag.kind!r}; known are <lora:name:1> and <hypernet:name:1>: remove it"
                )
        text, unet = models.reader.adapted, models.adapted
        needed = text.bytes_of(worn.text) + unet.bytes_of(use for use, _ in worn.unet)
        varies = any(curve.varies and unet.bytes_of([use]) for use, curve in worn.unet)
        room = memory.available_bytes(models.device) + text.copied_bytes + unet.copied_bytes
        return Worn(
            text=tuple(worn.text),
            unet=tuple(worn.unet),
            calls=calls,
            on_the_fly=varies or needed > room,
            hashes=tuple(worn.hashes.items()),
            unmatched=tuple((name, count) for name, count in worn.unmatched.items() if count),
            hypernetworks=tuple(worn.hypernetworks.items()),
            embeddings=tuple(worn.embeddings.values()),
        )

    def _wear_adapter(self, worn: _Wearing, wish: Wish, models: Models) -> None:
        fitted = self._fit(wish.name, models)
        adapter = fitted.adapter
        worn.hashes[adapter.name] = adapter.digest[:_HASH_DIGITS]
        worn.unmatched[adapter.name] = len(fitted.unmatched)
        text, unet = (Part(digest=adapter.digest, pieces=fitted.parts[name]) for name in ("text", "unet"))
        worn.text.append(Use(part=text, strength=wish.text, rank=wish.rank))
        worn.unet.append((Use(part=unet, strength=1.0, blocks=wish.blocks, rank=wish.rank), wish.unet))
        for each in bundled(adapter):
            if fits(each, models.spec.text.width):
                worn.embeddings.setdefault(each.name, each)

    def _wear_hypernetwork(self, worn: _Wearing, wish: Wish, models: Models) -> None:
        path = store.find(self.folder, wish.name, paths=self._paths, kinds=("hypernetwork", "pickle"))
        hypernetwork = self._once(path, read_hypernetwork)
        worn.hypernetworks[hypernetwork.name] = hypernetwork.digest[:_HASH_DIGITS]
        part = Part(digest=hypernetwork.digest, pieces=hypernetwork.pieces(models.checkpoint.unet))
        worn.unet.append((Use(part=part, strength=1.0, blocks=wish.blocks), wish.unet))

    def find(self, name: str) -> Path:
        """Where an adapter is: by the names of `store.find`, or by the one its trainer gave it.

        Raises ModelNotFoundError: nowhere.
        """
        try:
            return store.find(self.folder, name, paths=self._paths, kinds=("LoRA", "pickle"))
        except ModelNotFoundError:
            named = [each.path for each in store.scan(self.folder) if self._alias(each.metadata) == name]
            if len(named) == 1:
                return named[0]
            raise

    def _alias(self, metadata: Mapping[str, str]) -> str | None:
        return metadata.get("ss_output_name")

    def _fit(self, name: str, models: Models) -> Fitted:
        adapter = self._once(self.find(name), read_adapter)
        with self._lock:
            checkpoint, fitted = self._fitted.get(adapter.path, (None, None))
            if fitted is None or fitted.adapter is not adapter or checkpoint is not models.checkpoint:
                networks = {"unet": models.checkpoint.unet, "text": models.checkpoint.text}
                fitted = fit(adapter, models.spec, networks)
                self._fitted[adapter.path] = models.checkpoint, fitted
                while len(self._fitted) > KEPT:
                    self._fitted.popitem(last=False)
                if fitted.unmatched:
                    log.warning("%s: %s", adapter.path.name, unmatched_line(fitted.unmatched))
            return fitted

    def _once(self, path: Path, read: Callable[[Path], T]) -> T:
        """What a file holds, read again where it has changed."""
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read(path)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            kept: T = self._kept[key]
            return kept


def bundled(adapter: Adapter) -> Iterator[Embedding]:
    """The embeddings that an adapter brings along."""
    for token, tensor in adapter.embeddings.items():
        vectors = vectors_of(adapter.path, {"emb_params": tensor})
        yield Embedding(name=token, vectors=vectors, digest=f"{adapter.digest} {token}")


def unmatched_line(keys: Sequence[str]) -> str:
    """Say which keys of an adapter change nothing."""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{len(keys)} keys change nothing in this checkpoint: {', '.join(keys[:3])}{more}"
