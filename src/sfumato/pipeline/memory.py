"""How much memory a request will take, told before it is begun.

The networks' activations are counted from their configuration: what is alive at once at the busiest place.
Shape letters: B pictures in the network at once, C channels, N places (latents or pixels) of a level.

- U-Net, at each stage: the skips waiting for the way up, the stage's input, and the larger of a residual
  block (its input twice more, normalised and activated, and its output twice) and a transformer (twenty times
  C·N: the map and its tokens, normalised copies, the gate's two halves of 4 C, one activated, the product).
- Autoencoder, at each level of the decoder: three times the wider side of a block, or the enlarged map twice;
  in tiles: that of a tile, and two maps that are held whole.

Attention needs no matrix of N × N: the fused kernels of every device go through it in tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn

from sfumato.errors import OutOfMemoryError
from sfumato.nn.unet import UNetConfig
from sfumato.nn.vae import VAEConfig
from sfumato.weights.header import read_header

SLACK = 1.25  # kernels' workspaces, fragmentation
FIXED = 64 * 2**20  # small things: noise tables, pictures, prompts

_WORDS = (
    "out of memory",
    "can't allocate memory",
    "alloc_failed",
)  # of errors that have no class of their own
_TILES = (512, 256)  # sides of the autoencoder's tiles, pixels; the first that fits
_MARGIN = 4  # of a tile, latents
_COUNTABLE = 2**31  # numbers of a map, counted with 32 bits by many kernels

_CGROUPS = (  # limit and use of a container, second and first version
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def unet_elements(config: UNetConfig, batch: int, height: int, width: int) -> int:
    """Numbers alive at once in the U-Net for latents (batch,C,height,width)."""
    places = [_halved(height, level) * _halved(width, level) for level in range(len(config.widths))]
    top = len(config.widths) - 1
    skips: list[tuple[int, int]] = [(config.widths[0], 0)]  # channels and level of each
    for level, channels in enumerate(config.widths):
        skips += [(channels, level)] * config.res_blocks
        skips += [(channels, level + 1)] if level < top else []

    def waiting() -> int:
        return sum(channels * places[level] for channels, level in skips)

    def stage(wide: int, out: int, level: int, attends: bool) -> int:
        block = max(3 * wide + 2 * out, wide + 20 * out if attends else 0)
        return waiting() + block * places[level]

    x = config.widths[top]
    peak = stage(x, x, top, attends=True)  # the middle
    for level in reversed(range(top + 1)):
        for _ in range(config.res_blocks + 1):
            joined = x + skips.pop()[0]
            x = config.widths[level]
            peak = max(peak, stage(joined, x, level, level in config.attention_levels))
    return batch * peak


def vae_elements(config: VAEConfig, batch: int, height: int, width: int) -> int:
    """Numbers alive at once in the decoder for latents (batch,C,height,width)."""
    top = len(config.channels) - 1
    peak, x = 0, config.channels[-1]
    for level in reversed(range(top + 1)):
        places = height * width * 4 ** (top - level)
        out = config.channels[level]
        peak = max(peak, 3 * max(x, out) * places)
        if level:
            peak = max(peak, 2 * out * 4 * places + out * places)
        x = out
    return batch * peak


@dataclass(frozen=True)
class Tiling:
    """How the autoencoder is run in tiles; see `nn.tiled_vae`."""

    tile: int  # pixels along a side
    held: int  # numbers in a map that may be held


def tiled_vae_elements(config: VAEConfig, batch: int, height: int, width: int, tiling: Tiling) -> int:
    """Numbers alive at once in the tiled autoencoder for latents (batch,C,height,width)."""
    top = len(config.channels) - 1
    always = max(  # two maps of at most a fourth of the picture's side
        2 * config.channels[level] * height * width << 2 * (top - level)
        for level in range(min(2, top), top + 1)
    )
    whole = 8 * config.channels[-1] * height * width  # the middle with its attention
    side = tiling.tile // config.reduction + 2 * _MARGIN
    work = vae_elements(config, 1, min(side, height), min(side, width))
    picture = 3 * height * width * config.reduction**2
    return int(batch * (max(always, whole, 2 * tiling.held // batch) + work + picture))


def choose_tiling(
    config: VAEConfig, batch: int, height: int, width: int, *, dtype: torch.dtype, available: int
) -> Tiling | None:
    """How to run the autoencoder on latents (batch,C,height,width); None = at once.

    Tiles take longer, so they are for what does not fit, or has more numbers in a map than kernels count.
    What is free beside the tiles is given to held maps, which spare computing things twice.

    Args:
        config: the autoencoder's size.
        batch: pictures at once.
        height: of the latents.
        width: of the latents.
        dtype: of the autoencoder.
        available: bytes that may be taken.
    """
    room = int((available - FIXED) / (dtype.itemsize * SLACK))  # numbers
    largest = batch * config.channels[0] * height * width * config.reduction**2
    if vae_elements(config, batch, height, width) <= room and largest < _COUNTABLE:
        return None
    for tile in _TILES:
        spare = room - tiled_vae_elements(config, batch, height, width, Tiling(tile, 0))
        if spare >= 0:
            return Tiling(tile, spare // 2)
    return SMALLEST


SMALLEST = Tiling(_TILES[-1], 0)


def weight_bytes(*networks: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(
        tensor.numel() * tensor.element_size()
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    )


def activation_bytes(
    unet: UNetConfig,
    vae: VAEConfig,
    shape: tuple[int, int, int],
    *,
    rows: int,
    pictures: int,
    dtype: torch.dtype,
) -> int:
    """Bytes that one batch needs beside the weights, at the busier of sampling and decoding.

    Args:
        unet: the network that is sampled.
        vae: the autoencoder that decodes.
        shape: (C,H,W) of one picture's latents.
        rows: entries of the U-Net's batch: pictures times prompts.
        pictures: pictures decoded at once.
        dtype: of the networks.
    """
    _, height, width = shape
    sampling = unet_elements(unet, rows, height, width)
    decoding = min(
        vae_elements(vae, pictures, height, width),
        tiled_vae_elements(vae, pictures, height, width, SMALLEST),
    )
    return int(max(sampling, decoding) * dtype.itemsize * SLACK) + FIXED


def loading_bytes(path: Path, dtype: torch.dtype) -> int:
    """Bytes that a checkpoint will take once loaded as `dtype`, from its header or its files' sizes."""
    if path.suffix == ".safetensors":
        return sum(math.prod(tensor.shape) for tensor in read_header(path).tensors.values()) * dtype.itemsize
    files = [path] if path.is_file() else [*path.rglob("*.safetensors")]
    return sum(file.stat().st_size for file in files)


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on `device` without swapping, a container's limit included."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    free = int(psutil.virtual_memory().available)
    limits = [_container_room(Path(limit), Path(use)) for limit, use in _CGROUPS]
    return min([free, *(room for room in limits if room is not None)])


def require(needed: int, available: int, what: str, remedy: str) -> None:
    """Refuse with the numbers what cannot fit.

    Raises OutOfMemoryError: `what` needs more than is available; `remedy` says what to do.
    """
    if needed > available:
        raise OutOfMemoryError(f"{what} needs about {gib(needed)}, {gib(available)} are free; {remedy}")


@contextmanager
def told(device: torch.device, what: str, remedy: str) -> Iterator[None]:
    """Say with the numbers where memory runs out although it was thought to be enough.

    Raises OutOfMemoryError in place of whatever the allocator raises.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not ran_out(error):
            raise
        free = gib(available_bytes(device))
        raise OutOfMemoryError(f"{what}: memory ran out on the way, {free} are free; {remedy}") from error


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, on whatever device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)
    )


def release(device: torch.device) -> None:
    """Give back what the allocator of `device` keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def gib(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _halved(side: int, times: int) -> int:
    for _ in range(times):
        side = -(-side // 2)
    return side


def _container_room(limit: Path, use: Path) -> int | None:
    try:
        most, used = limit.read_text().strip(), use.read_text().strip()
    except OSError:
        return None
    return int(most) - int(used) if most.isdigit() and used.isdigit() else None
