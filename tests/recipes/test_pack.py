import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from recipes.mini import pack
from recipes.mini.compose import STYLES, Sprites


def test_shares_of_kinds_and_styles_are_as_stated(sprites: Sprites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PAIRS", 40)
    orders = pack.orders(sprites, np.random.default_rng(13))  # as `captioned` draws them
    drawn = list(pack.captioned(sprites, 13))
    assert len(drawn) == len(orders)
    kinds, styles = defaultdict(float), defaultdict(float)
    for order, (picture, captions, weight) in zip(orders, drawn, strict=True):
        assert picture.shape == (128, 128, 3)
        assert len(captions) == 1
        kinds[order.kind] += weight
        styles[order.style] += weight
    assert kinds == pytest.approx(pack.KINDS)
    assert styles == pytest.approx({s: pack.HERO_SHARE if s == "3d" else 0.18 for s in STYLES})


def test_every_order_leaves_out_what_is_held_out(sprites: Sprites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PAIRS", 0)
    orders = pack.orders(sprites, np.random.default_rng(0))
    assert not {(order.concept, order.style) for order in orders} & sprites.heldout_styles
    counts = Counter((order.concept, order.style, order.kind) for order in orders)
    assert counts["apple", "3d", "plain"] == pack.VIEWS["plain"][0]
    assert counts["apple", "noto", "background"] == pack.VIEWS["background"][1]
    assert counts["cat", "3d", "colour"] == 0  # cannot be recoloured


def test_what_is_written_is_what_was_drawn(tmp_path: Path) -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert pack.write(iter([(picture, ["a"], 0.123456), (picture + 1, ["b", "c"], 1.0)]), tmp_path) == 2
    assert (np.load(tmp_path / "pictures.npy") == [picture, picture + 1]).all()
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert rows == [{"captions": ["a"], "weight": 0.1235}, {"captions": ["b", "c"], "weight": 1.0}]
