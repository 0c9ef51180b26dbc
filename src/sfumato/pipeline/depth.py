"""Depth maps for depth-guided checkpoints: from a stereo pair, or by a model the user has.

A map is a picture of 16 bits, white near and black far. Both ways need a library that is not installed along:
OpenCV for a pair, transformers for a model; whoever lacks one is told what to install.

Shape letters: H W picture.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sfumato.errors import ModelNotFoundError, RequestError, WeightsError

Floats = npt.NDArray[np.float32]

_STEP = 16  # disparities are searched in multiples of it
_SHARE = 0.25  # of the width: the largest disparity that is looked for
_BLOCK = 5  # pixels of a side that are compared


def from_stereo(left: Image.Image, right: Image.Image) -> Image.Image:
    """The depth map of the left picture of a pair taken side by side, its rows aligned.

    Source: Hirschmüller 2008, "Stereo processing by semiglobal matching", as OpenCV has it. Places that only
    one camera sees take the depth of the farther neighbour in their row.

    Args:
        left: RGB.
        right: RGB of the same size.

    Raises:
        RequestError: pictures of different sizes, a pair without any match, or no OpenCV here.
    """
    if left.size != right.size:
        raise RequestError(
            f"a stereo pair of {left.width}×{left.height} and {right.width}×{right.height}; "
            "both pictures must be of one size, with their rows aligned"
        )
    cv2 = _library("cv2", "opencv-python-headless<5")
    count = max(_STEP, int(left.width * _SHARE) // _STEP * _STEP)
    matcher = cv2.StereoSGBM_create(
        minDisparity=0,
        numDisparities=count,
        blockSize=_BLOCK,
        P1=24 * _BLOCK**2,  # for a step of one pixel between neighbours, of a larger one
        P2=96 * _BLOCK**2,
        disp12MaxDiff=1,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
    )
    # what lies beyond the left edge cannot be matched; a margin gives the search its room
    pair = [
        np.pad(np.asarray(each.convert("RGB")), ((0, 0), (count, 0), (0, 0)), "edge")
        for each in (left, right)
    ]
    disparity = matcher.compute(*pair)[:, count:].astype(np.float32) / 16  # (H,W), negative = not known
    if not (disparity > 0).any():
        raise RequestError(
            "the two pictures do not match anywhere; give a left and a right view of one scene"
        )
    return to_picture(filled(disparity))


def by_model(image: Image.Image, model: str) -> Image.Image:
    """The depth map that a monocular depth network gives: MiDaS, DPT, Depth Anything and their like.

    Args:
        image: RGB.
        model: a folder or hub name in transformers' layout.

    Raises:
        ModelNotFoundError: there is no such model.
        WeightsError: it is no depth network.
        RequestError: the library that reads it is not here.
    """
    transformers = _library("transformers", "transformers>=5")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(model, use_fast=False)
        network = transformers.AutoModelForDepthEstimation.from_pretrained(model, use_safetensors=True)
    except OSError as error:
        raise ModelNotFoundError(f"no depth model {model!r}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise WeightsError(f"{model} is no depth model: {str(error).splitlines()[0]}") from error
    with torch.no_grad():
        given = processor(images=image.convert("RGB"), return_tensors="pt")
        depth = network.eval()(**given).predicted_depth[0]  # (h,w)
    values = Image.fromarray(depth.float().cpu().numpy())
    return to_picture(np.asarray(values.resize(image.size, Image.Resampling.BICUBIC)))


def filled(disparity: Floats) -> Floats:
    """Give unknown places (not above 0) the smaller of their nearest known neighbours in the row.

    Args:
        disparity: (H,W).
    """
    known = disparity > 0
    columns = np.arange(disparity.shape[1])
    before = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    after = np.minimum.accumulate(np.where(known, columns, len(columns))[:, ::-1], axis=1)[:, ::-1]
    rows = np.arange(len(disparity))[:, None]
    far = disparity[known].min()
    left = np.where(before >= 0, disparity[rows, before.clip(0)], np.inf)
    right = np.where(after < len(columns), disparity[rows, after.clip(0, len(columns) - 1)], np.inf)
    nearest = np.minimum(left, right)
    return np.where(known, disparity, np.where(np.isfinite(nearest), nearest, far)).astype(np.float32)


def to_picture(depth: Floats) -> Image.Image:
    """Inverse depth (H,W) of any range as a picture of 16 bits, the nearest white."""
    low, high = float(depth.min()), float(depth.max())
    unit = (depth - low) / (high - low) if high > low else np.zeros_like(depth)
    return Image.fromarray(np.rint(unit * 65535).astype(np.uint16))


def _library(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RequestError(
            f"this needs a library that is not here: pip install '{package}' in Sfumato's environment"
        ) from error
