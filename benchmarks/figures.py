"""Figures over arrays of pictures and of their features.

Shape letters: N M pictures, S seeds, F features, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recipes.mini.colours import COLOURS, rgb_to_hsv, srgb_to_lab
from recipes.mini.compose import POSITIONS, Pixels
from recipes.mini.heldout import HUES

Floats = NDArray[np.float64]
Features = NDArray[np.float32]


def share(hits: Sequence[bool]) -> float:
    """Give the part of true values, rounded to four digits."""
    return round(sum(hits) / len(hits), 4)


def psnr(images: Pixels, wanted: Pixels) -> Floats:
    """Give the peak signal-to-noise ratio of each picture in dB: (N,) from two (N,H,W,3)."""
    error = np.square(images.astype(np.float64) - wanted).mean((1, 2, 3))
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, 1e-9)))


def chroma_error(images: Pixels, wanted: Pixels) -> Floats:
    """Give each picture's mean distance of a and b in CIELAB: (N,) from two (N,H,W,3)."""
    difference = srgb_to_lab(images)[..., 1:] - srgb_to_lab(wanted)[..., 1:]
    return np.asarray(np.hypot(difference[..., 0], difference[..., 1]).mean((1, 2)))


def frechet_distance(first: Features, second: Features) -> float:
    """Compare two sets of features (N,F) and (M,F) as if each were normally distributed.

    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6, without the square root: the squared distance.
    Sets smaller than F make it larger than it is: compare only figures over as many pictures.
    """
    means = [features.mean(0, dtype=np.float64) for features in (first, second)]
    # tr sqrt(C1 C2) is the sum of the singular values of A B' where C1 = A' A, C2 = B' B.
    roots = [
        (features - mean) / np.sqrt(len(features) - 1)
        for features, mean in zip((first, second), means, strict=True)
    ]
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(float(np.square(root).sum()) for root in roots)
    return float(np.square(means[0] - means[1]).sum() + spread - 2 * cross)


def spread(features: Features) -> float:
    """Say how far apart the pictures of one prompt are: the mean of one minus the cosine over pairs of seeds.

    Args:
        features: (N,S,F), prompts by seeds.
    """
    unit = features / np.linalg.norm(features, axis=2, keepdims=True)
    cosines = unit @ unit.transpose(0, 2, 1)  # (N,S,S)
    above = np.triu_indices(features.shape[1], 1)
    return float(1 - cosines[:, above[0], above[1]].mean())


def nearest(pictures: Pixels, others: Pixels, side: int = 16) -> tuple[NDArray[np.int64], Floats]:
    """Find for each picture (N,H,W,3) the most alike of others (M,H,W,3), both reduced to side × side.

    Returns:
        Their places (N,), and the root mean square differences (N,) of the reduced pictures, 0 to 255.
    """
    small, smaller = (_reduced(each, side) for each in (pictures, others))
    squares = np.square(smaller).sum(1) - 2 * small @ smaller.T + np.square(small).sum(1)[:, None]  # (N,M)
    places = squares.argmin(1)
    best = squares[np.arange(len(small)), places]
    return places, np.sqrt(np.maximum(best, 0) / small.shape[1])


def _reduced(pictures: Pixels, side: int) -> Floats:
    height, width = pictures.shape[1:3]
    rows = []
    for start in range(0, len(pictures), 512):  # pictures may be on disk
        part = np.asarray(pictures[start : start + 512], np.float32)
        cells = part.reshape(len(part), side, height // side, side, width // side, 3)
        rows.append(cells.mean((2, 4)).reshape(len(part), -1))
    return np.concatenate(rows).astype(np.float64)


def object_colour(picture: Pixels) -> str:
    """Name the colour that most of what stands before the background has: one of HUES.

    Args:
        picture: (H,W,3); its background is what its border shows.
    """
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    lab = srgb_to_lab(picture)
    before = np.linalg.norm(lab - srgb_to_lab(np.median(border, 0)), axis=2) > 15
    _, saturation, value = rgb_to_hsv(picture.astype(np.float32) / np.float32(255))
    coloured = before & (saturation > 0.25) & (value > 0.2)
    if not coloured.any():
        return HUES[0]
    # By hue and not by lightness: shade makes an orange brown, and light makes a red pink.
    named = srgb_to_lab(np.array([COLOURS[name] for name in HUES]))  # (hues,3)
    distance = np.linalg.norm((lab[coloured][:, None] - named) * (0.5, 1, 1), axis=2)
    votes = np.bincount(distance.argmin(1), saturation[coloured], len(HUES))
    return HUES[int(votes.argmax())]


def halves(picture: Pixels, position: str) -> tuple[Pixels, Pixels]:
    """Cut out the two places of a layout, that of the first-named thing first, each grown to the full size.

    Args:
        picture: (H,W,3), square.
        position: of POSITIONS.
    """
    side = len(picture)
    across, down = POSITIONS[position]
    cut = []
    for sign in (1, -1):
        left, top = (round(side * (0.25 + 0.25 * sign * move)) for move in (across, down))
        part = Image.fromarray(picture[top : top + side // 2, left : left + side // 2])
        cut.append(np.asarray(part.resize((side, side), Image.Resampling.BICUBIC)))
    return cut[0], cut[1]


def sheet(
    pictures: Sequence[Pixels], marks: Sequence[bool], columns: int = 20, side: int = 64
) -> Image.Image:
    """Lay pictures out in rows; a mark of False puts a red line under a picture."""
    rows = -(-len(pictures) // columns)
    image = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), "white")
    pen = ImageDraw.Draw(image)
    for place, picture in enumerate(pictures):
        left, top = place % columns * (side + 4) + 2, place // columns * (side + 4) + 1
        image.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (left, top))
        if not marks[place]:
            pen.rectangle((left, top + side, left + side - 1, top + side + 1), fill="red")
    return image
