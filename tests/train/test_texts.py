"""Captions are encoded once, in this run and in those that follow, and come back to the bit."""

from pathlib import Path

import pytest
import torch

from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.train.caches import TensorStore
from sfumato.train.config import ModelTable
from sfumato.train.texts import Kept, Texts

CAPTIONS = ["a cat", "two dogs", "a cat"]


class Counted(CLIPText):
    """A text encoder that counts the rows it is given."""

    rows = 0

    def forward(self, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        self.rows += len(ids)
        states: torch.Tensor = super().forward(ids, *rest)  # type: ignore[arg-type]
        return states


def encoder(dtype: torch.dtype) -> Counted:
    torch.manual_seed(0)
    return Counted(CLIPTextConfig(width=16, layers=2, heads=2)).to(dtype)


def texts(network: Counted, folder: Path, name: str = "one", clip_skip: int = 1) -> Texts:
    kept = Kept(store=TensorStore(folder), encoder=name)
    return Texts(network, 0, ModelTable(base=Path("x"), clip_skip=clip_skip), {}, trained=False, kept=kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_caption_is_encoded_once_for_each_encoder(tmp_path: Path, dtype: torch.dtype) -> None:
    network = encoder(dtype)
    plain = Texts(network, 0, ModelTable(base=Path("x")), {}, trained=False).encode(CAPTIONS)
    network.rows = 0
    first = texts(network, tmp_path).encode(CAPTIONS)
    assert network.rows == 3  # two captions, and the empty one that fills others up
    again = texts(network, tmp_path).encode(CAPTIONS)
    assert network.rows == 3
    assert first.dtype == again.dtype == dtype
    assert torch.equal(first, plain)
    assert torch.equal(again, plain)
    texts(network, tmp_path, name="other").encode(["a cat"])
    assert network.rows == 5
    texts(network, tmp_path, clip_skip=2).encode(["a cat"])
    assert network.rows == 7


def test_what_trains_is_encoded_at_every_step(tmp_path: Path) -> None:
    network = encoder(torch.float32)
    kept = Kept(store=TensorStore(tmp_path), encoder="one")
    trained = Texts(network, 0, ModelTable(base=Path("x")), {}, trained=True, kept=kept)
    for _ in range(2):
        assert trained.encode(CAPTIONS).requires_grad
    assert network.rows == 4
