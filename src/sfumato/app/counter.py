"""The counters beside the prompts: 12/75, with every key that is pressed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache

from sfumato.pipeline.embeddings import EmbeddingShelf
from sfumato.text.chunks import Coined, TokenCount, count_tokens
from sfumato.text.styles import Style, apply_style
from sfumato.text.tokenizer import Tokenizer
from sfumato.types import EmphasisMode, Prompt

REMEMBERED = 256  # texts, so that of two prompts only the one that has changed is read
MAX_STEPS = 150  # of a timeline that are looked at; alternation makes a text of each


class PromptCounter:
    """Counts tokens as the text encoder will see them. May be shared by threads."""

    def __init__(self, embeddings: EmbeddingShelf | None = None) -> None:
        """Load nothing yet: the first count does, in some 0.1 s.

        Args:
            embeddings: words that may have vectors of their own.
        """
        self._embeddings = embeddings
        self._counted = lru_cache(REMEMBERED)(self._count)

    def count(
        self, prompt: Prompt, *, steps: int = 20, styles: Iterable[Style] = (), width: int | None = None
    ) -> tuple[TokenCount, TokenCount]:
        """Count the prompt and the negative prompt.

        Args:
            prompt: both, as they are written.
            steps: of the sampler, by which prompt editing goes.
            styles: that will be merged into them.
            width: of the text encoder; embeddings made for it count as many tokens as they have vectors.

        Raises:
            PromptError: beyond the limits of the prompt language; it says which.
        """
        text, negative = prompt.text, prompt.negative
        for style in styles:
            text, negative = apply_style(text, style.prompt), apply_style(negative, style.negative)
        steps, coined = min(steps, MAX_STEPS), self._coined(f"{text}\n{negative}", width)
        return (
            self._counted(text, False, prompt.emphasis, steps, coined),
            self._counted(negative, True, prompt.emphasis, steps, coined),
        )

    def _coined(self, text: str, width: int | None) -> tuple[Coined, ...]:
        if self._embeddings is None or width is None:
            return ()
        called = self._embeddings.called(text, width, self._tokenizer)
        return tuple(Coined.of(each.name, len(each.vectors), self._tokenizer) for each in called)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load()

    def _count(
        self, text: str, negative: bool, emphasis: EmphasisMode, steps: int, coined: tuple[Coined, ...]
    ) -> TokenCount:
        return count_tokens(
            text, self._tokenizer, negative=negative, emphasis=emphasis, steps=steps, coined=coined
        )
