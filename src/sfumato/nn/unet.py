"""The denoising U-Net of Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv:2112.10752, appendix E).

Modules carry the names of the published single-file checkpoints.

Shape letters: B images, C channels, H W latent size (pixels / 8), T context tokens, E context width,
N = H·W image tokens, D width of the time embedding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfumato.nn.attention import attention
from sfumato.nn.layers import (
    SiLU,
    Upsample,
    require,
    require_widths,
    timestep_embedding,
    to_image,
    to_tokens,
    zeroed,
)
from sfumato.nn.norm import GroupNorm

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The U-Net's size. The defaults are SD 1.x."""

    in_channels: int = 4  # 4; 5 with depth; 8 to edit a picture; 9 to fill in a mask
    out_channels: int = 4
    model_channels: int = 320  # width of the first level
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)  # width of each level in units of the first
    res_blocks: int = 2  # residual blocks a level on the way down; one more on the way up
    attention_levels: tuple[int, ...] = (0, 1, 2)  # levels with transformers; the middle always has one
    heads: int = 8  # heads of every attention, where head_dim is None
    head_dim: int | None = None  # width of a head; then wider levels have more heads (SD 2.x: 64)
    context_dim: int = 768  # width of the text encoder
    linear_projection: bool = False  # around transformers; False: 1×1 convolutions (SD 1.x)
    groups: int = 32  # of the group norms

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "res_blocks", "context_dim", "heads"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} is not a positive number")
        require(
            self.model_channels >= 2 and self.model_channels % 2 == 0,
            f"model_channels={self.model_channels} is not a positive even number",
        )
        require_widths(self.widths, self.groups)
        levels = range(len(self.channel_mult))
        require(
            all(level in levels for level in self.attention_levels)
            and len(set(self.attention_levels)) == len(self.attention_levels),
            f"attention_levels={self.attention_levels} must be different levels of 0 to {levels[-1]}",
        )
        require(self.head_dim is None or self.head_dim >= 1, f"head_dim={self.head_dim} is not positive")
        for level in {*self.attention_levels, levels[-1]}:
            width, unit = self.widths[level], self.head_dim or self.heads
            name = "heads" if self.head_dim is None else "head_dim"
            require(
                width % unit == 0,
                f"level {level} has {width} channels, not a multiple of {name}={unit}; change one of them",
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.model_channels * factor for factor in self.channel_mult)

    @property
    def time_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.model_channels

    def heads_of(self, width: int) -> int:
        """Count the heads of an attention over `width` channels."""
        return self.heads if self.head_dim is None else width // self.head_dim


class ResBlock(nn.Module):
    """Two convolutions around a shift by the time embedding, added to the input."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(config.groups, in_channels),
            SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.time_dim, out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(config.groups, out_channels),
            SiLU(),
            nn.Identity(),  # dropout's place in the published names
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Change (B,C,H,W) by the time embedding (B,D); C may change."""
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]  # (B,C',H,W) + (B,C',1,1)
        out: Tensor = self.skip_connection(x) + self.out_layers(h)
        return out


class Attention(nn.Module):
    """Multi-head attention of image tokens to themselves or to the text."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from (B,N,C) to a context (B,T,E)."""
        h = attention(self.to_q(x), self.to_k(context), self.to_v(context), heads=self.heads)
        out: Tensor = self.to_out(h)
        return out  # (B,N,C)


class GatedProjection(nn.Module):
    """A linear map times a GELU gate (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Widen (B,N,C) to (B,N,hidden)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """Gated widening by four and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GatedProjection(width, 4 * width),
            nn.Identity(),  # dropout's place in the published names
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map each token of (B,N,C) on its own."""
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Image tokens look at each other, then at the text, then each is mapped on its own."""

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_dim, heads)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Change image tokens (B,N,C) by the context (B,T,E)."""
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a feature map, added to it."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.linear = config.linear_projection
        self.norm = GroupNorm(config.groups, channels, eps=1e-6)
        self.proj_in = self._projection(channels)
        block = TransformerBlock(channels, config.context_dim, config.heads_of(channels))
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = zeroed(self._projection(channels))

    def _projection(self, channels: int) -> nn.Module:
        return nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Change (B,C,H,W) by the context (B,T,E)."""
        size = (x.shape[2], x.shape[3])
        h = self.norm(x)
        h = self.proj_in(to_tokens(h)) if self.linear else to_tokens(self.proj_in(h))  # (B,N,C)
        for block in self.transformer_blocks:
            h = block(h, context)
        h = to_image(self.proj_out(h), size) if self.linear else self.proj_out(to_image(h, size))
        return x + h  # (B,C,H,W)


class Downsample(nn.Module):
    """Halve the size with a strided convolution; odd sizes round up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shrink (B,C,H,W) to (B,C,⌈H/2⌉,⌈W/2⌉)."""
        out: Tensor = self.op(x)
        return out


class Stage(nn.ModuleList):
    """Layers one after another, each given what it takes."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, size: Size | None = None) -> Tensor:
        """Apply the layers to (B,C,H,W); an upsampler enlarges to `size`."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            elif isinstance(layer, Upsample):
                x = layer(x, size)
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """Predicts the noise (or the velocity) in latents, given their noise level and a text.

    `checkpointing`: when true, training keeps only the activations between stages and computes the others
    again on the way back, so that memory falls and a step takes about a third longer.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        width = config.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(width, config.time_dim), nn.SiLU(), nn.Linear(config.time_dim, config.time_dim)
        )
        self.input_blocks, skip_widths = input_stages(config)
        top = config.widths[-1]
        self.middle_block = Stage(
            [ResBlock(config, top, top), SpatialTransformer(config, top), ResBlock(config, top, top)]
        )
        self.output_blocks = _output_stages(config, skip_widths)
        bottom = config.widths[0]
        self.out = nn.Sequential(
            GroupNorm(config.groups, bottom),
            SiLU(),
            zeroed(nn.Conv2d(bottom, config.out_channels, 3, padding=1)),
        )

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, control: tuple[Tensor, ...] | None = None
    ) -> Tensor:
        """Predict what the parameterisation of the checkpoint says.

        Args:
            x: noisy latents (B,C,H,W), scaled to unit variance, with any further channels appended.
            timesteps: (B,), 0 to 999, fractions allowed.
            context: encoded text (B,T,E).
            control: residuals of a ControlNet, one for the output of each input stage in order and one for
                the middle; each is of its target's shape or broadcasts to it.

        Returns:
            (B,out_channels,H,W), in the weights' dtype.
        """
        assert control is None or len(control) == len(self.input_blocks) + 1
        code = timestep_embedding(timesteps, self.config.model_channels)  # (B,model_channels) float32
        emb = self.time_embed(code.to(next(self.time_embed.parameters()).dtype))  # (B,D)
        skips: list[Tensor] = []
        for stage in self.input_blocks:
            x = self._run(stage, x, emb, context)
            skips.append(x)
        x = self._run(self.middle_block, x, emb, context)
        if control is not None:
            x = x + control[-1]
            skips = [skip + residual for skip, residual in zip(skips, control[:-1], strict=True)]
        for stage in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)  # (B,C+C',H,W)
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            x = self._run(stage, x, emb, context, size)
        out: Tensor = self.out(x)
        return out

    def _run(
        self, stage: nn.Module, x: Tensor, emb: Tensor, context: Tensor, size: Size | None = None
    ) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            kept: Tensor = checkpoint(stage, x, emb, context, size, use_reentrant=False)
            return kept
        out: Tensor = stage(x, emb, context, size)
        return out


def input_stages(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """Build the way down.

    Args:
        config: the U-Net's size.

    Returns:
        The stages, and the channels each of them hands over to the way up.
    """
    width = config.widths[0]
    stages = [Stage([nn.Conv2d(config.in_channels, width, 3, padding=1)])]
    skip_widths = [width]
    for level, level_width in enumerate(config.widths):
        for _ in range(config.res_blocks):
            stages.append(Stage(_block(config, level, width, level_width)))
            width = level_width
            skip_widths.append(width)
        if level < len(config.widths) - 1:
            stages.append(Stage([Downsample(width)]))
            skip_widths.append(width)
    return nn.ModuleList(stages), skip_widths


def _output_stages(config: UNetConfig, skip_widths: list[int]) -> nn.ModuleList:
    remaining = list(skip_widths)
    width = config.widths[-1]
    stages = []
    for level in reversed(range(len(config.widths))):
        level_width = config.widths[level]
        for number in range(config.res_blocks + 1):
            layers = _block(config, level, width + remaining.pop(), level_width)
            width = level_width
            if level > 0 and number == config.res_blocks:
                layers.append(Upsample(width))
            stages.append(Stage(layers))
    return nn.ModuleList(stages)


def _block(config: UNetConfig, level: int, in_channels: int, out_channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = [ResBlock(config, in_channels, out_channels)]
    if level in config.attention_levels:
        layers.append(SpatialTransformer(config, out_channels))
    return layers
