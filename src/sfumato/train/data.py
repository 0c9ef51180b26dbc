"""Pictures and captions as a training run reads them.

Shape letters: N pictures, B batch, H W pixels.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sfumato.errors import TrainingError
from sfumato.pipeline.images import ENDINGS
from sfumato.train.config import DataConfig

PICTURES, CAPTIONS = "pictures.npy", "captions.jsonl"


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureSet:
    """A packed data set: one array of pictures, and for each its captions and sampling weight."""

    pictures: NDArray[np.uint8]  # (N,H,W,3), memory-mapped
    captions: Sequence[tuple[str, ...]]  # N rows; one caption of a row is drawn at each visit
    weights: NDArray[np.float64]  # (N,), sums to 1

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def pictures_hash(self) -> str:
        """Hash the pictures' bytes: 16 hex digits that name caches made from them."""
        digest = hashlib.sha256(str(self.pictures.shape).encode())
        for start in range(0, len(self), 256):
            digest.update(self.pictures[start : start + 256].tobytes())
        return digest.hexdigest()[:16]

    def hashes(self) -> dict[str, str]:
        """Say what the data set holds, wherever it lies: a hash of each of its parts."""
        captions = hashlib.sha256(json.dumps([list(row) for row in self.captions]).encode())
        weights = hashlib.sha256(self.weights.tobytes())
        return {
            "pictures": self.pictures_hash,
            "captions": captions.hexdigest()[:16],
            "weights": weights.hexdigest()[:16],
        }


def open_pictures(folder: Path) -> PictureSet:
    """Open a packed data set (`pictures.npy` and `captions.jsonl`) or a folder of images.

    In a folder of images each may have a caption in a text file of the same name; images are cropped to the
    central square and resized to the smallest side found among them.

    Args:
        folder: the data set.

    Raises:
        TrainingError: nothing there, or a file in it is broken (its name is given).
    """
    if not (folder / PICTURES).is_file():
        return _pack_images(folder)
    try:
        pictures = np.load(folder / PICTURES, mmap_mode="r")
        rows = [json.loads(line) for line in (folder / CAPTIONS).read_text("utf-8").splitlines()]
        captions = [tuple(row["captions"]) for row in rows]
        weights = np.array([row.get("weight", 1.0) for row in rows], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder} is not a packed data set: {error}") from error
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or len(pictures) != len(captions):
        raise TrainingError(
            f"{folder}: expected (N,H,W,3) bytes and N captions, got {pictures.shape} "
            f"{pictures.dtype} and {len(captions)} captions"
        )
    if any(not row or not all(isinstance(text, str) for text in row) for row in captions):
        raise TrainingError(
            f'{folder / CAPTIONS}: each line needs a list of captions, "" where there is none'
        )
    if not len(captions) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise TrainingError(f"{folder}: needs at least one picture and weights >= 0 with a positive sum")
    return PictureSet(pictures=pictures, captions=captions, weights=weights / weights.sum())


def _pack_images(folder: Path) -> PictureSet:
    names = sorted(p for p in folder.glob("*") if p.suffix.lower() in ENDINGS)
    if not names:
        raise TrainingError(f"no {PICTURES} and no images in {folder}")
    squares = []
    for name in names:
        try:
            with Image.open(name) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise TrainingError(f"{name} cannot be read as an image: {error}") from error
        squares.append(ImageOps.fit(picture, (min(picture.size),) * 2))
    side = max(8, min(picture.width for picture in squares) // 8 * 8)
    texts = [name.with_suffix(".txt") for name in names]
    return PictureSet(
        pictures=np.stack([np.asarray(p.resize((side, side), Image.Resampling.LANCZOS)) for p in squares]),
        captions=[(_read_caption(text),) if text.is_file() else ("",) for text in texts],
        weights=np.full(len(names), 1 / len(names)),
    )


def _read_caption(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read as UTF-8 text: {error}; save it as UTF-8") from error


def require_sides(data: PictureSet, config: DataConfig, reduction: int) -> None:
    """Refuse pictures that the autoencoder cannot halve down to its latents, and crops larger than they are.

    Args:
        data: the pictures.
        config: crop side.
        reduction: pixels a latent along each side.

    Raises:
        TrainingError: a side is no multiple of `reduction`, or the crop does not fit.
    """
    height, width = data.pictures.shape[1:3]
    if config.crop is not None and config.crop > min(height, width):
        raise TrainingError(
            f"data.crop={config.crop} is larger than the pictures ({width}x{height}); make it smaller"
        )
    for name, side in (("data.crop", config.crop), ("picture width", width), ("picture height", height)):
        if side is not None and side % reduction:
            raise TrainingError(f"{name}={side} is not a multiple of {reduction}; change it")


def draw_pictures(data: PictureSet, config: DataConfig, rng: np.random.Generator, size: int) -> Tensor:
    """Draw a batch with the variations the configuration asks for.

    Args:
        data: the pictures.
        config: crop side, flips, channel shuffling.
        rng: the only source of randomness.
        size: B.

    Returns:
        (B,3,H,W) float32 in [-1, 1], channels last in memory.
    """
    rows = rng.choice(len(data), size, p=data.weights)
    height, width = data.pictures.shape[1:3]
    side = config.crop or height
    batch = np.empty((size, side, config.crop or width, 3), np.uint8)
    for place, row in enumerate(rows):
        picture = data.pictures[row]
        if config.crop:
            top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
            picture = picture[top : top + side, left : left + side]
        if config.flip and rng.random() < 0.5:
            picture = picture[:, ::-1]
        if config.permute_channels and rng.random() < 0.5:
            picture = picture[..., rng.permutation(3)]
        batch[place] = picture
    return pixels_to_tensor(batch)


def pixels_to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turn (B,H,W,3) bytes into (B,3,H,W) float32 in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def tensor_to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Turn (B,3,H,W) in [-1, 1] into (B,H,W,3) bytes, clamped and rounded."""
    scaled = images.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    array: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return array
