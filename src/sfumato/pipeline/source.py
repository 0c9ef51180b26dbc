"""The picture a request starts from: read, flattened, brought to size; its colours given to the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sfumato.pipeline import images
from sfumato.types import Picture, ResizeMode

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

_TO_XYZ = np.array(  # IEC 61966-2-1, linear sRGB to CIE XYZ
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, 2 degrees
_LUMINOSITY = np.array([0.3, 0.59, 0.11])  # W3C Compositing and Blending, section 10.2


def read_picture(picture: Picture) -> Image.Image:
    """A picture as 8-bit RGB, or RGBA where it has transparency; upright, whatever its file held.

    Files: PNG, JPEG, WebP, as `images.open_image` reads them. Sixteen-bit grey is scaled to eight; palettes,
    CMYK and grey become RGB.

    Raises:
        OutputError: no such file, no picture, damaged, animated, too large.
    """
    image = images.open_image(picture) if isinstance(picture, Path) else ImageOps.exif_transpose(picture)
    if image.mode.startswith("I"):
        values = np.array(image, np.float32).clip(0, 65535)  # no sixteenth bit lies near a half of 257
        values /= 257
        image = Image.fromarray(np.rint(values, out=values).astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def flatten(image: Image.Image, background: str) -> Image.Image:
    """RGB, with `background` (a colour like #ffffff) under what is transparent."""
    if image.mode == "RGB":
        return image
    solid = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(solid, image.convert("RGBA")).convert("RGB")


def source_size(image: Image.Image) -> tuple[int, int]:
    """Width and height for a request that names none: the picture's own, rounded down to multiples of 8."""
    return max(8, image.width // 8 * 8), max(8, image.height // 8 * 8)


def resize(
    image: Image.Image,
    width: int,
    height: int,
    mode: ResizeMode,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """Bring a picture to a size: stretched, cropped around its middle, or its edges drawn out to fill.

    Args:
        image: of any size and mode.
        width: pixels.
        height: pixels.
        mode: "Crop and resize" keeps the aspect ratio and loses the edges, "Resize and fill" keeps it and
            repeats the outermost rows or columns; the others stretch.
        resample: Pillow's filter.
    """
    if image.size == (width, height):
        return image
    if mode == "Crop and resize":
        return ImageOps.fit(image, (width, height), resample)
    if mode != "Resize and fill":
        return image.resize((width, height), resample)
    scale = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    pixels = np.asarray(image.resize(inner, resample))
    around = [(top, height - inner[1] - top), (left, width - inner[0] - left), (0, 0)][: pixels.ndim]
    return Image.fromarray(np.pad(pixels, around, mode="edge"))


def match_colors(image: Image.Image, reference: Image.Image) -> Image.Image:
    """Give a picture the colours of another and leave its brightness alone.

    The histograms of L*, a* and b* are matched to the reference's, and the picture's own luminosity is laid
    over (W3C Compositing and Blending Level 1, section 10.2, "luminosity").

    Args:
        image: RGB.
        reference: RGB of any size.
    """
    own = np.asarray(image.convert("RGB")) / 255.0  # (H,W,3)
    matched = lab_to_rgb(
        match_histograms(rgb_to_lab(own), rgb_to_lab(np.asarray(reference.convert("RGB")) / 255.0))
    )
    return Image.fromarray(np.rint(255 * _with_luminosity(matched, own @ _LUMINOSITY)).astype(np.uint8))


def rgb_to_lab(rgb: Any) -> Floats:
    """CIE L*a*b* (D65) of sRGB values (…,3) from 0 to 1."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lab_to_rgb(lab: Floats) -> Floats:
    """SRGB values from 0 to 1 of CIE L*a*b* (…,3); what no screen can show is clipped."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * _WHITE
    linear = (xyz @ np.linalg.inv(_TO_XYZ).T).clip(0)
    rgb: Floats = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return rgb.clip(0, 1)


def match_histograms(values: Any, reference: Any) -> Floats:
    """Move each channel's values so that they are distributed as the reference's (Gonzalez & Woods, 3.3.2).

    Args:
        values: (…,C).
        reference: (…,C), of any number of values.
    """
    matched = np.empty(values.shape)
    for channel in range(values.shape[-1]):
        _, place, counts = np.unique(values[..., channel], return_inverse=True, return_counts=True)
        there, amounts = np.unique(reference[..., channel], return_counts=True)
        share = np.cumsum(counts) / counts.sum()
        moved = np.interp(share, np.cumsum(amounts) / amounts.sum(), there)
        matched[..., channel] = moved[place].reshape(values.shape[:-1])
    return matched


def _with_luminosity(rgb: Floats, luminosity: Floats) -> Floats:
    """The colours shifted to a luminosity, drawn towards grey where that leaves 0 to 1."""
    grey = luminosity[..., None]
    shifted = rgb + grey - (rgb @ _LUMINOSITY)[..., None]
    low, high = shifted.min(-1, keepdims=True), shifted.max(-1, keepdims=True)
    room_below = np.where(low < 0, grey / np.maximum(grey - low, 1e-12), 1)
    room_above = np.where(high > 1, (1 - grey) / np.maximum(high - grey, 1e-12), 1)
    drawn: Floats = grey + (shifted - grey) * np.minimum(room_below, room_above)
    return drawn.clip(0, 1)
