"""What people look at while a model learns: a grid of pictures, a plot of the loss, a log of numbers."""

import contextlib
import json
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from sfumato.train.data import tensor_to_pixels

LOG = "log.jsonl"
_NOT_PARTS = ("step", "rate", "seconds")


def write_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Write a batch (B,3,H,W) in [-1, 1] as one PNG, row by row."""
    pixels = tensor_to_pixels(images)
    count, height, width, _ = pixels.shape
    columns = min(columns, count)
    lines = -(-count // columns)
    sheet = np.full((lines * height, columns * width, 3), 255, np.uint8)
    for place, picture in enumerate(pixels):
        top, left = place // columns * height, place % columns * width
        sheet[top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)


def append_log(folder: Path, row: dict[str, float]) -> None:
    """Add one line to the run's log."""
    with (folder / LOG).open("a+b") as stream:
        if stream.tell() and not _ends_a_line(stream):  # the run was killed while it wrote
            stream.write(b"\n")
        stream.write(json.dumps(row).encode() + b"\n")


def _ends_a_line(stream: BinaryIO) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read() == b"\n"


def read_log(folder: Path) -> list[dict[str, float]]:
    """Read the run's log; a step that was run twice (after a resume) counts once, as last written.

    A line that was cut off when the run was killed is passed over.
    """
    if not (folder / LOG).is_file():
        return []
    rows = []
    for line in (folder / LOG).read_text("utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for _, row in sorted({row["step"]: row for row in rows}.items())]


def parts_at(folder: Path, step: int) -> dict[str, float]:
    """Give what was measured at a step, without its rate and time; nothing where the log does not say it."""
    row = next((row for row in read_log(folder) if row["step"] == step), {})
    return {name: value for name, value in row.items() if name not in _NOT_PARTS}


def plot_loss(folder: Path) -> None:
    """Draw loss.png in the run's folder: each measured part against steps, raw and smoothed."""
    from matplotlib.figure import Figure

    rows = read_log(folder)
    if len(rows) < 2:
        return
    names = [name for name in rows[0] if name not in _NOT_PARTS]
    figure = Figure(figsize=(8, 2.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    steps = np.array([row["step"] for row in rows])
    window = max(1, len(rows) // 50)
    for name, axis in zip(names, axes, strict=True):
        values = np.array([row.get(name, np.nan) for row in rows])
        axis.plot(steps, values, linewidth=0.5, alpha=0.4)
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axis.plot(steps[window - 1 :], smooth, linewidth=1.5)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    figure.savefig(folder / "loss.png", dpi=100)
