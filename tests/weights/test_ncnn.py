"""Files of the ncnn library that are cut, lengthened or of another kind."""

import struct
from pathlib import Path

import pytest
import torch

from sfumato.errors import ModelNotFoundError, WeightsError
from sfumato.weights.ncnn import read_ncnn
from sfumato.weights.upscalers import load_upscaler

PARAM = """7767517
3 3
Input        data   0 1 data
Convolution  conv   1 1 data a  0=2 1=1 5=1 6=2
PReLU        slope  1 1 a out   0=2
"""
NUMBERS = struct.pack("<I2f2f2f", 0, 1, 2, 3, 4, 5, 6)
HALVES = struct.pack("<I2e2f2f", 0x01306B47, 1, 2, 3, 4, 5, 6)


def files(folder: Path, text: str = PARAM, numbers: bytes = NUMBERS) -> Path:
    (folder / "net.param").write_text(text)
    (folder / "net.bin").write_bytes(numbers)
    return folder / "net.param"


@pytest.mark.parametrize("numbers", [NUMBERS, HALVES])
def test_numbers_are_read_in_the_order_of_the_layers(numbers: bytes, tmp_path: Path) -> None:
    (kind, conv), (other, slopes) = read_ncnn(files(tmp_path, numbers=numbers))
    assert (kind, other) == ("Convolution", "PReLU")
    assert torch.equal(conv["weight"], torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
    assert torch.equal(conv["bias"], torch.tensor([3.0, 4.0]))
    assert torch.equal(slopes["weight"], torch.tensor([5.0, 6.0]))


@pytest.mark.parametrize(
    ("text", "numbers", "told"),
    [
        (PARAM, NUMBERS[:-1], "truncated"),
        (PARAM, b"", "truncated"),
        (PARAM, NUMBERS + b"\0\0\0\0", "its layers 28"),
        (PARAM, struct.pack("<I", 0x000D4B38) + NUMBERS[4:], "0xd4b38"),
        (PARAM.replace("6=2", "6=3"), NUMBERS, "a convolution of 3 weights"),
        (PARAM.replace("0=2 1=1", "0=0 1=1"), NUMBERS, "for 0 outputs"),
        ("", NUMBERS, "not a text of ncnn layers"),
        ("\x00\xff", NUMBERS, "not a text of ncnn layers"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, numbers: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=told):
        list(read_ncnn(files(tmp_path, text, numbers)))


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    path = files(tmp_path)
    path.with_suffix(".bin").unlink()
    with pytest.raises(ModelNotFoundError, match=r"net\.bin"):
        list(read_ncnn(path))


def test_layers_of_another_network_are_no_upscaler(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"net\.param"):
        load_upscaler(files(tmp_path), device=torch.device("cpu"), dtype=torch.float32)
