"""Weights in the files of the ncnn inference library: a text of layers and the numbers in the same order.

    7767517                                                  magic
    40 41                                                    layers, blobs
    Convolution  Conv_0  1 1 in out  0=64 1=3 6=1728 …       type, name, counts, blobs, parameters

Of the layers, convolutions and PReLUs have numbers. A convolution's weights start with a tag: 0 = float32,
0x01306B47 = float16 padded to four bytes; biases and slopes are float32 without one.

Source: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.header import open_regular

MAX_PARAM_BYTES = 2**20
MAX_BIN_BYTES = 2**30
_MAGIC = "7767517"
_FLOAT32, _FLOAT16 = 0, 0x01306B47


def read_ncnn(param: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Read the layers that have numbers, in the order of the file.

    Args:
        param: the text; the numbers are in the file `.bin` of the same stem.

    Yields:
        ("Convolution", weight (out,in,k,k) and bias (out,)) or ("PReLU", weight (channels,)), float32.

    Raises:
        ModelNotFoundError: one of the two files is missing.
        WeightsError: another format, truncated, or numbers left over.
    """
    with open_regular(param) as file:
        text = file.read(MAX_PARAM_BYTES)
    numbers = param.with_suffix(".bin")
    with open_regular(numbers) as file:
        data = bytearray(file.read(MAX_BIN_BYTES))
    reader = _Reader(numbers, data)
    for kind, settings in _layers(param, text):
        if kind == "Convolution":
            out, side, count = settings.get("0", 0), settings.get("1", 0), settings.get("6", 0)
            if out < 1 or side < 1 or count < 1 or count % (out * side * side):
                raise WeightsError(f"{param}: a convolution of {count} weights for {out} outputs")
            weight = reader.tagged(count).view(out, -1, side, side)
            yield kind, {"weight": weight, "bias": reader.plain(out if settings.get("5") else 0)}
        elif kind == "PReLU":
            yield kind, {"weight": reader.plain(settings.get("0", 0))}
    if reader.position != len(data):
        raise WeightsError(f"{numbers} has {len(data)} bytes, its layers {reader.position}; get it again")


def _layers(path: Path, text: bytes) -> Iterator[tuple[str, Mapping[str, int]]]:
    lines = text.decode("utf-8", "replace").split("\n")
    if lines[0].strip() != _MAGIC:
        raise WeightsError(f"{path} is not a text of ncnn layers")
    for line in lines[2:]:
        words = line.split()
        if words:
            pairs = (word.split("=", 1) for word in words[2:] if "=" in word)
            yield words[0], {key: int(value) for key, value in pairs if value.isdecimal()}


class _Reader:
    """Takes numbers from the front of a file's bytes."""

    def __init__(self, path: Path, data: bytearray) -> None:
        self.path, self.data, self.position = path, data, 0

    def tagged(self, count: int) -> Tensor:
        tag = int.from_bytes(self._take(4), "little")
        if tag == _FLOAT16:
            padding = -(2 * count) % 4
            values = torch.frombuffer(self._take(2 * count), dtype=torch.float16).float()
            self._take(padding)
            return values
        if tag != _FLOAT32:
            raise WeightsError(
                f"{self.path} holds numbers of the kind {tag:#x}; float32 and float16 are read"
            )
        return self.plain(count)

    def plain(self, count: int) -> Tensor:
        return torch.frombuffer(self._take(4 * count), dtype=torch.float32) if count else torch.empty(0)

    def _take(self, count: int) -> bytearray:
        taken = self.data[self.position : self.position + count]
        if len(taken) < count:
            raise WeightsError(f"{self.path} is truncated at {len(self.data)} bytes; get it again")
        self.position += count
        return taken
