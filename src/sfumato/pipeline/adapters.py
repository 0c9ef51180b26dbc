"""What the network tags of a prompt ask for: `<lora:name:te:unet>`, found and fitted to the checkpoint."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.errors import ModelNotFoundError, PromptError
from sfumato.pipeline import memory
from sfumato.pipeline.embeddings import EmbeddingShelf, fits
from sfumato.pipeline.wishes import Curve, read_wish
from sfumato.text import grammar
from sfumato.types import Prompt
from sfumato.weights import store
from sfumato.weights.adapters.apply import Use
from sfumato.weights.adapters.embeddings import Embedding, vectors_of
from sfumato.weights.adapters.read import Adapter, Fitted, fit, read_adapter

if TYPE_CHECKING:
    from sfumato.pipeline.models import Models

log = logging.getLogger(__name__)

LORA = ("lora", "lyco")  # what tags of adapters are called
KEPT = 16  # adapters remembered, those used last
_HASH_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Worn:
    """What the networks of a pass wear."""

    text: tuple[Use, ...] = ()
    unet: tuple[tuple[Use, Curve], ...] = ()  # as strong as the curve says
    calls: int = 1  # of the denoiser in the pass
    on_the_fly: bool = False  # else merged
    hashes: tuple[tuple[str, str], ...] = ()  # name and hash of each adapter
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


class AdapterShelf:
    """Finds adapters by name and remembers the last ones; they are read from their files as they are used."""

    def __init__(self, folder: Path, *, paths: bool = True) -> None:
        """Look names up in `folder`; with `paths`, a path anywhere on the machine is accepted too."""
        self.folder = folder
        self.embeddings = EmbeddingShelf(folder)
        self._paths = paths
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Path, int, int], Adapter] = OrderedDict()
        self._fitted: dict[tuple[Path, int, int], tuple[object, Fitted]] = {}

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
        text: list[Use] = []
        unet: list[tuple[Use, Curve]] = []
        hashes: dict[str, str] = {}
        positive, tags = grammar.split_tags(grammar.strip_comments(prompt.text))
        width = models.spec.text.width
        words = self.embeddings.called(f"{positive}\n{prompt.negative}", width, models.reader.tokenizer)
        coined = {each.name: each for each in words}
        for tag in tags:
            if tag.kind not in LORA:
                raise PromptError(f"{tag} asks for a {tag.kind!r}; known are <lora:name:1>: remove the tag")
            wish = read_wish(tag, steps, models.spec.unet)
            fitted = self._fit(wish.name, models)
            hashes[fitted.adapter.name] = fitted.adapter.digest[:_HASH_DIGITS]
            text.append(Use(part=fitted.parts["text"], strength=wish.text, rank=wish.rank))
            use = Use(part=fitted.parts["unet"], strength=1.0, blocks=wish.blocks, rank=wish.rank)
            unet.append((use, wish.unet))
            for each in bundled(fitted.adapter):
                if fits(each, width):
                    coined.setdefault(each.name, each)
        needed = sum(use.bytes_merged(models.checkpoint.text) for use in text)
        needed += sum(use.bytes_merged(models.checkpoint.unet) for use, _ in unet)
        return Worn(
            text=tuple(text),
            unet=tuple(unet),
            calls=calls,
            on_the_fly=any(curve.varies for _, curve in unet)
            or needed > memory.available_bytes(models.device),
            hashes=tuple(hashes.items()),
            embeddings=tuple(coined.values()),
        )

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
        path = self.find(name)
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = read_adapter(path)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._fitted.pop(self._kept.popitem(last=False)[0], None)
            checkpoint, fitted = self._fitted.get(key, (None, None))
            if fitted is None or checkpoint is not models.checkpoint:
                networks = {"unet": models.checkpoint.unet, "text": models.checkpoint.text}
                fitted = fit(self._kept[key], models.spec, networks)
                self._fitted[key] = models.checkpoint, fitted
                if fitted.unmatched:
                    log.warning("%s: %s", path.name, unmatched_line(fitted.unmatched))
            return fitted


def bundled(adapter: Adapter) -> Iterator[Embedding]:
    """The embeddings that an adapter brings along."""
    for token, tensor in adapter.embeddings.items():
        vectors = vectors_of(adapter.path, {"emb_params": tensor})
        yield Embedding(name=token, vectors=vectors, digest=f"{adapter.digest} {token}")


def unmatched_line(keys: Sequence[str]) -> str:
    """Say which keys of an adapter change nothing."""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{len(keys)} keys change nothing in this checkpoint: {', '.join(keys[:3])}{more}"
