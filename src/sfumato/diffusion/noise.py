"""Standard normal noise that belongs to a picture's seed, not to its batch or its machine.

Two kinds: a sequence of independent draws (`ImageNoise`: starting latents, ancestral samplers) and the
increments of one Brownian path (`BrownianNoise`: SDE samplers). Every picture has its own seed and its own
generator, so picture k of a batch is the picture made alone with seed + k.

Shape letters: B pictures, C latent channels, H W latent size, N = C H W.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sfumato.types import MAX_SEED, NoiseSource, Variation

NoiseKind = Literal["none", "fresh", "brownian"]
NoiseSampler = Callable[[float, float], Tensor]
"""(sigma, sigma_next) -> standard normal (B,C,H,W) for the step between them; any device, float32."""

Words = npt.NDArray[np.uint64]  # 32-bit words, kept in 64 so that products do not overflow
Floats = npt.NDArray[np.float64]

PLAIN = Variation()

_REDUCTION = 8  # pixels to latents, for the sizes of `Variation`
_BITS = np.uint64(32)
_WORD = np.uint64(0xFFFFFFFF)
_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))  # golden ratio and sqrt(3) - 1, as fractions of 2^32
_ANGLE = float(np.float32(2 * math.pi * 2.0**-32))  # in single precision as on the GPU: seen in the 7th digit

_PATH_STREAM = 1  # second counter word of Brownian draws; pictures use 0
_OCTAVES = (-11.0, 13.0)  # log2 of sigma, from 0.0005 to 8192
_LEAVES = 2**15  # a leaf is 0.0007 octaves: steps down to 0.05 % of sigma are told apart


def picture_seeds(seed: int, subseed: int, strength: float, count: int) -> tuple[tuple[int, int], ...]:
    """Give each of `count` pictures its seed and its variation's: seed + k, or with a variation subseed + k.

    Source: own; the rule of the field's interfaces. Numbers wrap at 2^64.

    Args:
        seed: of the first picture, 0 to 2^64 - 1.
        subseed: of its variation.
        strength: of the variation; above 0 all pictures have the same seed.
        count: pictures, at least 1.

    Returns:
        (seed, subseed) of each.
    """
    return tuple(
        ((seed + (0 if strength > 0 else k)) & MAX_SEED, (subseed + k) & MAX_SEED) for k in range(count)
    )


def image_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Give each of `count` pictures its seed where there is no variation: seed, seed + 1, …, see above.

    Source: own.

    Args:
        seed: of the first picture, 0 to 2^64 - 1.
        count: pictures, at least 1.
    """
    return tuple(first for first, _ in picture_seeds(seed, 0, 0.0, count))


def philox_normal(seeds: Sequence[int], draw: int, shape: Sequence[int]) -> Tensor:
    """Draw standard normal numbers from the counter-based generator Philox4x32-10.

    Equal (to rounding) to what torch draws on an NVIDIA GPU for tensors that one kernel launch covers; as
    there, a block of four words gives a single number.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; normal numbers by
    Box & Muller 1958, the sine branch.

    Args:
        seeds: one per picture, 0 to 2^64 - 1.
        draw: number of the draw, from 0 to 2^32 - 1.
        shape: of one picture's numbers, fewer than 2^32.

    Returns:
        (B, *shape) float32 on the CPU.
    """
    first, second, *_ = _philox(seeds, draw, 0, math.prod(shape))
    radius, angle = _polar(first, second)
    return torch.from_numpy((radius * np.sin(angle)).astype(np.float32)).view(len(seeds), *shape)


def _philox(seeds: Sequence[int], draw: int, stream: int, blocks: int) -> tuple[Words, Words, Words, Words]:
    """Encrypt the counters (draw, stream, block, 0) with each seed as the key: four words (B, blocks)."""
    key = np.array(seeds, dtype=np.uint64)[:, None]  # (B,1)
    k0, k1 = key & _WORD, key >> _BITS
    c0, c1, c3 = np.full_like(key, draw), np.full_like(key, stream), np.zeros_like(key)
    c2 = np.arange(blocks, dtype=np.uint64)[None]  # (1,blocks)
    for _ in range(_ROUNDS):
        even, odd = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (odd >> _BITS) ^ c1 ^ k0, odd & _WORD, (even >> _BITS) ^ c3 ^ k1, even & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _polar(first: Words, second: Words) -> tuple[Floats, Floats]:
    """Turn two words into a radius and an angle: its sine and cosine parts are two normal numbers."""
    u = (first.astype(np.float64) + 0.5) * 2.0**-32  # in (0, 1)
    angle = (second.astype(np.float64) + 0.5) * _ANGLE  # in (0, 2 pi)
    return np.sqrt(-2 * np.log(u)), angle


class ImageNoise:
    """Successive independent draws, one generator per picture.

    The first draw makes the starting latents; ancestral samplers take the following ones.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        source: NoiseSource,
        *,
        subseeds: Sequence[int] = (),
        variation: Variation = PLAIN,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start every picture's sequence at its first draw.

        Args:
            seeds: one per picture, 0 to 2^64 - 1; see `picture_seeds`.
            shape: of one picture's latents, (C,H,W).
            source: "philox" = the portable generator; "cpu" = torch's CPU generator; "device" = torch's
                generator on `device`, whose numbers depend on it (on MPS that of the CPU).
            subseeds: one per picture, for a `variation` whose strength is above 0.
            variation: how the first draw is mixed and sized, and by how much the seeds of later ones differ.
            device: of the latents; used by the source "device" alone.
        """
        assert seeds, "noise for no picture"
        assert variation.strength == 0 or len(subseeds) == len(seeds), "one subseed per picture"
        self.seeds, self.subseeds = tuple(seeds), tuple(subseeds)
        self.shape, self.source, self.variation = shape, source, variation
        where = torch.device(device)
        self._device = where if source == "device" and where.type != "mps" else torch.device("cpu")
        self._first = True
        self._open(self.seeds)

    def draw(self) -> Tensor:
        """Give the next (B,C,H,W) standard normal numbers, float32, on the CPU save for "device"."""
        if not self._first:
            return self._next()
        self._first = False
        drawn = self._starting()
        if self.variation.seed_delta:
            self._open([(seed + self.variation.seed_delta) & MAX_SEED for seed in self.seeds])
        return drawn

    def _starting(self) -> Tensor:
        """The first draw: between two seeds, or set into the middle of a draw of another size."""
        size = self._from_size()
        drawn = self._next()
        mixed = drawn if size == self.shape else self._alone(self.seeds, size)
        if self.variation.strength > 0:
            other = self._alone(self.subseeds, size)
            mixed = torch.stack(
                [slerp(*both, self.variation.strength) for both in zip(mixed, other, strict=True)]
            )
        return mixed if size == self.shape else _set_in_the_middle(drawn, mixed)

    def _from_size(self) -> tuple[int, int, int]:
        width, height = self.variation.from_width, self.variation.from_height
        if width == 0 or height == 0:
            return self.shape
        return self.shape[0], max(height // _REDUCTION, 1), max(width // _REDUCTION, 1)

    def _alone(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
        return ImageNoise(seeds, shape, self.source, device=self._device).draw()

    def _open(self, seeds: Sequence[int]) -> None:
        """Put every picture's generator at the start of the sequence of its seed."""
        self._opened, self._draws = tuple(seeds), 0
        self._generators = (
            [] if self.source == "philox" else [torch.Generator(self._device).manual_seed(s) for s in seeds]
        )

    def _next(self) -> Tensor:
        self._draws += 1
        if self.source == "philox":
            return philox_normal(self._opened, self._draws - 1, self.shape)
        return torch.stack(
            [torch.randn(self.shape, generator=each, device=self._device) for each in self._generators]
        )


def slerp(low: Tensor, high: Tensor, share: float) -> Tensor:
    """Go from one picture's noise to another's on the sphere, so that the variance stays.

    Angles are taken between columns, as the field's programs do it. Where the two are nearly the same
    (cosine above 0.9995 on average), or a column of both points the same way, the line between them serves.

    Source: Shoemake 1985, "Animating rotation with quaternion curves", section 3.3.

    Args:
        low: noise (C,H,W) at share 0.
        high: noise (C,H,W) at share 1.
        share: in [0, 1].
    """
    cosine = (low / low.norm(dim=1, keepdim=True) * (high / high.norm(dim=1, keepdim=True))).sum(1, True)
    if cosine.mean() > 0.9995:
        return low * share + high * (1 - share)  # this way round in the pictures that are to be made again
    angle = cosine.clamp(-1, 1).acos()  # (C,1,W)
    whole = angle.sin()
    straight = whole < 1e-6
    whole = whole.masked_fill(straight, 1)
    first = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / whole)
    second = torch.where(straight, share, (share * angle).sin() / whole)
    return first * low + second * high


def _set_in_the_middle(around: Tensor, inner: Tensor) -> Tensor:
    """Replace the middle of (B,C,H,W) by (B,C,h,w), of which what stands out is cropped."""
    result = around.clone()
    own, taken = [], []
    for outer, given in zip(around.shape[2:], inner.shape[2:], strict=True):
        margin = (outer - given) // 2  # negative where `inner` is larger
        length = given if margin >= 0 else given + 2 * margin
        own.append(slice(max(margin, 0), max(margin, 0) + length))
        taken.append(slice(max(-margin, 0), max(-margin, 0) + length))
    result[:, :, own[0], own[1]] = inner[:, :, taken[0], taken[1]]
    return result


class BrownianNoise:
    """Normalised increments of one Brownian path per picture, over the logarithm of sigma.

    Increments over disjoint intervals are independent; over overlapping ones they are as correlated as the
    path demands; and the path depends on the seed alone, so more steps refine the same picture. Values are
    found by Lévy's construction: each midpoint is the mean of its neighbours plus independent noise that the
    portable generator gives for (seed, midpoint). Times are rounded to a fixed grid and increments normalised
    by the rounded length, so their variance is exactly 1.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        """Fix the paths; nothing is drawn beyond their two ends.

        Args:
            seeds: one per picture, 0 to 2^64 - 1.
            shape: of one picture's latents, (C,H,W).
        """
        self._seeds, self._shape = tuple(seeds), shape
        end = self._normal(0) * math.sqrt(_LEAVES)
        self._ends = {0: torch.zeros_like(end), _LEAVES: end}
        self._nodes = dict(self._ends)  # W at the grid points of the last two queries' paths through the tree

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Give (W(sigma_next) - W(sigma)) / sqrt(length): (B,C,H,W), standard normal, float32 on the CPU."""
        start, stop = _leaf(sigma), _leaf(sigma_next)
        if start == stop:  # closer than the grid: the nearest increment of the right sign
            start, stop = (stop + 1, stop) if stop < _LEAVES else (stop, stop - 1)
        increment = self.increment(start, stop)
        return (increment / math.sqrt(abs(stop - start))).float()

    def increment(self, start: int, stop: int) -> Tensor:
        """Give W(stop) - W(start) between two grid points: (B,C,H,W) float64, of variance |stop - start|."""
        needed = _ancestors(start) | _ancestors(stop)
        nodes = {point: self._nodes[point] for point in needed if point in self._nodes} | self._ends
        for point, (low, high) in needed.items():
            if point not in nodes:
                spread = math.sqrt((high - low) / 4)
                nodes[point] = (nodes[low] + nodes[high]) / 2 + spread * self._normal(point)
        self._nodes = nodes
        return nodes[stop] - nodes[start]

    def _normal(self, point: int) -> Tensor:
        """Give a midpoint its numbers (B,C,H,W) float64; all four words of a block become one each."""
        count = math.prod(self._shape)
        words = _philox(self._seeds, point, _PATH_STREAM, -(-count // 4))
        (r0, a0), (r1, a1) = _polar(words[0], words[1]), _polar(words[2], words[3])
        parts = [r0 * np.sin(a0), r0 * np.cos(a0), r1 * np.sin(a1), r1 * np.cos(a1)]
        return torch.from_numpy(np.concatenate(parts, 1)[:, :count]).reshape(len(self._seeds), *self._shape)


def _leaf(sigma: float) -> int:
    low, high = _OCTAVES
    share = (math.log2(sigma) - low) / (high - low)
    return round(min(max(share, 0.0), 1.0) * _LEAVES)


def _ancestors(leaf: int) -> dict[int, tuple[int, int]]:
    """List the midpoints to be known for `leaf`, itself included, coarse to fine, with their neighbours."""
    low, high = 0, _LEAVES
    found: dict[int, tuple[int, int]] = {}
    while leaf not in (low, high):
        middle = (low + high) // 2
        found[middle] = (low, high)
        low, high = (low, middle) if leaf <= middle else (middle, high)
    return found


def noise_sampler(kind: NoiseKind, noise: ImageNoise) -> NoiseSampler:
    """Give a sampler its noise: further draws of each picture's sequence, or its Brownian path.

    Source: own.

    Args:
        kind: what the sampler's row in `SAMPLERS` asks for.
        noise: the pictures' sequence, the starting latents already drawn.
    """
    if kind == "brownian":
        return BrownianNoise(noise.seeds, noise.shape)
    return lambda sigma, sigma_next: noise.draw()
