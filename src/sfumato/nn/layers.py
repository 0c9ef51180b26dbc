"""What more than one network uses. Shape letters: B images, C channels, H W height and width, T = H·W tokens.

Everything here keeps the memory format it is given; in channels_last the ways between images and tokens
are views.
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def require(condition: bool, message: str) -> None:
    """Refuse a configuration.

    Args:
        condition: what must hold.
        message: what was given, what was expected, what to do.

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(message)


def require_widths(widths: tuple[int, ...], groups: int) -> None:
    """Refuse level widths that are empty, not positive or not divisible into the groups of their norms.

    Args:
        widths: channels of each level.
        groups: groups of the group norms.

    Raises:
        ValueError: with the first width at fault.
    """
    require(groups >= 1, f"groups={groups} is not a positive number")
    require(len(widths) >= 1, "no level is configured; give one width a level")
    for width in widths:
        require(
            width >= 1 and width % groups == 0,
            f"a level of {width} channels is not a multiple of groups={groups}; change one of them",
        )


def zeroed(module: M) -> M:
    """Set a module's parameters to zero, so that the branch it ends adds nothing before training."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def to_tokens(x: Tensor) -> Tensor:
    """Read an image (B,C,H,W) as tokens (B,T,C), row by row."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def to_image(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Read tokens (B,T,C) as an image (B,C,H,W), channels_last in memory; the inverse of `to_tokens`."""
    return tokens.reshape(len(tokens), *size, -1).permute(0, 3, 1, 2)


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Encode noise levels as cosines and sines of geometrically spaced frequencies.

    Source: Ho et al. 2020 (arXiv:2006.11239), after Vaswani et al. 2017, section 3.5; cosines first.

    Args:
        timesteps: (B,), 0 to 999, fractions allowed.
        width: of the code, even.
        max_period: 2π times this is the longest wavelength, in timesteps.

    Returns:
        (B,width) float32 whatever the timesteps' dtype: 16 bits cannot hold timesteps above 256 apart.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) / half * steps)  # (width/2,)
    angles = timesteps.float()[:, None] * frequencies  # (B,width/2)
    return torch.cat([angles.cos(), angles.sin()], 1)  # (B,width)


class SiLU(nn.Module):
    """x · sigmoid(x) of a tensor nobody else holds: written over its input unless gradients are wanted."""

    def forward(self, x: Tensor) -> Tensor:
        """Map each number on its own; a large feature map is not held twice."""
        return F.silu(x, inplace=not torch.is_grad_enabled())


class Upsample(nn.Module):
    """Repeat pixels to a larger size, then smooth with a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Enlarge (B,C,H,W) to `size`, or twice the size where none is given."""
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        x = F.interpolate(x, size=(height, width), mode="nearest")  # (B,C,height,width)
        out: Tensor = self.conv(x)
        return out
