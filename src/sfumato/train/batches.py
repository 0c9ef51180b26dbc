"""The seam between data and methods: batches of latents with their prompts.

A method asks for batch 0, 1, 2 … of a run and knows nothing of folders, captions files, buckets or caches.

Shape letters: B pictures, C latent channels, h w latent size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some pictures of one size, as the U-Net sees them."""

    latents: Tensor  # (B,C,h,w) float32 on the CPU, scaled to unit variance
    prompts: tuple[str, ...]  # B, after every variation of captions; "" where they are dropped
    weights: Tensor  # (B,) factor of each picture's loss: 1, of regularisation pictures the prior's weight
    mask: Tensor | None = None  # (B,1,h,w) in [0, 1]: where the loss counts; None = everywhere
    rows: tuple[int, ...] = ()  # which pictures of the data set these are


class Batches(Protocol):
    """A data set, ready to train on."""

    def __len__(self) -> int:
        """Count the pictures of one round, repeats included."""

    def draw(self, number: int) -> Batch:
        """Give a batch of the run, counted from 0.

        It depends on the data, the seed and `number` alone, not on what was drawn before: so a run that is
        resumed reads what an undisturbed one reads.
        """

    def hashes(self) -> Mapping[str, str]:
        """Say what decides the batches beside the configuration: a hash by the name of each part."""

    def metadata(self) -> Mapping[str, str]:
        """Say what trained files tell of their data, by the field's `ss_…` names (`ss_tag_frequency` …)."""
