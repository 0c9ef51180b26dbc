"""The upscaler ESRGAN and Real-ESRGAN are made of.

Shape letters: B images, 3 colours, H W their size, F features, G growth, U unshuffling, S scale.

Source: Wang et al. 2018, "ESRGAN" (arXiv:1809.00219), section 3.1; Wang et al. 2021, "Real-ESRGAN"
(arXiv:2107.10833), section 3.4 for the unshuffled input of ×2 and ×1. Parameter names are those of the
published Real-ESRGAN files.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.layers import require

RESIDUAL = 0.2  # what a block adds is scaled by this
SLOPE = 0.2  # of negative values


@dataclass(frozen=True, kw_only=True)
class RRDBNetConfig:
    """Shape of an ESRGAN network; the defaults are those of Real-ESRGAN x4plus."""

    blocks: int = 23
    features: int = 64
    growth: int = 32
    doublings: int = 2  # enlargements by two at the end
    unshuffle: int = 1  # the input is folded by this first: 2 for Real-ESRGAN x2plus, 4 for ×1 files

    def __post_init__(self) -> None:
        for name in ("blocks", "features", "growth"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} is not a positive number")
        require(0 <= self.doublings <= 3, f"doublings={self.doublings} is not 0, 1, 2 or 3 (×1 to ×8)")
        require(
            self.unshuffle in (1, 2, 4) and self.unshuffle <= 2**self.doublings,
            f"unshuffle={self.unshuffle} is not 1, 2 or 4, or more than the enlargement 2^{self.doublings}",
        )

    @property
    def scale(self) -> int:
        """How many times wider and higher the result is."""
        return int(2**self.doublings) // self.unshuffle


class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks at the input's size, then doublings with a convolution each."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        self.conv_first = _conv(3 * config.unshuffle**2, width)
        self.body = nn.Sequential(*(RRDB(config) for _ in range(config.blocks)))
        self.conv_body = _conv(width, width)
        for number in range(config.doublings):
            self.add_module(f"conv_up{number + 1}", _conv(width, width))
        self.conv_hr = _conv(width, width)
        self.conv_last = _conv(width, 3)

    @property
    def scale(self) -> int:
        """How many times wider and higher the result is."""
        return self.config.scale

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge colours (B,3,H,W) in [0, 1] to (B,3,S·H,S·W), about [0, 1]."""
        height, width = x.shape[2:]
        fold = self.config.unshuffle
        x = F.pad(x, (0, -width % fold, 0, -height % fold), mode="replicate")
        x = F.pixel_unshuffle(x, fold)  # (B,3·U²,H/U,W/U)
        x = self.conv_first(x)  # (B,F,H/U,W/U)
        x = x + self.conv_body(self.body(x))
        for number in range(self.config.doublings):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = _leaky(self.get_submodule(f"conv_up{number + 1}")(x))
        x = self.conv_last(_leaky(self.conv_hr(x)))
        return x[:, :, : height * self.scale, : width * self.scale]  # (B,3,S·H,S·W)


class RRDB(nn.Module):
    """Three dense blocks in a row, their sum scaled."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(config)
        self.rdb2 = DenseBlock(config)
        self.rdb3 = DenseBlock(config)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features (B,F,H,W)."""
        out: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + RESIDUAL * out


class DenseBlock(nn.Module):
    """Five convolutions, each of everything before it."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        width, growth = config.features, config.growth
        self.conv1 = _conv(width, growth)
        self.conv2 = _conv(width + growth, growth)
        self.conv3 = _conv(width + 2 * growth, growth)
        self.conv4 = _conv(width + 3 * growth, growth)
        self.conv5 = _conv(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features (B,F,H,W)."""
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, _leaky(conv(seen))], 1)  # (B,F+n·G,H,W)
        out: Tensor = self.conv5(seen)  # (B,F,H,W)
        return x + RESIDUAL * out


def _conv(inside: int, outside: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=not torch.is_grad_enabled())
