from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.text.tokenizer import END_ID, START_ID
from sfumato.train.config import TextConfig, TrainConfig
from sfumato.train.text import TextTask, padded_ids

TEMPERATURE = 0.1


def make_task(lengths: list[int], batch_size: int) -> TextTask:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = CLIPText(CLIPTextConfig(width=16, layers=1, heads=2))
    rows = [padded_ids(rng.integers(0, 999, n).tolist(), 77, START_ID, END_ID) for n in lengths]
    vectors = rng.standard_normal((len(lengths), 6)).astype(np.float16)
    table = TextConfig(
        width=16,
        layers=1,
        heads=2,
        vectors=Path("v"),
        sentences=Path("s"),
        base=Path("b"),
        temperature=TEMPERATURE,
    )
    config = TrainConfig(method="text", output=Path("o"), steps=1, batch_size=batch_size, text=table)
    return TextTask(config, network, torch.tensor(rows), vectors)


def test_the_loss_is_infonce_and_the_cosine_of_the_last_two_tokens() -> None:
    lengths = [1, 3, 2, 5]
    task = make_task(lengths, batch_size=4)
    loss, parts = task.loss(np.random.default_rng(1), 0)
    with torch.no_grad():
        states = task.network(task.ids)  # all 77 tokens, nothing cut off
        meant = torch.from_numpy(task.vectors.astype(np.float32))
        losses = []
        for back in (0, 1):  # token 0 is the start, so the last word stands at `length`
            said = torch.stack([task.head(states[i, n + 1 - back]) for i, n in enumerate(lengths)])
            cosines = torch.cosine_similarity(said[:, None], meant[None], dim=2)
            contrast = torch.logsumexp(cosines / TEMPERATURE, 1) - cosines.diagonal() / TEMPERATURE
            losses.append(contrast.mean() + 1 - cosines.diagonal().mean())
            if back == 0:
                assert parts["cosine"] == pytest.approx(float(cosines.diagonal().mean()), abs=1e-5)
    torch.testing.assert_close(loss.detach(), (losses[0] + losses[1]) / 2, rtol=1e-5, atol=1e-5)


def test_batches_are_of_about_one_length_and_leave_no_sentence_out() -> None:
    lengths = [1 + k % 20 for k in range(240)]
    task = make_task(lengths, batch_size=8)
    seen, spreads = set(), []
    for step in range(400):
        rows = task._draw(np.random.default_rng(step))
        assert len(set(rows.tolist())) == 8
        seen |= set(rows.tolist())
        spreads.append(np.ptp(task.lengths[rows]))
    assert len(seen) == 240
    assert np.mean(spreads) < 5  # of 19, had the rows been drawn alone
