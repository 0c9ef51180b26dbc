"""The autoencoder between pictures and latents (Rombach et al. 2022, arXiv:2112.10752, section 3.1).

Modules carry the names of the published single-file checkpoints.

Shape letters: B images, C channels, Z latent channels, H W height and width, f = 2^(levels - 1) the
reduction, 8 for Stable Diffusion.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.attention import attention
from sfumato.nn.layers import SiLU, Upsample, require, require_widths, to_image, to_tokens
from sfumato.nn.norm import GroupNorm

LOGVAR_RANGE = (-30.0, 20.0)

Normalise = Callable[[nn.Module, Tensor], Tensor]
"""How a layer is to apply its norms to (B,C,H,W); `nn/tiled_vae.py` has one for parts of a picture."""


def by_itself(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise (B,C,H,W) by its own statistics."""
    out: Tensor = norm(x)
    return out


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The autoencoder's size. The defaults are SD 1.x and 2.x."""

    channels: tuple[int, ...] = (128, 256, 512, 512)  # width of each level, from the picture on
    res_blocks: int = 2  # residual blocks a level in the encoder; one more in the decoder
    latent_channels: int = 4
    groups: int = 32  # of the group norms
    scale_factor: float = 0.18215  # the U-Net's latents are these times this; nothing here applies it

    def __post_init__(self) -> None:
        for name in ("res_blocks", "latent_channels", "scale_factor"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)} is not a positive number")
        require_widths(self.channels, self.groups)

    @property
    def reduction(self) -> int:
        """Pixels a latent along each side."""
        return int(2 ** (len(self.channels) - 1))


class ResBlock(nn.Module):
    """Two convolutions added to the input."""

    def __init__(self, config: VAEConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.silu = SiLU()
        self.widens = in_channels != out_channels

    def forward(self, x: Tensor, normalise: Normalise = by_itself) -> Tensor:
        """Change (B,C,H,W); C may change."""
        h = self.halfway(x, normalise)  # bound again at each line: at the size of pictures every map counts
        h = normalise(self.norm2, h)
        h = self.conv2(self.silu(h))
        out: Tensor = (self.nin_shortcut(x) if self.widens else x) + h
        return out

    def halfway(self, x: Tensor, normalise: Normalise = by_itself) -> Tensor:
        """Give what the second norm is given."""
        h = normalise(self.norm1, x)
        out: Tensor = self.conv1(self.silu(h))
        return out


class AttentionBlock(nn.Module):
    """Pixels of a feature map look at each other, with one head; added to the input."""

    def __init__(self, config: VAEConfig, channels: int) -> None:
        super().__init__()
        self.norm = _norm(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Change (B,C,H,W)."""
        h = self.norm(x)
        h = attention(to_tokens(self.q(h)), to_tokens(self.k(h)), to_tokens(self.v(h)))  # (B,H·W,C)
        out: Tensor = x + self.proj_out(to_image(h, (x.shape[2], x.shape[3])))
        return out


class Middle(nn.Module):
    """The layers at the smallest size."""

    def __init__(self, config: VAEConfig, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(config, channels, channels)
        self.attn_1 = AttentionBlock(config, channels)
        self.block_2 = ResBlock(config, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Change (B,C,H,W)."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Downsample(nn.Module):
    """Halve the size with a strided convolution that is padded on the right and below only.

    It is padded as the convolution's `padding_mode` says: with zeros, or from the other edge.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Shrink (B,C,H,W) to (B,C,H/2,W/2)."""
        mode = "circular" if self.conv.padding_mode == "circular" else "constant"
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1), mode=mode))
        return out


class DownLevel(nn.Module):
    """Residual blocks of one size, then half the size unless it is the last level.

    Its layers are run by the encoder itself, so that no caller holds an earlier map than the present one.
    """

    def __init__(self, config: VAEConfig, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.res_blocks - 1)
        self.block = nn.ModuleList(ResBlock(config, width, out_channels) for width in widths)
        self.last = last
        if not last:
            self.downsample = Downsample(out_channels)

    def layers(self) -> Iterator[nn.Module]:
        """Change (B,C,H,W), one after another, to (B,C',H/2,W/2), or (B,C',H,W) at the last level."""
        yield from self.block
        if not self.last:
            yield self.downsample


class UpLevel(nn.Module):
    """Residual blocks of one size, then twice the size unless it is the level of the picture.

    Its layers are run by the decoder itself, so that no caller holds an earlier map than the present one.
    """

    def __init__(self, config: VAEConfig, in_channels: int, out_channels: int, *, first: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * config.res_blocks
        self.block = nn.ModuleList(ResBlock(config, width, out_channels) for width in widths)
        self.first = first
        if not first:
            self.upsample = Upsample(out_channels)

    def layers(self) -> Iterator[nn.Module]:
        """Change (B,C,H,W), one after another, to (B,C',2H,2W), or (B,C',H,W) at the level of the picture."""
        yield from self.block
        if not self.first:
            yield self.upsample


class Encoder(nn.Module):
    """Pictures to the parameters of their latents' distribution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        first, top = config.channels[0], config.channels[-1]
        self.conv_in = nn.Conv2d(3, first, 3, padding=1)
        widths = (first, *config.channels)
        self.down = nn.ModuleList(
            DownLevel(config, widths[level], width, last=level == len(config.channels) - 1)
            for level, width in enumerate(config.channels)
        )
        self.mid = Middle(config, top)
        self.norm_out = _norm(config, top)
        self.silu = SiLU()
        self.conv_out = nn.Conv2d(top, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures (B,3,H,W) to (B,2Z,H/f,W/f)."""
        x = self.conv_in(x)
        for level in self.down:
            assert isinstance(level, DownLevel)
            for layer in level.layers():
                x = layer(x)
        out: Tensor = self.conv_out(self.silu(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """Latents to pictures."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        first, top = config.channels[0], config.channels[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, top, 3, padding=1)
        self.mid = Middle(config, top)
        widths = (*config.channels, top)  # counted from the picture, run from the latents
        self.up = nn.ModuleList(
            UpLevel(config, widths[level + 1], width, first=level == 0)
            for level, width in enumerate(config.channels)
        )
        self.norm_out = _norm(config, first)
        self.silu = SiLU()
        self.conv_out = nn.Conv2d(first, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map latents (B,Z,H/f,W/f) to pictures (B,3,H,W)."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            assert isinstance(level, UpLevel)
            for layer in level.layers():
                x = layer(x)
        out: Tensor = self.conv_out(self.silu(self.norm_out(x)))
        return out


class AutoencoderKL(nn.Module):
    """Pictures to latents and back."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give the normal distribution of a picture's latents.

        Args:
            image: (B,3,H,W) in [-1, 1], H and W multiples of f.

        Returns:
            Mean and log-variance (B,Z,H/f,W/f) each, unscaled; the log-variance lies in [-30, 20].
        """
        mean, logvar = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """Give the picture of latents.

        Args:
            latents: (B,Z,h,w), unscaled, that is divided by the scale factor.

        Returns:
            (B,3,f·h,f·w), about [-1, 1] and not clamped.
        """
        image: Tensor = self.decoder(self.post_quant_conv(latents))
        return image


def _norm(config: VAEConfig, channels: int) -> GroupNorm:
    return GroupNorm(config.groups, channels, eps=1e-6)
