"""The compact upscaler of Real-ESRGAN: "General" and "AnimeVideo".

Shape letters: B images, 3 colours, H W their size, F features, S scale.

Source: Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833) and the network its authors published later as
SRVGGNetCompact; parameter names are those of their files.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.layers import require


@dataclass(frozen=True, kw_only=True)
class SRVGGConfig:
    """Shape of a compact upscaler; the defaults are those of realesr-animevideov3."""

    convolutions: int = 16  # between the first and the last
    features: int = 64
    scale: int = 4

    def __post_init__(self) -> None:
        require(self.convolutions >= 0, f"convolutions={self.convolutions} is negative")
        require(self.features >= 1, f"features={self.features} is not a positive number")
        require(1 <= self.scale <= 16, f"scale={self.scale} is not between 1 and 16")


class SRVGGNet(nn.Module):
    """Convolutions at the input's size; the last one's channels are the pixels of the result."""

    def __init__(self, config: SRVGGConfig) -> None:
        super().__init__()
        self.config = config
        width = config.features
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(config.convolutions):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        layers.append(nn.Conv2d(width, 3 * config.scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)

    @property
    def scale(self) -> int:
        """How many times wider and higher the result is."""
        return self.config.scale

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge colours (B,3,H,W) in [0, 1] to (B,3,S·H,S·W), about [0, 1]."""
        details = F.pixel_shuffle(self.body(x), self.scale)  # (B,3,S·H,S·W)
        return details + F.interpolate(x, scale_factor=self.scale, mode="nearest")
