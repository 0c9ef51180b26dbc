"""Between pictures and latents, through an autoencoder.

Shape letters: B pictures, C latent channels, H W latent size (pixels / 8).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.nn.seamless import seamless
from sfumato.nn.tiled_vae import decode_tiled, encode_tiled
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline import memory


def encode(pixels: Tensor, vae: AutoencoderKL, *, wraps: bool = False) -> Tensor:
    """Turn 8-bit pictures into latents: the mean of what the autoencoder holds possible.

    Args:
        pixels: (B,8H,8W,3) uint8.
        vae: the autoencoder.
        wraps: opposite edges of the pictures meet.

    Returns:
        (B,C,H,W) float32 of unit scale, on the autoencoder's device.

    Raises:
        WeightsError: the autoencoder gives values that are not numbers.
    """
    values = pixels.to(next(vae.parameters()).device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return encode_values(values, vae, wraps=wraps)


@torch.no_grad()
def encode_values(values: Tensor, vae: AutoencoderKL, *, wraps: bool = False) -> Tensor:
    """Turn pictures (B,3,8H,8W) in [-1, 1] into latents: see `encode`."""
    with seamless(vae, wraps):
        mean = _finite(_encode, vae, values.to(next(vae.parameters()).device), "encoding")
    return mean.float() * vae.config.scale_factor


@torch.no_grad()
def decode(latents: Tensor, vae: AutoencoderKL, *, wraps: bool = False) -> Tensor:
    """Turn finished latents into 8-bit pictures. Brightness is truncated to 1/255, as the field does.

    Args:
        latents: (B,C,H,W) as sampled, of unit scale.
        vae: the autoencoder.
        wraps: opposite edges of the pictures meet.

    Returns:
        (B,8H,8W,3) uint8 on the CPU.

    Raises:
        WeightsError: the latents are not finite, or the pictures are not even in float32.
    """
    if not latents.isfinite().all():
        raise WeightsError(
            "sampling ended in values that are not numbers; try --dtype float32, and if that does not help, "
            "the checkpoint is damaged"
        )
    scaled = latents / vae.config.scale_factor
    with seamless(vae, wraps):
        pictures = _finite(_decode, vae, scaled, "decoding")  # (B,3,8H,8W)
    unit = (pictures.float() + 1).div(2).clamp(0, 1)
    return unit.mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def _encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    def run(tiling: memory.Tiling | None) -> Tensor:
        if tiling is None:
            return vae.encode(pictures)[0]
        return encode_tiled(vae, pictures, tile=tiling.tile, held=tiling.held)[0]

    f = vae.config.reduction
    return _fitting(run, vae, pictures, pictures.shape[2] // f, pictures.shape[3] // f)


def _decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    def run(tiling: memory.Tiling | None) -> Tensor:
        if tiling is None:
            return vae.decode(latents)
        return decode_tiled(vae, latents, tile=tiling.tile, held=tiling.held)

    return _fitting(run, vae, latents, latents.shape[2], latents.shape[3])


def _fitting(
    run: Callable[[memory.Tiling | None], Tensor], vae: AutoencoderKL, x: Tensor, height: int, width: int
) -> Tensor:
    """Run in tiles if it has to be, and where memory runs out all the same, once more in the smallest."""
    available = memory.available_bytes(x.device)
    tiling = memory.choose_tiling(vae.config, len(x), height, width, dtype=x.dtype, available=available)
    try:
        return run(tiling)
    except (MemoryError, RuntimeError) as error:
        if tiling == memory.SMALLEST or not memory.ran_out(error):
            raise
    memory.release(x.device)  # here, where the error holds no map any more
    return run(memory.SMALLEST)


def _finite(
    run: Callable[[AutoencoderKL, Tensor], Tensor], vae: AutoencoderKL, x: Tensor, what: str
) -> Tensor:
    """Run the autoencoder in its own dtype and, where that overflows (float16), once more in float32."""
    dtype = next(vae.parameters()).dtype
    out = run(vae, x.to(dtype, memory_format=torch.channels_last))
    if not out.isfinite().all() and dtype != torch.float32:
        out = run(copy.deepcopy(vae).float(), x.float())
    if not out.isfinite().all():
        raise WeightsError(f"{what} ended in values that are not numbers: the autoencoder is damaged")
    return out
