"""A picture of a data set: decoded, its shape fitted to a bucket, turned into numbers.

Shape letters: H W pixels of a bucket, h w latent size.
"""

import hashlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.pipeline.images import open_image
from sfumato.pipeline.source import flatten, read_picture
from sfumato.train.buckets import Fit
from sfumato.train.data import pixels_to_tensor

DIGEST_BYTES = 16


def read_colours(data: bytes) -> Image.Image:
    """Decode the file of a PNG, JPEG or WebP as 8-bit RGB, or RGBA where it has transparency; upright.

    Raises:
        OutputError: no picture, damaged, animated, too large.
    """
    return read_picture(open_image(data))


def read_mask(data: bytes) -> Image.Image:
    """Decode a mask's file as 8-bit grey; where it is transparent, its alpha is what counts.

    Raises:
        OutputError: see `read_colours`.
    """
    image = read_picture(open_image(data))
    return image.getchannel("A") if image.mode == "RGBA" else image.convert("L")


def content_hash(image: Image.Image) -> bytes:
    """Name a picture by its pixels, whatever file they lie in: `DIGEST_BYTES`."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(np.asarray(image).data)
    return digest.digest()[:DIGEST_BYTES]


def frame(image: Image.Image, fit: Fit, corner: tuple[int, int], *, flip: bool) -> Image.Image:
    """Resize a picture to cover its bucket, crop, and mirror it if that is wanted.

    Args:
        image: of any mode.
        fit: of this picture.
        corner: where the crop begins in the resized picture, 0 to `fit.room`.
        flip: exchange left and right.
    """
    left, top = corner
    assert 0 <= left <= fit.room[0], f"{corner} is not within {fit.room}"
    assert 0 <= top <= fit.room[1], f"{corner} is not within {fit.room}"
    if image.size != fit.resized:
        image = image.resize(fit.resized, Image.Resampling.LANCZOS)
    image = image.crop((left, top, left + fit.bucket[0], top + fit.bucket[1]))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def solid(image: Image.Image) -> Image.Image:
    """RGB of a picture, white under what is transparent."""
    return flatten(image, "#ffffff")


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB or RGBA picture into (1,3,H,W) float32 in [-1, 1], white under what is transparent."""
    return pixels_to_tensor(np.asarray(solid(image))[None])


def mask_weights(mask: Image.Image, reduction: int) -> Tensor:
    """Average a grey mask over the pixels of each latent: (1,h,w) float32 in [0, 1]."""
    size = mask.width // reduction, mask.height // reduction
    small = np.asarray(mask, np.float32) / 255  # (H,W)
    blocks = small.reshape(size[1], reduction, size[0], reduction)
    return torch.from_numpy(blocks.mean((1, 3)))[None]
