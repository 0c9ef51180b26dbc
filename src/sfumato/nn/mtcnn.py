"""Finding faces and five points in each: three small networks, each looking closer than the one before.

Shape letters: H W the picture's size, N candidates, C channels.

Source: Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks" (arXiv:1604.02878), section II; parameter names are those of the PyTorch files in use.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.layers import require

CELL, STRIDE = 12, 2  # pixels the first network sees at each place, and how far apart the places are


@dataclass(frozen=True, kw_only=True)
class MTCNNConfig:
    """How hard is looked, and how sure a face must be."""

    smallest: int = 20  # pixels
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)  # of each network's probability
    factor: float = 0.709  # from one size of the pyramid to the next: half the area

    def __post_init__(self) -> None:
        require(self.smallest >= CELL, f"smallest={self.smallest} is below {CELL} pixels")
        require(0 < self.factor < 1, f"factor={self.factor} is not between 0 and 1")


class MTCNN(nn.Module):
    """Proposals at all sizes, refined, then given their points."""

    def __init__(self, config: MTCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.pnet = _Stage((10, 16, 32), (3, 3, 3), (2,), None, 4)
        self.rnet = _Stage((28, 48, 64), (3, 3, 2), (3, 3), (576, 128), 5)
        self.onet = _Stage((32, 64, 64, 128), (3, 3, 3, 2), (3, 3, 2), (1152, 256), 6, points=True)

    @torch.no_grad()
    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Find the faces in colours (3,H,W) from 0 to 255.

        Returns:
            Boxes (N,5): left, top, right, bottom, probability, surest first; and points (N,5,2) as (x, y):
            left eye, right eye, nose, left and right corner of the mouth, as one sees them in the picture.
        """
        picture = (picture - 127.5) / 128
        boxes = _square(self._propose(picture))
        for stage, side, sure in ((self.rnet, 24, 1), (self.onet, 48, 2)):
            boxes, cuts = _cut(picture, boxes, side)
            if not len(boxes):
                return picture.new_zeros(0, 5), picture.new_zeros(0, 5, 2)
            probability, shift, points = stage(cuts)
            kept = probability > self.config.thresholds[sure]
            boxes = torch.cat([boxes[kept, :4], probability[kept, None]], 1)
            shift, points = shift[kept], points[kept]
            if stage is self.rnet:
                chosen = suppress(boxes, 0.7)
                boxes = _square(_shifted(boxes[chosen], shift[chosen], 1))
        sides = (boxes[:, 2:4] - boxes[:, :2] + 1)[:, None]  # (N,1,2)
        places = points.view(-1, 2, 5).transpose(1, 2) * sides + boxes[:, None, :2] - 1  # (N,5,2)
        boxes = _shifted(boxes, shift, 1)
        chosen = suppress(boxes, 0.7, by_smaller=True)
        return boxes[chosen], places[chosen]

    def _propose(self, picture: Tensor) -> Tensor:
        found = [self._at(picture, scale) for scale in self._pyramid(min(picture.shape[1:]))]
        if not found:
            return picture.new_zeros(0, 5)
        boxes = torch.cat(found)  # (N,9)
        boxes = boxes[suppress(boxes, 0.7)]
        return _shifted(boxes[:, :5], boxes[:, 5:], 0)

    def _pyramid(self, shorter: int) -> Iterator[float]:
        scale = CELL / self.config.smallest
        while shorter * scale >= CELL:
            yield scale
            scale *= self.config.factor

    def _at(self, picture: Tensor, scale: float) -> Tensor:
        """Candidates (N,9) at one size: box, probability, shift."""
        _, height, width = picture.shape
        small = _resized(picture, int(height * scale + 1), int(width * scale + 1))
        probability, shift, _ = self.pnet(small[None])  # (1,h,w), (1,4,h,w)
        rows, columns = (probability[0] >= self.config.thresholds[0]).nonzero(as_tuple=True)
        start = torch.stack([columns, rows], 1).float() * STRIDE + 1  # (N,2) as x, y
        corners = torch.cat([start, start + CELL - 1], 1).div(scale).floor()  # (N,4)
        sure = probability[0, rows, columns]
        boxes = torch.cat([corners, sure[:, None], shift[0, :, rows, columns].T], 1)
        return boxes[suppress(boxes, 0.5)]


class _Stage(nn.Module):
    """Convolutions with slopes, a dense layer in all but the first network, then what is told."""

    def __init__(
        self,
        widths: tuple[int, ...],
        kernels: tuple[int, ...],
        pools: tuple[int, ...],
        dense: tuple[int, int] | None,
        last: int,
        *,
        points: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.pools, self.last, self.points = len(widths), pools, last, points
        for number, (before, after, side) in enumerate(
            zip((3, *widths[:-1]), widths, kernels, strict=True), start=1
        ):
            self.add_module(f"conv{number}", nn.Conv2d(before, after, side))
            self.add_module(f"prelu{number}", nn.PReLU(after))
        self.flat = dense is not None
        if dense is not None:
            self.add_module(f"dense{last - 1}", nn.Linear(*dense))
            self.add_module(f"prelu{last - 1}", nn.PReLU(dense[1]))
        for head, size in enumerate((2, 4, 10)[: 3 if points else 2], start=1):
            if dense is None:
                self.add_module(f"conv{last}_{head}", nn.Conv2d(widths[-1], size, 1))
            else:
                self.add_module(f"dense{last}_{head}", nn.Linear(dense[1], size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the probability of a face, its box's shift (4) and its points (10), at each place or cut."""
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"prelu{number}")(self.get_submodule(f"conv{number}")(x))
            if number <= len(self.pools):
                x = F.max_pool2d(x, self.pools[number - 1], 2, ceil_mode=True)
        kind = "conv"
        if self.flat:
            kind = "dense"
            x = x.permute(0, 3, 2, 1).flatten(1)  # the published weights count columns first
            x = self.get_submodule(f"prelu{self.last - 1}")(self.get_submodule(f"dense{self.last - 1}")(x))
        heads = [
            self.get_submodule(f"{kind}{self.last}_{head}")(x) for head in range(1, 4 if self.points else 3)
        ]
        return heads[0].softmax(1)[:, 1], heads[1], heads[2] if self.points else x


def suppress(boxes: Tensor, most: float, *, by_smaller: bool = False) -> Tensor:
    """Drop boxes that overlap a surer one.

    Args:
        boxes: (N,≥5): left, top, right, bottom, probability.
        most: overlap that is left: of the union, or of the smaller box.
        by_smaller: which of the two; a smaller box's pixels are counted with both edges.

    Returns:
        Which rows stay, the surest first.
    """
    edge = 1 if by_smaller else 0
    order = boxes[:, 4].argsort(descending=True, stable=True)
    sizes = (boxes[:, 2:4] - boxes[:, :2] + edge).prod(1)
    kept = []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(first)
        low = torch.maximum(boxes[first, :2], boxes[rest, :2])
        high = torch.minimum(boxes[first, 2:4], boxes[rest, 2:4])
        shared = (high - low + edge).clamp(min=0).prod(1)
        smaller = torch.minimum(sizes[first], sizes[rest])
        whole = smaller if by_smaller else sizes[first] + sizes[rest] - shared
        order = rest[shared / whole <= most]
    return torch.stack(kept) if kept else order


def _shifted(boxes: Tensor, shift: Tensor, edge: int) -> Tensor:
    """Move the corners by parts of the box's sides, which are counted with `edge` pixels more."""
    sides = boxes[:, 2:4] - boxes[:, :2] + edge
    return torch.cat([boxes[:, :4] + shift * sides.repeat(1, 2), boxes[:, 4:5]], 1)


def _square(boxes: Tensor) -> Tensor:
    """The boxes made square about their middles."""
    middle, sides = (boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]
    half = sides.amax(1, keepdim=True) / 2
    return torch.cat([middle - half, middle + half, boxes[:, 4:5]], 1)


def _cut(picture: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The boxes that lie in the picture, and what is in them (N,3,side,side)."""
    _, height, width = picture.shape
    corners = boxes[:, :4].trunc().long()
    low = corners[:, :2].clamp(min=1) - 1
    high = torch.minimum(corners[:, 2:], corners.new_tensor([width, height]))
    inside = ((high - low) > 0).all(1)
    cuts = [
        _resized(picture[:, top:bottom, left:right], side, side)
        for (left, top), (right, bottom) in zip(low[inside].tolist(), high[inside].tolist(), strict=True)
    ]
    return boxes[inside], torch.stack(cuts) if cuts else picture.new_zeros(0, 3, side, side)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(picture[None], (height, width), mode="area")[0]
