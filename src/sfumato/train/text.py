"""The text encoder ahead of the pictures: its last tokens learn to say what a sentence vector says.

A diffusion model trained on few captions sees few words. Vectors from a sentence encoder place many more, so
that neighbours in meaning are neighbours in the context before the first picture is drawn.

Shape letters: B sentences, T tokens, E text width, D sentence-vector width, N sentences of the data set.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.nn.clip_text import CLIPText
from sfumato.text.tokenizer import END_ID
from sfumato.train.config import TextConfig, TrainConfig

MIXED_LENGTHS = 6  # batches drawn together, sorted by length, of which one is used


class TextTask:
    """Match each sentence's vector in direction, and no other of the batch.

    Both the end token and the word before it are read: attention is causal, so the state of "puppy" is the
    same whatever follows it, and it comes to lie near that of "dog".

    Source: InfoNCE, van den Oord et al. 2018 (arXiv:1807.03748), equation 4.
    """

    def __init__(
        self, config: TrainConfig, network: CLIPText, ids: Tensor, vectors: NDArray[np.float16]
    ) -> None:
        assert config.text is not None
        self.table: TextConfig = config.text
        self.network, self.ids, self.vectors = network, ids, vectors  # ids (N,T), vectors (N,D)
        self.lengths = (ids != END_ID).sum(1).numpy()  # (N,)
        self.batch_size = config.batch_size
        dtype = next(network.parameters()).dtype
        self.head = nn.Linear(network.config.width, vectors.shape[1], dtype=dtype)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name what is trained; the head is thrown away afterwards."""
        named = {f"text.{name}": p for name, p in self.network.named_parameters()}
        return named | {f"head.{name}": p for name, p in self.head.named_parameters()}

    def loss(self, rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch of sentences and compare their last tokens with their vectors.

        Args:
            rng: of this step.
            number: of the batch; `rng` decides what is in it.

        Returns:
            The loss, and "top1": how often the nearest vector of the batch is the sentence's own.
        """
        rows = self._draw(rng)
        ids = self.ids[torch.from_numpy(rows)]  # (B,T)
        longest = int((ids != END_ID).sum(1).max()) + 1
        ids = ids[:, :longest]  # attention is causal: what follows the end token changes nothing before it
        meant = F.normalize(torch.from_numpy(np.asarray(self.vectors[rows], np.float32)), dim=1)  # (B,D)
        own = torch.arange(len(ids))
        losses, scores = [], torch.empty(0)
        for said in self._said(ids):  # the last word, then the end token
            scores = said @ meant.T  # (B,B)
            contrast = F.cross_entropy(scores / self.table.temperature, own)
            losses.append(contrast + 1 - scores.diagonal().mean())
        top1 = (scores.argmax(1) == own).float().mean()
        cosine = scores.detach().diagonal().mean()
        return torch.stack(losses).mean(), {"cosine": float(cosine), "top1": float(top1)}

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose B sentences of about one length: little padding, and none told by its length."""
        several = min(MIXED_LENGTHS, len(self.ids) // self.batch_size)
        rows = rng.choice(len(self.ids), several * self.batch_size, replace=False)
        by_length = rows[np.argsort(self.lengths[rows], kind="stable")]
        first = int(rng.integers(several)) * self.batch_size
        chosen: NDArray[np.int64] = by_length[first : first + self.batch_size]
        return chosen

    def _said(self, ids: Tensor) -> Tensor:
        """Read the last word and the end token of sentences (B,T) as directions (2,B,D)."""
        states = self.network(ids)  # (B,T,E)
        ends = (ids == END_ID).int().argmax(1)  # (B,)
        read = states[torch.arange(len(ids)), torch.stack([ends - 1, ends])]  # (2,B,E)
        return F.normalize(self.head(read).float(), dim=-1)

    @torch.no_grad()
    def pictures(self) -> Tensor:
        """Show how alike 64 sentences are, by the encoder (left) and by the vectors (right): (1,3,H,2H)."""
        rows = np.linspace(0, len(self.ids) - 1, min(64, len(self.ids))).astype(int)
        ids = self.ids[torch.from_numpy(rows)]
        said = self._said(ids)[1]
        meant = F.normalize(torch.from_numpy(np.asarray(self.vectors[rows], np.float32)), dim=1)
        both = torch.cat([said @ said.T, meant @ meant.T], 1)[None, None]
        return F.interpolate(both, scale_factor=4).expand(-1, 3, -1, -1)


def padded_ids(encode: Sequence[int], length: int, start: int, end: int) -> list[int]:
    """Frame token ids with start and end, cut or padded with the end token to `length`."""
    return ([start, *list(encode)[: length - 2], end] + [end] * length)[:length]
