"""Faces restored: found, turned upright at 512×512, given to a network, and laid back with soft edges.

Points are complex numbers, x + i·y, so that turning, scaling and moving is one product and one sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from sfumato.errors import ModelNotFoundError
from sfumato.nn.mtcnn import MTCNN
from sfumato.weights import model_folders
from sfumato.weights.faces import load_detector, load_restorer
from sfumato.weights.foreign import Foreign
from sfumato.weights.trees import ENDINGS

RESTORERS: Mapping[str, str] = MappingProxyType(  # name: subfolder of the models folder, as A1111 has it
    {"GFPGAN": "GFPGAN", "CodeFormer": "Codeformer"}
)
SIDE = 512  # pixels of an upright face
# Where eyes, nose and the mouth's corners are in it: the mean face of FFHQ, which the restorers learned on.
TEMPLATE = (
    192.98138 + 239.94708j,
    318.90277 + 240.19360j,
    256.63416 + 314.01935j,
    201.26117 + 371.41043j,
    313.08905 + 371.15118j,
)
SEARCHED = 640  # shorter side of the picture in which faces are looked for
SURE = 0.9  # of a face, to be restored
SOFT = 24  # pixels of the upright face over which it fades into the picture


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceRestorer:
    """What finds faces and what restores them, ready to use."""

    name: str
    network: Foreign
    detector: MTCNN
    device: torch.device


def load_face_restorer(name: str, folder: Path, *, device: torch.device) -> FaceRestorer:
    """Make GFPGAN or CodeFormer ready.

    Args:
        name: a key of `RESTORERS`.
        folder: the models folder.
        device: what computes.

    Raises:
        ModelNotFoundError: its file or the detector is not here.
        WeightsError: its file is broken or something else.
    """
    path = find_restorer(name, folder)
    if path is None:
        place = folder / RESTORERS[name]
        raise ModelNotFoundError(f"{name} is not here: put its file ({name}….pth) into {place}")
    network = load_restorer(path, device=device)
    return FaceRestorer(name=name, network=network, detector=load_detector(device), device=device)


def find_restorer(name: str, folder: Path) -> Path | None:
    """The file of GFPGAN or CodeFormer in the models folder, of several versions the newest; None = none."""
    for place in (folder / RESTORERS[name], *(path for _, path in model_folders.places(folder, "faces"))):
        files = sorted(place.iterdir()) if place.is_dir() else []
        found = [
            path for path in files if path.suffix.lower() in ENDINGS and name.lower() in path.stem.lower()
        ]
        if found:
            return found[-1]
    return None


def restore_faces(image: Image.Image, restorer: FaceRestorer, weight: float = 0.5) -> Image.Image:
    """Give a picture whose faces are restored; one without faces comes back as it is.

    Args:
        image: RGB.
        restorer: from `load_face_restorer`.
        weight: of CodeFormer, 0 to 1: how true it stays to the picture; 0 has the strongest effect.
    """
    out = image
    for points in find_faces(image, restorer):
        turn, shift = fit(points)
        upright = _warped(image, 1 / turn, -shift / turn, (SIDE, SIDE))
        restored = _restored(upright, restorer, weight)
        out = _laid_back(out, restored, turn, shift)
    return out


def find_faces(image: Image.Image, restorer: FaceRestorer) -> list[tuple[complex, ...]]:
    """Find the points of every face: left eye, right eye, nose, corners of the mouth."""
    scale = max(1.0, min(image.size) / SEARCHED)
    small = image.resize((round(image.width / scale), round(image.height / scale)), Image.Resampling.BOX)
    colours = torch.from_numpy(np.array(small)).permute(2, 0, 1).to(restorer.device, torch.float32)
    boxes, points = restorer.detector(colours)
    sure = points[boxes[:, 4] >= SURE].cpu().double() * scale
    return [tuple(complex(x, y) for x, y in face) for face in sure.tolist()]


def fit(points: tuple[complex, ...]) -> tuple[complex, complex]:
    """Turn and shift with turn·point + shift nearest to the template's points, in least squares.

    Source: Umeyama 1991, "Least-squares estimation of transformation parameters", in two dimensions.
    """
    from_mean, to_mean = sum(points) / len(points), sum(TEMPLATE) / len(TEMPLATE)
    centred = [point - from_mean for point in points]
    above = sum(there.conjugate() * (here - to_mean) for there, here in zip(centred, TEMPLATE, strict=True))
    turn = above / sum(abs(there) ** 2 for there in centred)
    return turn, to_mean - turn * from_mean


def _warped(image: Image.Image, turn: complex, shift: complex, size: tuple[int, int]) -> Image.Image:
    """A picture of this size whose pixel z shows the given picture's turn·z + shift."""
    a, b = turn.real, turn.imag
    numbers = (a, -b, shift.real, b, a, shift.imag)
    return image.transform(size, Image.Transform.AFFINE, numbers, Image.Resampling.BICUBIC)


@torch.no_grad()
def _restored(upright: Image.Image, restorer: FaceRestorer, weight: float) -> Image.Image:
    colours = torch.from_numpy(np.array(upright)).permute(2, 0, 1).to(restorer.device, torch.float32)
    out = restorer.network.restore(colours[None] / 255, weight)[0]
    pixels = out.clamp(0, 1).mul(255).round().to("cpu", torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def _laid_back(image: Image.Image, face: Image.Image, turn: complex, shift: complex) -> Image.Image:
    """The picture with an upright face over its place."""
    corners = [(corner - shift) / turn for corner in (0, SIDE, SIDE * 1j, SIDE + SIDE * 1j)]
    left, right = (int(pick(corner.real for corner in corners)) for pick in (min, max))
    top, bottom = (int(pick(corner.imag for corner in corners)) for pick in (min, max))
    start, size = complex(left, top), (right - left + 1, bottom - top + 1)
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).rectangle((2 * SOFT, 2 * SOFT, SIDE - 2 * SOFT, SIDE - 2 * SOFT), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(SOFT / 2))
    out = image.copy()
    moved = turn * start + shift
    out.paste(_warped(face, turn, moved, size), (left, top), _warped(mask, turn, moved, size))
    return out
