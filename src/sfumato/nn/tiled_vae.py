"""The autoencoder on large pictures, tile by tile, with the result of doing it at once.

Tiles differ from the whole in three things. What a layer sees beyond a tile's edge: every tile is cut with a
margin as wide as its layers can see, and loses it again. Attention, which sees everything: it works on the
smallest map, and this is computed whole. The statistics of group norms, which are those of the whole picture:
all tiles are first run up to the norm and measured, then run through it.

Between parts of the network a map is held whole. A part of k norms is run k times to measure and once to
finish, from its held map, so the more is held the less is computed twice: half as much again where every map
may be held, about eight times as much where only the smallest are.

Shape letters: B images, C channels, Z latent channels, H W height and width, f the reduction, G groups,
D = C / G channels of a group. A part's unit is a place of the smaller of its two maps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.nn.layers import Upsample
from sfumato.nn.norm import GroupNorm
from sfumato.nn.vae import (
    LOGVAR_RANGE,
    AutoencoderKL,
    Decoder,
    DownLevel,
    Downsample,
    Encoder,
    Middle,
    Normalise,
    ResBlock,
    UpLevel,
)

ALWAYS_HELD = 4  # maps of at most a fourth of the picture's side may be held, however large


def encode_tiled(vae: AutoencoderKL, image: Tensor, *, tile: int, held: int) -> tuple[Tensor, Tensor]:
    """Give what `vae.encode` gives, in the memory of a tile and two held maps.

    Args:
        vae: the autoencoder; where its convolutions are circular, opposite edges meet here too.
        image: (B,3,H,W) in [-1, 1], H and W multiples of f.
        tile: pixels along a tile's side, without its margin.
        held: numbers in a map that may be held between parts, beside the small ones that always are.

    Returns:
        Mean and log-variance (B,Z,H/f,W/f) each, unscaled.
    """
    pixels = (image.shape[2], image.shape[3])
    x = _run(_encoder_layers(vae.encoder), image, pixels, tile, held)
    mean, logvar = vae.quant_conv(x).chunk(2, dim=1)
    return mean, logvar.clamp(*LOGVAR_RANGE)


def decode_tiled(vae: AutoencoderKL, latents: Tensor, *, tile: int, held: int) -> Tensor:
    """Give what `vae.decode` gives, in the memory of a tile and two held maps.

    Args:
        vae: the autoencoder; where its convolutions are circular, opposite edges meet here too.
        latents: (B,Z,h,w), unscaled.
        tile: pixels along a tile's side, without its margin.
        held: numbers in a map that may be held between parts, beside the small ones that always are.

    Returns:
        (B,3,f·h,f·w), about [-1, 1] and not clamped.
    """
    f = vae.config.reduction
    pixels = (f * latents.shape[2], f * latents.shape[3])
    return _run(_decoder_layers(vae.decoder), vae.post_quant_conv(latents), pixels, tile, held)


def _encoder_layers(encoder: Encoder) -> Iterator[nn.Module]:
    yield encoder.conv_in
    for level in encoder.down:
        assert isinstance(level, DownLevel)
        yield from level.layers()
    yield from (encoder.mid, encoder.norm_out, encoder.silu, encoder.conv_out)


def _decoder_layers(decoder: Decoder) -> Iterator[nn.Module]:
    yield from (decoder.conv_in, decoder.mid)
    for level in reversed(decoder.up):
        assert isinstance(level, UpLevel)
        yield from level.layers()
    yield from (decoder.norm_out, decoder.silu, decoder.conv_out)


def _run(layers: Iterator[nn.Module], x: Tensor, pixels: tuple[int, int], tile: int, held: int) -> Tensor:
    """Apply all layers, holding a map wherever that is allowed."""
    part: list[nn.Module] = []
    size, channels = (x.shape[2], x.shape[3]), x.shape[1]
    for layer in layers:
        part.append(layer)
        size, channels = _shape_after(layer, size, channels)
        small = size[0] * ALWAYS_HELD <= pixels[0]
        ends = isinstance(layer, ResBlock | Middle | Upsample | Downsample)
        if ends and (small or len(x) * channels * size[0] * size[1] <= held):
            x = _run_part(part, x, tile * x.shape[2] // pixels[0])
            part = []
    return _run_part(part, x, tile * x.shape[2] // pixels[0])


def _shape_after(layer: nn.Module, size: tuple[int, int], channels: int) -> tuple[tuple[int, int], int]:
    """Size and channels of a layer's output."""
    if isinstance(layer, Upsample):
        return (2 * size[0], 2 * size[1]), channels
    if isinstance(layer, Downsample):
        return (size[0] // 2, size[1] // 2), channels
    if isinstance(layer, ResBlock):
        return size, layer.conv2.out_channels
    return size, layer.out_channels if isinstance(layer, nn.Conv2d) else channels


def _run_part(layers: Sequence[nn.Module], x: Tensor, side: int) -> Tensor:
    """Apply a part's layers to the held map (B,C,H,W), in tiles of `side` places of it."""
    unit = 2 ** sum(isinstance(layer, Downsample) for layer in layers)  # places of x
    larger = 2 ** sum(isinstance(layer, Upsample) for layer in layers)  # places of the result in a unit
    height, width = x.shape[2] // unit, x.shape[3] // unit
    tiles = list(_tiles(height, width, max(1, side // unit)))
    if len(tiles) == 1 or any(isinstance(layer, Middle) for layer in layers):
        for layer in layers:
            x = layer(x)
        return x
    margin = _margin(layers)
    convolutions = (each for layer in layers for each in layer.modules() if isinstance(each, nn.Conv2d))
    wraps = any(each.padding_mode == "circular" for each in convolutions)
    known: dict[nn.Module, Moments] = {}

    def normalise(norm: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(norm, GroupNorm)
        return known[norm].applied(norm, x)

    for norm in _norms(layers):
        measured = None
        for tile in tiles:
            cut, inner = tile.around(x, unit, margin, wraps=wraps)
            map_ = _run_until(norm, layers, cut, normalise)
            own = Moments.of(inner.of(map_, cut.shape[2] // unit), norm.num_groups)
            measured = own if measured is None else measured.joined(own)
        assert measured is not None
        known[norm] = measured
    out: Tensor | None = None
    for tile in tiles:
        cut, inner = tile.around(x, unit, margin, wraps=wraps)
        finished = inner.of(_run_until(None, layers, cut, normalise), cut.shape[2] // unit)
        if out is None:
            shape = (len(x), finished.shape[1], height * larger, width * larger)
            out = torch.empty(shape, dtype=finished.dtype, device=x.device, memory_format=torch.channels_last)
        tile.of(out, height).copy_(finished)
    assert out is not None
    return out


def _norms(layers: Sequence[nn.Module]) -> Iterator[GroupNorm]:
    for layer in layers:
        yield from (each for each in layer.modules() if isinstance(each, GroupNorm))


def _run_until(
    norm: GroupNorm | None, layers: Sequence[nn.Module], x: Tensor, normalise: Normalise
) -> Tensor:
    """Give what `norm` is given, or the output of all layers."""
    for layer in layers:
        if isinstance(layer, ResBlock):
            if norm is layer.norm1:
                return x
            if norm is layer.norm2:
                return layer.halfway(x, normalise)
            x = layer(x, normalise)
        elif isinstance(layer, GroupNorm):
            if norm is layer:
                return x
            x = normalise(layer, x)
        else:
            x = layer(x)
    return x


@dataclass(frozen=True)
class Moments:
    """Mean and variance of the groups of a norm, over `count` numbers each."""

    mean: Tensor  # (B,G) float64
    variance: Tensor  # (B,G) float64
    count: int

    @classmethod
    def of(cls, x: Tensor, groups: int) -> Moments:
        """Measure (B,C,H,W)."""
        flat = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(len(x), groups, -1)  # (B,G,D·H·W)
        variance, mean = torch.var_mean(flat, 2, correction=0)
        return cls(mean.double(), variance.double(), flat.shape[2])

    def joined(self, other: Moments) -> Moments:
        """The moments of both lots together (Chan, Golub & LeVeque 1979, equation 2.1)."""
        count = self.count + other.count
        share, apart = other.count / count, other.mean - self.mean
        variance = torch.lerp(self.variance, other.variance, share) + apart.square() * share * (1 - share)
        return Moments(self.mean + apart * share, variance, count)

    def applied(self, norm: GroupNorm, x: Tensor) -> Tensor:
        """Normalise (B,C,H,W) by these instead of its own."""
        each = norm.num_channels // norm.num_groups
        rate = (self.variance + norm.eps).rsqrt().repeat_interleave(each, 1) * norm.weight  # (B,C)
        shift = norm.bias - self.mean.repeat_interleave(each, 1) * rate
        return torch.addcmul(_wide(shift, x), x, _wide(rate, x))


def _wide(values: Tensor, x: Tensor) -> Tensor:
    return values[:, :, None, None].to(x.dtype)  # (B,C,1,1)


@dataclass(frozen=True)
class Window:
    """A rectangle of a map, in units."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, x: Tensor, height: int) -> Tensor:
        """View this part of (B,C,H,W), which is `height` units high."""
        unit = x.shape[2] // height
        return x[:, :, unit * self.top : unit * self.bottom, unit * self.left : unit * self.right]

    def around(self, x: Tensor, unit: int, margin: int, *, wraps: bool) -> tuple[Tensor, Window]:
        """This part of (B,C,H,W) with a margin, and where it stands in that.

        The margin ends at the map's edge, or goes on beyond the opposite one where it `wraps`.
        """
        spans, starts = [], []
        for low, high, size in (
            (self.top, self.bottom, x.shape[2] // unit),
            (self.left, self.right, x.shape[3] // unit),
        ):
            span = (
                (low - margin, high + margin) if wraps else (max(0, low - margin), min(size, high + margin))
            )
            spans.append(span)
            starts.append(low - span[0])
        for dim, (low, high) in zip((2, 3), spans, strict=True):
            if low >= 0 and high * unit <= x.shape[dim]:
                x = x.narrow(dim, low * unit, (high - low) * unit)
            else:
                x = x.index_select(dim, torch.arange(low * unit, high * unit, device=x.device) % x.shape[dim])
        (top, left), height, width = starts, self.bottom - self.top, self.right - self.left
        return x, Window(top, top + height, left, left + width)


def _tiles(height: int, width: int, side: int) -> Iterator[Window]:
    """Near equal tiles that cover a map, none larger than `side`."""
    rows, columns = (
        [size * k // count for k in range(count + 1)]
        for size, count in ((height, -(-height // side)), (width, -(-width // side)))
    )
    for (top, bottom), (left, right) in itertools.product(
        itertools.pairwise(rows), itertools.pairwise(columns)
    ):
        yield Window(top, bottom, left, right)


def _margin(layers: Sequence[nn.Module]) -> int:
    """How many units from a tile's edge what layers give can be wrong, at the worst of them."""
    unit = 2 ** sum(isinstance(layer, Downsample) for layer in layers)  # places of the present map
    wrong, most = 0, 0
    for layer in layers:
        if isinstance(layer, Upsample):
            wrong, unit = 2 * wrong + 1, 2 * unit
        elif isinstance(layer, Downsample):
            wrong, unit = (wrong + 2) // 2, unit // 2
        elif isinstance(layer, ResBlock):
            wrong += 2
        elif isinstance(layer, nn.Conv2d):
            wrong += 1
        most = max(most, -(-wrong // unit))
    return most
