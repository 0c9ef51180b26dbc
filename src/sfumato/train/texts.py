"""Captions as the U-Net attends to them while something is trained.

Shape letters: B captions, K chunks of the longest, T = 77 tokens of a chunk, E text width.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import TrainingError
from sfumato.nn.clip_text import CLIPText
from sfumato.text import chunks
from sfumato.text.chunks import Chunk, Coined
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.caches import TensorStore, name_of
from sfumato.train.config import ModelTable

REMEMBERED = 1024  # encoded captions, where the text encoder stays


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where encoded captions are kept, and whose they are."""

    store: TensorStore
    encoder: str  # a hash of the encoder's weights


class Texts:
    """Encodes captions, with gradients where something in the text trains."""

    def __init__(
        self,
        encoder: CLIPText,
        pad_token: int,
        table: ModelTable,
        words: Mapping[str, Tensor],
        *,
        trained: bool,
        kept: Kept | None = None,
    ) -> None:
        """Take the encoder as it is.

        Args:
            encoder: in whatever dtype and on whatever device its weights are.
            pad_token: follows a caption's end.
            table: clip skip and the longest caption.
            words: vectors (V,E) by the words that have some of their own; they may train.
            trained: whether what captions mean changes from step to step.
            kept: where encoded captions outlast this run; None = nowhere.
        """
        self.encoder, self.table, self.pad_token, self.trained = encoder, table, pad_token, trained
        self.words, self.kept = words, kept
        self.tokenizer = Tokenizer.load()
        self.coined = [Coined.of(word, len(vectors), self.tokenizer) for word, vectors in words.items()]
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, captions: Sequence[str]) -> Tensor:
        """Give each caption its context: (B,K·T,E); the shorter are filled up with empty chunks.

        Raises TrainingError: a caption has more chunks than may be.
        """
        split = {text: self._split(text) for text in dict.fromkeys(captions)}
        count = max(map(len, split.values()))
        if self.trained:
            rows = {text: self._padded(each, count) for text, each in split.items()}
            states = self._encode([chunk for each in rows.values() for chunk in each])  # (·,T,E)
            joined = states.reshape(len(rows), -1, states.shape[2])  # (distinct,K·T,E)
            places = {text: place for place, text in enumerate(rows)}
            return joined[[places[text] for text in captions]]
        known = {text: self._known(text, each) for text, each in split.items()}
        empty = self._known("", self._split(""))
        filled = {
            text: torch.cat([states, *[empty] * (count - len(split[text]))]) for text, states in known.items()
        }
        return torch.stack([filled[text] for text in captions])

    def _split(self, text: str) -> list[Chunk]:
        found = chunks.split(
            text, self.tokenizer, emphasis="None", pad_token=self.pad_token, coined=self.coined
        )
        if len(found) > self.table.max_chunks:
            raise TrainingError(
                f"the caption {text[:40]!r} … fills {len(found)} chunks of {chunks.ROW} tokens, at most "
                f"model.max_chunks={self.table.max_chunks} may be; shorten it or raise that"
            )
        return found

    def _padded(self, found: list[Chunk], count: int) -> list[Chunk]:
        return [*found, *self._split("") * (count - len(found))]

    def _known(self, text: str, found: list[Chunk]) -> Tensor:
        """A caption's states (K·T,E), encoded once."""
        if text not in self._remembered:
            self._remembered[text] = self._read(text, found)
        self._remembered.move_to_end(text)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return self._remembered[text]

    @torch.no_grad()
    def _read(self, text: str, found: list[Chunk]) -> Tensor:
        """A caption's states from where they are kept, else encoded, and kept as float32."""
        if self.kept is None:
            return self._encode(found).flatten(0, 1)
        parameter = next(self.encoder.parameters())
        made_from = (self.kept.encoder, parameter.dtype, self.pad_token, self.table.clip_skip, text)
        states = self.kept.store.get_or_make(
            name_of("text", *made_from), lambda: self._encode(found).flatten(0, 1).float()
        )
        return states.to(parameter)

    def _encode(self, rows: Sequence[Chunk]) -> Tensor:
        device = next(self.encoder.parameters()).device
        ids = torch.tensor([row.ids for row in rows], device=device)  # (·,T)
        coined = [(n, place, self.words[word]) for n, row in enumerate(rows) for place, word in row.coined]
        states: Tensor = self.encoder(ids, self.table.clip_skip, coined)  # (·,T,E)
        return states
