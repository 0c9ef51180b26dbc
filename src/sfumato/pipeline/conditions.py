"""What some U-Nets see beside the noisy latents: a masked picture, a picture to edit, a depth map.

Shape letters: B pictures of a batch, Z latent channels, E further channels, H W picture, h w latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sfumato.errors import RequestError
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline import images
from sfumato.pipeline.latents import encode_values
from sfumato.pipeline.masks import PreparedMask
from sfumato.pipeline.source import read_picture, resize
from sfumato.types import Picture, Request
from sfumato.weights.specs import ModelSpec

Kind = Literal["inpaint", "edit", "depth"]


def kind_of(spec: ModelSpec) -> Kind | None:
    """What a checkpoint's U-Net wants to see beside the latents; None = nothing.

    Raises RequestError: no known kind has so many input channels.
    """
    latent = spec.vae.latent_channels
    kinds: Mapping[int, Kind | None] = MappingProxyType(
        {latent: None, latent + 1: "depth", 2 * latent: "edit", 2 * latent + 1: "inpaint"}
    )
    if spec.unet.in_channels not in kinds:
        raise RequestError(
            f"a U-Net with {spec.unet.in_channels} input channels ({spec.family}) is of no known kind; "
            f"choose a checkpoint with {', '.join(map(str, kinds))}"
        )
    return kinds[spec.unet.in_channels]


def require_pictures(spec: ModelSpec, request: Request, name: str) -> None:
    """Refuse a request without the pictures its checkpoint cannot do without.

    Raises RequestError: says which, and how to come by it.
    """
    kind = kind_of(spec)
    if kind == "edit" and request.source.image is None:
        raise RequestError(f"{name} edits a picture by instruction; give one, with `sfumato img2img PICTURE`")
    if kind == "depth" and request.source.depth is None:
        raise RequestError(
            f"{name} is guided by depth; give a depth map with --depth, `sfumato depth` makes one"
        )


def further_channels(
    spec: ModelSpec,
    request: Request,
    vae: AutoencoderKL,
    picture: Image.Image | None,
    mask: PreparedMask | None,
) -> Tensor | None:
    """What the U-Net of `spec` is shown beside the latents of a request.

    Args:
        spec: of its checkpoint.
        request: of the pass, its size set; `require_pictures` was content with it.
        vae: of the checkpoint.
        picture: RGB, the source as it is painted on; None = there is none.
        mask: where that may change; None = everywhere.

    Returns:
        (1,E,h,w) float32 on the autoencoder's device; None = the U-Net takes latents alone.

    Raises:
        OutputError: the depth map cannot be read.
    """
    kind = kind_of(spec)
    canvas, f = request.canvas, spec.vae.reduction
    assert canvas.width
    assert canvas.height
    size = (canvas.width, canvas.height)
    if kind is None:
        return None
    if kind == "depth":
        assert request.source.depth is not None
        device = next(vae.parameters()).device
        return depth_channel(read_depth(request.source.depth), size[1] // f, size[0] // f).to(device)
    if picture is not None:
        picture = resize(picture, *size, "Just resize")
    if kind == "edit":
        assert picture is not None
        return encode_values(picture_values(picture), vae, wraps=canvas.tiling) / vae.config.scale_factor
    pixels = torch.zeros(1, 3, size[1], size[0]) if picture is None else picture_values(picture)
    covered = torch.ones(1, 1, size[1], size[0])
    if picture is not None and mask is not None:
        covered = torch.from_numpy(np.array(mask.mask, np.float32))[None, None].div(255).round()
    weight = request.mask.conditioning_weight if picture is not None else 1.0
    return masked_channels(pixels, covered, vae, weight, wraps=canvas.tiling)


def masked_channels(
    pixels: Tensor, covered: Tensor, vae: AutoencoderKL, weight: float = 1.0, *, wraps: bool = False
) -> Tensor:
    """What an inpainting checkpoint sees: the mask, and the picture with grey in its place.

    Source: the training of the published inpainting checkpoint (github.com/runwayml/stable-diffusion).

    Args:
        pixels: (1,3,H,W) in [-1, 1].
        covered: (1,1,H,W), 1 = to be painted.
        vae: the autoencoder.
        weight: 0 to 1: how far the picture is grey under the mask.
        wraps: opposite edges of the picture meet.

    Returns:
        (1,1+Z,h,w) float32.
    """
    latents = encode_values(pixels * (1 - weight * covered), vae, wraps=wraps)
    small = F.interpolate(covered, latents.shape[2:], mode="nearest")
    return torch.cat([small.to(latents), latents], 1)


def depth_channel(depth: Tensor, height: int, width: int) -> Tensor:
    """A depth map as the checkpoint was trained on it: at the size of the latents, from -1 (far) to 1 (near).

    Source: the published depth checkpoint (github.com/Stability-AI/stablediffusion).

    Args:
        depth: (1,1,H,W), larger is nearer, of any range.
        height: of the latents.
        width: of the latents.

    Returns:
        (1,1,height,width) float32; of a map without relief 0.
    """
    small = F.interpolate(depth.float(), (height, width), mode="bicubic")
    low, high = small.min(), small.max()
    return 2 * (small - low) / (high - low) - 1 if high > low else torch.zeros_like(small)


def read_depth(picture: Picture) -> Tensor:
    """Read a depth map, white near, of 8 or 16 bits: (1,1,H,W) float32 of any range.

    Raises OutputError: see `read_picture`.
    """
    image = picture if isinstance(picture, Image.Image) else images.open_image(picture)
    fine = image.mode.startswith(("I", "F"))  # more than 8 bits
    values = np.array(image if fine else read_picture(image).convert("RGB").convert("L"), np.float32)
    return torch.from_numpy(values)[None, None]


def picture_values(picture: Image.Image) -> Tensor:
    """An RGB picture as (1,3,H,W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(picture.convert("RGB"), np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
