"""From a prompt to what the U-Net attends to, at every call of the denoiser.

Shape letters: N different texts, T = 77 tokens of a chunk, K chunks of the longest text, E encoder width.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.diffusion.guidance import Contexts, ContextsAt, Part, needs_negative
from sfumato.errors import PromptError
from sfumato.nn.clip_text import CLIPText
from sfumato.pipeline.adapters import NOTHING, Worn
from sfumato.text import chunks, grammar
from sfumato.text.chunks import Chunk, Coined
from sfumato.text.tokenizer import END_ID, Tokenizer
from sfumato.types import EmphasisMode, Prompt
from sfumato.weights.adapters.apply import Adapted

REMEMBERED = 64  # encoded timelines kept, the least recently used forgotten
TEXTS_AT_ONCE = 16  # through the encoder

Key = tuple[tuple[str, ...], int, EmphasisMode, tuple[object, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Script:
    """A prompt, read and encoded for one run."""

    contexts: Contexts | ContextsAt
    prompts: int  # that go through the network at each call: AND parts and the negative prompt
    worn: Worn = NOTHING  # by the networks that see it


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """One text's conditioning over the denoiser calls of a run."""

    lasts: tuple[int, ...]  # last call, counted from 1, at which each context holds; rising
    contexts: tuple[Tensor, ...]  # (1,K·T,E) each

    def at(self, call: int) -> Tensor:
        """The context at a call, counted from 0: (1,K·T,E)."""
        return self.contexts[min(bisect_left(self.lasts, call + 1), len(self.contexts) - 1)]


class PromptReader:
    """Reads prompts for one text encoder and remembers what it has encoded."""

    def __init__(self, encoder: CLIPText, tokenizer: Tokenizer, pad_token: int) -> None:
        """Take the encoder in whatever dtype and on whatever device its weights are."""
        self.encoder = encoder
        self.adapted = Adapted(encoder)
        self.tokenizer = tokenizer
        self.pad_token = pad_token
        self._remembered: OrderedDict[Key, dict[str, Tensor]] = OrderedDict()

    def read(
        self,
        prompt: Prompt,
        calls: int,
        guidance: float,
        *,
        calls_before: int = 0,
        worn: Worn | None = None,
    ) -> Script:
        """Read both prompts.

        Args:
            prompt: the texts and how they are meant.
            calls: of the denoiser in a run; the length of the timeline that prompt editing divides.
            guidance: scale s; at 1 the negative prompt is not even encoded.
            calls_before: of the first pass, where this is the second: the timeline goes on from there.
            worn: what the prompt's network tags ask for; None = tags are refused.

        Raises:
            PromptError: beyond the limits of the prompt language, or asking for what does not exist.
        """
        text, tags = grammar.split_tags(grammar.strip_comments(prompt.text))
        if tags and worn is None:
            raise PromptError(f"{tags[0]} asks for an extra network, which cannot be used here: remove it")
        worn = worn or NOTHING
        parts = grammar.split_parts(text)
        weights = [part.weight for part in parts]
        positive = [self._timeline(part.text, prompt, calls, calls_before, worn) for part in parts]
        negative = None
        if needs_negative(guidance, weights):
            text = grammar.strip_comments(prompt.negative)
            negative = self._timeline(text, prompt, calls, calls_before, worn)

        def at(call: int) -> Contexts:
            return Contexts(
                positive=tuple(
                    Part(context=timeline.at(call), weight=weight)
                    for timeline, weight in zip(positive, weights, strict=True)
                ),
                negative=None if negative is None else negative.at(call),
            )

        still = all(len(each.contexts) == 1 for each in (*positive, *([negative] if negative else [])))
        prompts = len(positive) + (negative is not None)
        return Script(contexts=at(0) if still else at, prompts=prompts, worn=worn)

    @torch.no_grad()
    def pooled(self, text: str) -> Tensor:
        """A prompt as one vector (E,): the encoder's state where the text ends.

        Of several parts, and chunks of them, the mean; of what prompt editing makes, the last.

        Raises PromptError: beyond the limits of the prompt language.
        """
        bare = grammar.split_tags(grammar.strip_comments(text))[0]
        rows = [
            chunk
            for part in grammar.split_parts(bare)
            for chunk in chunks.split(
                grammar.timeline(part.text, 1)[-1].text, self.tokenizer, pad_token=self.pad_token
            )
        ]
        with self.adapted.wearing(()):
            states = self._states(rows, 1, {})  # (N,T,E)
        ends = torch.tensor([row.ids.index(END_ID) for row in rows], device=states.device)
        return states[torch.arange(len(rows), device=states.device), ends].float().mean(0)

    def _timeline(self, text: str, prompt: Prompt, calls: int, calls_before: int, worn: Worn) -> Timeline:
        """Encode every text that `text` becomes in the course of the calls, in one go."""
        entries = grammar.timeline(text, calls, first_pass=calls_before)
        encoded = self._encoded(tuple(entry.text for entry in entries), prompt, worn)
        return Timeline(
            lasts=tuple(entry.last for entry in entries),
            contexts=tuple(encoded[entry.text] for entry in entries),
        )

    def _encoded(self, texts: tuple[str, ...], prompt: Prompt, worn: Worn) -> dict[str, Tensor]:
        key = (texts, prompt.clip_skip, prompt.emphasis, worn.text_key)
        if key not in self._remembered:
            with self.adapted.wearing(worn.text, on_the_fly=worn.on_the_fly):
                self._remembered[key] = self._encode(Counter(texts), prompt, worn)
        self._remembered.move_to_end(key)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return self._remembered[key]

    @torch.no_grad()
    def _encode(self, texts: Counter[str], prompt: Prompt, worn: Worn) -> dict[str, Tensor]:
        """Give each text its context (1,K·T,E); all are padded with empty chunks to one length."""
        words = [Coined.of(each.name, len(each.vectors), self.tokenizer) for each in worn.embeddings]
        vectors = {each.name: each.vectors for each in worn.embeddings}
        split = [
            chunks.split(
                text, self.tokenizer, emphasis=prompt.emphasis, pad_token=self.pad_token, coined=words
            )
            for text in texts
        ]
        empty = chunks.split("", self.tokenizer, emphasis=prompt.emphasis, pad_token=self.pad_token)
        length = max(len(each) for each in split)
        times = torch.tensor(list(texts.values()), dtype=torch.float32)
        contexts = []
        for place in range(length):
            column = [each[place] if place < len(each) else empty[0] for each in split]
            states = self._states(column, prompt.clip_skip, vectors)  # (N,T,E)
            weights = torch.tensor([chunk.weights for chunk in column], dtype=torch.float32)  # (N,T)
            contexts.append(emphasise(states, weights, times, prompt.emphasis))
        joined = torch.cat(contexts, 1)  # (N,K·T,E)
        return dict(zip(texts, joined.chunk(len(texts)), strict=True))

    def _states(self, rows: Sequence[Chunk], clip_skip: int, vectors: Mapping[str, Tensor]) -> Tensor:
        device = next(self.encoder.parameters()).device
        states = []
        for first in range(0, len(rows), TEXTS_AT_ONCE):
            part = rows[first : first + TEXTS_AT_ONCE]
            ids = torch.tensor([row.ids for row in part], device=device)  # (N,T)
            coined = [(n, place, vectors[name]) for n, row in enumerate(part) for place, name in row.coined]
            states.append(self.encoder(ids, clip_skip, coined))
        return torch.cat(states)


def emphasise(states: Tensor, weights: Tensor, times: Tensor, mode: EmphasisMode) -> Tensor:
    """Weight each token's vector.

    "Original" then restores the mean over all texts of the call, all tokens and all channels, so that a
    strong word does not brighten everything. "None" and "Ignore" weight nothing.

    Source: the rule of the field's interfaces, where it goes by these names.

    Args:
        states: output of the text encoder (N,T,E).
        weights: of each token (N,T), 1 for start, end and padding.
        times: how often each text stands in the call (N,).
        mode: as in `Prompt.emphasis`.

    Returns:
        (N,T,E) in the dtype of `states`; the arithmetic is in float32.
    """
    if mode in ("None", "Ignore") or bool((weights == 1).all()):
        return states
    wide = states.float()
    weighted = wide * weights.to(wide.device)[..., None]
    if mode == "Original":
        share = (times / times.sum()).to(wide.device)[:, None, None]
        before, after = ((each * share).sum(0).mean() for each in (wide, weighted))
        weighted = weighted * torch.where(after == 0, 1.0, before / after)
    return weighted.to(states.dtype)
