import numpy as np
import pytest
import torch

from benchmarks import judge
from benchmarks.mobilenet import FEATURES, MobileNetV2
from recipes.mini.colours import COLOURS
from recipes.mini.compose import Sprites, compose


def test_the_network_has_the_published_keys_and_size() -> None:
    network = MobileNetV2()
    keys = network.state_dict()
    assert len(keys) == 314
    assert sum(p.numel() for p in network.parameters()) == 3_504_872
    assert keys["features.2.conv.1.0.weight"].shape == (96, 1, 3, 3)
    assert keys["features.17.conv.3.running_var"].shape == (320,)
    assert keys["classifier.1.weight"].shape == (1000, 1280)


def test_features_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network = MobileNetV2().eval()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    together = judge.describe(network, pictures)
    assert together.shape == (3, FEATURES)
    alone = np.concatenate([judge.describe(network, pictures[k : k + 1]) for k in range(3)])
    np.testing.assert_allclose(together, alone, rtol=0.05, atol=0.02)  # bfloat16 keeps eight bits


@pytest.mark.parametrize("name", COLOURS)
def test_the_background_is_read_from_the_border(name: str, sprites: Sprites) -> None:
    picture = compose(sprites.pixels[0], COLOURS[name], scale=1.0)
    assert judge.background_colour(picture) == name
    noise = np.random.default_rng(0).normal(0, 6, picture.shape)
    assert judge.background_colour(np.clip(picture + noise, 0, 255).astype(np.uint8)) == name


def test_a_head_separates_what_can_be_separated() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (5, 20))
    labels = rng.integers(0, 5, 400)
    features = (centres[labels] + rng.normal(0, 0.3, (400, 20))).astype(np.float32)
    head = judge.fit(features[:300], labels[:300], 5, seed=0)
    assert judge.top_k(head.scores(features[300:]), labels[300:], 1) > 0.95


def test_top_k_counts_the_k_best() -> None:
    scores = np.array([[0.1, 0.9, 0.5], [0.7, 0.2, 0.1]], np.float32)
    labels = np.array([2, 1])
    assert [judge.top_k(scores, labels, k) for k in (1, 2, 3)] == [0.0, 1.0, 1.0]


def test_spoiling_keeps_the_form_and_is_repeatable(sprites: Sprites) -> None:
    picture = compose(sprites.pixels[0], COLOURS["green"])
    for seed in range(20):
        first, second = (judge.worn(np.random.default_rng(seed), picture) for _ in range(2))
        assert first.shape == picture.shape
        assert first.dtype == np.uint8
        assert (first == second).all()
        assert (first != picture).any()
    assert judge.mosaic(picture, 8).shape == picture.shape
