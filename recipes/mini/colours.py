"""Ten colours with names, and sprites painted in them.

Shape letters: H W pixels; the last axis is RGB or RGBA.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Shades = NDArray[np.float32]

COLOURS: dict[str, tuple[int, int, int]] = {  # sRGB
    "white": (255, 255, 255),
    "black": (20, 20, 22),
    "red": (218, 40, 40),
    "orange": (250, 145, 35),
    "yellow": (252, 220, 60),
    "green": (60, 165, 75),
    "blue": (45, 105, 220),
    "purple": (135, 70, 190),
    "pink": (255, 155, 195),
    "gray": (150, 150, 150),
}
JITTER = 8  # levels of sRGB, each way


def jittered(rng: Generator, name: str) -> tuple[int, int, int]:
    """Give a named colour moved by up to JITTER levels a channel (0 to 255); white stays white."""
    if name == "white":
        return COLOURS[name]
    if name in {"black", "gray"}:  # stay without a tint
        moves = np.full(3, rng.integers(-JITTER, JITTER + 1))
    else:
        moves = rng.integers(-JITTER, JITTER + 1, 3)
    red, green, blue = (int(c) for c in np.clip(np.add(COLOURS[name], moves), 0, 255))
    return red, green, blue


def srgb_to_lab(pixels: NDArray[np.number]) -> NDArray[np.float64]:
    """Convert sRGB (…,3), 0 to 255, to CIELAB under D65: L 0 to 100, a and b about -128 to 127.

    Source: IEC 61966-2-1 (transfer curve and matrix), CIE 15 (Lab).
    """
    scaled = np.asarray(pixels, np.float64) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ (matrix / matrix.sum(1, keepdims=True)).T  # relative to the white point
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * root[..., 1] - 16, 500 * (root[..., 0] - root[..., 1]), 200 * (root[..., 1] - root[..., 2])],
        -1,
    )


def nearest_colour(pixel: Sequence[float]) -> str:
    """Name the colour nearest in CIELAB to an sRGB triple, 0 to 255."""
    names = list(COLOURS)
    distance = np.linalg.norm(
        srgb_to_lab(np.array(list(COLOURS.values()))) - srgb_to_lab(np.array(pixel)), axis=1
    )
    return names[int(distance.argmin())]


def rgb_to_hsv(rgb: Shades) -> tuple[Shades, Shades, Shades]:
    """Split RGB (…,3), 0 to 1, into hue (turns, 0 to 1), saturation and value (0 to 1)."""
    top, low = rgb.max(-1), rgb.min(-1)
    spread = np.where(top > low, top - low, 1)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sixths = np.select([top == r, top == g], [(g - b) / spread, 2 + (b - r) / spread], 4 + (r - g) / spread)
    hue = np.where(top > low, sixths / 6 % 1, 0).astype(np.float32)
    saturation = np.where(top > 0, (top - low) / np.where(top > 0, top, 1), 0).astype(np.float32)
    return hue, saturation, top


def hsv_to_rgb(hue: Shades, saturation: Shades, value: Shades) -> Shades:
    """Join hue (turns), saturation and value (0 to 1) to RGB (…,3), 0 to 1."""
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue * 6) % 6
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, -1).astype(np.float32)


def dominant_hue(sprite: Pixels) -> float | None:
    """Find the one hue that a sprite (H,W,4) is painted in.

    Returns:
        The hue in turns (0 to 1), or None unless coloured area is at least 60 % of the sprite and 90 % of it
        lies within a tenth of a turn of the hue.
    """
    rgb = sprite[..., :3].astype(np.float32) / np.float32(255)
    hue, saturation, value = rgb_to_hsv(rgb)
    opaque = sprite[..., 3].astype(np.float32) / 255
    weight = opaque * ((saturation > 0.25) & (value > 0.2))
    if weight.sum() < 0.6 * opaque.sum() or not weight.sum():
        return None
    histogram, _ = np.histogram(hue, 36, (0, 1), weights=weight * saturation)
    smooth = histogram + np.roll(histogram, 1) + np.roll(histogram, -1)
    peak = (int(smooth.argmax()) + 0.5) / 36
    away = np.abs((hue - peak + 0.5) % 1 - 0.5)
    return peak if (weight * (away < 0.1)).sum() >= 0.9 * weight.sum() else None


def recolour(sprite: Pixels, colour: str) -> Pixels:
    """Paint a sprite in a named colour: its dominant hue moves to the colour's, light and shade stay.

    Args:
        sprite: (H,W,4) with a dominant hue (else it comes back unchanged).
        colour: a chromatic name of COLOURS.

    Returns:
        A new sprite (H,W,4).
    """
    source = dominant_hue(sprite)
    if source is None:
        return sprite
    hue, saturation, value = rgb_to_hsv(sprite[..., :3].astype(np.float32) / np.float32(255))
    target = rgb_to_hsv(np.array(COLOURS[colour], np.float32) / np.float32(255))
    weight = (sprite[..., 3] > 127) & (saturation > 0.25)
    old_saturation, old_value = (float(np.median(channel[weight])) for channel in (saturation, value))
    spread = (hue - source + 0.5) % 1 - 0.5
    near = np.clip(1.5 - np.abs(spread) / 0.1, 0, 1)  # other hues (a green leaf) stay
    new_saturation = np.clip(saturation * float(target[1]) / max(old_saturation, 0.05), 0, 1)
    gain = float(target[2]) / max(old_value, 0.05)
    new_value = np.clip(value * gain if gain < 1 else 1 - (1 - value) / gain, 0, 1)
    painted = hsv_to_rgb(
        ((float(target[0]) + 0.4 * spread) % 1).astype(np.float32),
        new_saturation.astype(np.float32),
        new_value.astype(np.float32),
    )
    mixed = sprite[..., :3] / 255 * (1 - near[..., None]) + painted * near[..., None]
    out = sprite.copy()
    out[..., :3] = np.round(mixed * 255).astype(np.uint8)
    return out
