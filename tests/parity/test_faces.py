"""Finding faces, against facenet-pytorch on the same weights."""

import sys
import types

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

from sfumato.nn.mtcnn import MTCNN, MTCNNConfig, suppress


def plain_nms(boxes: Tensor, scores: Tensor, most: float) -> Tensor:
    """Greedy suppression, pair by pair."""
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        left, top, right, bottom = boxes[index].tolist()
        for other in kept:
            l2, t2, r2, b2 = boxes[other].tolist()
            shared = max(0, min(right, r2) - max(left, l2)) * max(0, min(bottom, b2) - max(top, t2))
            union = (right - left) * (bottom - top) + (r2 - l2) * (b2 - t2) - shared
            if shared / union > most:
                break
        else:
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """facenet_pytorch's detector, with what it takes from torchvision in its place."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.ops", "torchvision.ops.boxes"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.transforms"].functional = types.ModuleType("functional")  # type: ignore[attr-defined]
    for name in ("datasets", "transforms"):
        setattr(sys.modules["torchvision"], name, types.ModuleType(name))
    sys.modules["torchvision.ops.boxes"].batched_nms = (  # type: ignore[attr-defined]
        lambda boxes, scores, groups, most: plain_nms(boxes, scores, most)
    )
    import importlib
    import importlib.util

    spec = importlib.util.find_spec("facenet_pytorch")
    assert spec is not None
    assert spec.submodule_search_locations
    package = types.ModuleType("facenet_pytorch")  # without its __init__, which wants more of torchvision
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "facenet_pytorch", package)
    return importlib.import_module("facenet_pytorch.models.mtcnn")


PHOTOGRAPHS = {
    "whole": data.astronaut(),
    "half": data.astronaut()[::2, ::2],
    "cut": data.astronaut()[20:, 190:],
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_faces_and_points_are_found_as_by_facenet(name: str, peer: types.ModuleType) -> None:
    theirs = peer.MTCNN(keep_all=True, select_largest=False)
    ours = MTCNN(MTCNNConfig())
    for stage in ("pnet", "rnet", "onet"):
        getattr(ours, stage).load_state_dict(getattr(theirs, stage).state_dict())
    photograph = np.ascontiguousarray(PHOTOGRAPHS[name])
    boxes, points = ours(torch.from_numpy(photograph).permute(2, 0, 1).float())
    with torch.no_grad():
        expected, their_points = peer.detect_face(
            photograph, 20, theirs.pnet, theirs.rnet, theirs.onet, [0.6, 0.7, 0.7], 0.709, "cpu"
        )
    assert len(boxes) >= 1
    # The same arithmetic in another order: hundredths of a pixel.
    np.testing.assert_allclose(boxes.numpy(), np.asarray(expected[0], float), rtol=0, atol=0.02)
    np.testing.assert_allclose(points.numpy(), np.asarray(their_points[0], float), rtol=0, atol=0.02)


def test_nothing_is_found_in_nothing() -> None:
    detector = MTCNN(MTCNNConfig())
    for height, width in ((5, 5), (1, 300), (64, 64)):
        for parameter in detector.parameters():
            parameter.data.zero_()  # says 1/2 everywhere, below every threshold
        boxes, points = detector(torch.full((3, height, width), 128.0))
        assert boxes.shape == (0, 5)
        assert points.shape == (0, 5, 2)


@pytest.mark.parametrize("most", [0.3, 0.5, 0.7])
def test_suppression_is_the_greedy_one(most: float) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((40, 2), generator=generator) * 20
    sides = 5 + torch.rand((40, 2), generator=generator) * 10
    boxes = torch.cat([corners, corners + sides, torch.rand((40, 1), generator=generator)], 1)
    assert torch.equal(suppress(boxes, most), plain_nms(boxes[:, :4], boxes[:, 4], most))


def test_suppression_by_the_smaller_box_is_facenets(peer: types.ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((60, 2), generator=generator) * 20
    sides = 3 + torch.rand((60, 2), generator=generator) * 15
    boxes = torch.cat([corners, corners + sides, torch.rand((60, 1), generator=generator)], 1)
    theirs = sys.modules["facenet_pytorch.models.utils.detect_face"].batched_nms_numpy(
        boxes[:, :4], boxes[:, 4], torch.zeros(60), 0.7, "Min"
    )
    kept = suppress(boxes, 0.7, by_smaller=True)
    assert 0 < len(kept) < len(suppress(boxes, 0.7))
    assert kept.tolist() == theirs.tolist()
