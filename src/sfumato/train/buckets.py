"""Sizes for pictures of every shape: about one area, so that a batch of any of them costs the same.

A picture goes to the bucket whose shape is nearest, is resized to cover it, and loses what stands out.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from sfumato.errors import TrainingError

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a picture comes into its bucket."""

    resized: Size  # covers the bucket
    bucket: Size

    @property
    def room(self) -> Size:
        """Pixels that stand out beyond the bucket: where a crop may begin, along each side."""
        return self.resized[0] - self.bucket[0], self.resized[1] - self.bucket[1]

    @property
    def lost(self) -> float:
        """Share of the picture that is cropped away, 0 to 1."""
        return 1 - (self.bucket[0] * self.bucket[1]) / (self.resized[0] * self.resized[1])


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Which sizes there are.

    Source: NovelAI's aspect ratio bucketing (2022), in the arithmetic of kohya's sd-scripts, so that a data
    set falls into the same buckets there and here.
    """

    resolution: int  # side of the square whose area no bucket exceeds
    step: int  # every side is a multiple
    smallest: int  # side
    largest: int  # side
    enabled: bool = True  # False = the square alone
    upscale: bool = True  # False = a small picture keeps its size, and has a bucket of its own

    def __post_init__(self) -> None:
        """Raises TrainingError: no size fits these limits."""
        if min(self.resolution, self.step, self.smallest) < 1:
            raise TrainingError("resolution, bucket step and smallest side must be at least 1")
        if self.step > self.resolution:
            raise TrainingError(
                f"bucket step {self.step} is larger than the resolution {self.resolution}; make it smaller"
            )
        if not self.smallest <= self.resolution <= self.largest:
            raise TrainingError(
                f"resolution {self.resolution} is not between the smallest and largest side of a bucket, "
                f"{self.smallest} and {self.largest}"
            )

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """All sizes, by width, then height."""
        side = self.resolution // self.step * self.step
        found = {(side, side)}
        if self.enabled:
            for long in range(self.smallest, self.largest + 1, self.step):
                area_left = self.resolution**2 // long
                short = min(self.largest, area_left // self.step * self.step)
                if short >= self.smallest:
                    found |= {(long, short), (short, long)}
        return tuple(sorted(found))

    def fit(self, width: int, height: int) -> Fit:
        """Choose the bucket for a picture, and the size it is resized to.

        Args:
            width: of the picture, pixels.
            height: of the picture, pixels.
        """
        if self.enabled and not self.upscale:
            return self._own(width, height)
        bucket = min(self.sizes, key=lambda size: abs(size[0] / size[1] - width / height))
        scale = max(bucket[0] / width, bucket[1] / height)
        return Fit(resized=_scaled((width, height), scale, bucket), bucket=bucket)

    def _own(self, width: int, height: int) -> Fit:
        """Shrink to the area, if it is beyond that; cut to multiples of the step."""
        aspect, resized = width / height, (width, height)
        if width * height > self.resolution**2:
            wide = self._side(math.sqrt(self.resolution**2 * aspect))
            high = self._side(math.sqrt(self.resolution**2 / aspect))
            under, beside = self._side(wide / aspect), self._side(high * aspect)
            if abs(wide / under - aspect) < abs(beside / high - aspect):
                resized = wide, _nearest(wide / aspect)
            else:
                resized = _nearest(high * aspect), high
        bucket = self._side(resized[0]), self._side(resized[1])
        if resized[0] < bucket[0] or resized[1] < bucket[1]:  # smaller than any bucket may be
            resized = _scaled((width, height), max(bucket[0] / width, bucket[1] / height), bucket)
        return Fit(resized=resized, bucket=bucket)

    def _side(self, side: float) -> int:
        """Round to a pixel, then down to a step, within what a bucket may be."""
        return min(max(_nearest(side) // self.step, 1), self.largest // self.step) * self.step


def usual_buckets(resolution: int, *, enabled: bool = True, upscale: bool = True) -> Buckets:
    """Give the limits that are usual for a resolution: at 512 from 256 to 1024 in steps of 64.

    Args:
        resolution: side of the square, pixels.
        enabled: False = the square alone.
        upscale: False = small pictures keep their size.

    Raises:
        TrainingError: the resolution is below 64.
    """
    if resolution < 64:
        raise TrainingError(f"resolution {resolution} is too small to train on; take 64 or more")
    step = next(step for step in (64, 32, 16, 8) if 8 * step <= resolution)
    return Buckets(
        resolution=resolution,
        step=step,
        smallest=resolution // 2 // step * step,
        largest=resolution * 2,
        enabled=enabled,
        upscale=upscale,
    )


def _nearest(value: float) -> int:
    return int(value + 0.5)


def _scaled(size: Size, scale: float, least: Size) -> Size:
    return max(least[0], _nearest(size[0] * scale)), max(least[1], _nearest(size[1] * scale))
