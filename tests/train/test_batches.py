"""What a method may rely on when it asks for batches."""

import numpy as np
import torch

from sfumato.train.batches import Batches, PictureBatches
from sfumato.train.data import PictureSet


def pictures(weights: tuple[float, ...] = (0.5, 0.5, 0.0)) -> PictureSet:
    return PictureSet(
        pictures=np.zeros((3, 8, 8, 3), np.uint8),
        captions=[("a", "b"), ("c",), ("d",)],
        weights=np.array(weights),
    )


def test_a_batch_depends_on_its_number_alone() -> None:
    latents = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 2, 2)
    one: Batches = PictureBatches(pictures(), latents, 4, seed=1)
    other = PictureBatches(pictures(), latents, 4, seed=1)
    forwards = [one.draw(number) for number in range(20)]
    backwards = [other.draw(number) for number in reversed(range(20))][::-1]
    assert [(each.rows, each.prompts) for each in forwards] == [
        (each.rows, each.prompts) for each in backwards
    ]
    assert len({each.rows for each in forwards}) > 10
    assert {prompt for each in forwards for prompt in each.prompts} == {"a", "b", "c"}  # "d" weighs nothing
    for each in forwards:
        assert [int(latent[0, 0, 0]) for latent in each.latents] == list(each.rows)
        assert torch.equal(each.weights, torch.ones(4))
