"""Safetensors files: what is written is read back to the bit, by us and by the reference implementation."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sfumato.errors import OutputError, WeightsError
from sfumato.weights import files


def every_dtype() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 255, (4, 3, 8), generator=generator, dtype=torch.uint8)
    tensors = {name: raw.view(dtype) for name, dtype in files.DTYPES.items() if dtype is not torch.bool}
    return tensors | {
        "BOOL": raw > 100,
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "channels last": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert bits(a[name]) == bits(b[name]), name


def test_every_dtype_goes_through_a_file_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    files.write_safetensors(path, every_dtype(), {"note": 'äöü\n"quoted"'})
    assert_same(files.read_safetensors(path), every_dtype())
    assert files.read_header(path).metadata == {"note": 'äöü\n"quoted"'}


def test_the_reference_implementation_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in every_dtype().items()}
    files.write_safetensors(tmp_path / "ours.safetensors", tensors)
    assert_same(safetensors.torch.load_file(tmp_path / "ours.safetensors"), tensors)
    separate = {name: tensor.clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(separate, tmp_path / "theirs.safetensors", {"k": "v"})
    assert_same(files.read_safetensors(tmp_path / "theirs.safetensors"), tensors)


def test_equal_input_gives_an_equal_file(tmp_path: Path) -> None:
    tensors = every_dtype()
    files.write_safetensors(tmp_path / "a", tensors, {"x": "1", "y": "2"})
    files.write_safetensors(tmp_path / "b", dict(reversed(tensors.items())), {"y": "2", "x": "1"})
    assert files.file_sha256(tmp_path / "a") == files.file_sha256(tmp_path / "b")


def test_floats_are_cast_and_integers_stay_on_both_ways(tmp_path: Path) -> None:
    tensors = {"f": torch.randn(5), "i": torch.arange(5)}
    expected = {"f": tensors["f"].bfloat16(), "i": tensors["i"]}
    files.write_safetensors(tmp_path / "wide", tensors)
    files.write_safetensors(tmp_path / "narrow", tensors, dtype=torch.bfloat16)
    assert_same(files.read_safetensors(tmp_path / "wide", dtype=torch.bfloat16), expected)
    assert_same(files.read_safetensors(tmp_path / "narrow"), expected)


def test_tensors_at_odd_places_are_read(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    head = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    data = b"\7" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    assert files.read_safetensors(path)["b"].tolist() == [1.5, -2.0]


def test_only_the_named_tensors_are_read_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "some"
    files.write_safetensors(path, {"a": torch.zeros(1), "b": torch.ones(1)})
    assert files.read_safetensors(path, names=["b"]).keys() == {"b"}
    with pytest.raises(WeightsError, match="no tensor 'c'"):
        files.read_safetensors(path, names=["c"])


def test_changing_a_mapped_tensor_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    files.write_safetensors(path, {"a": torch.zeros(1000)})
    before = files.file_sha256(path)
    one, two = files.read_safetensors(path), files.read_safetensors(path)
    one["a"].fill_(7)
    assert two["a"].sum() == 0
    assert files.file_sha256(path) == before


def test_a_mapped_tensor_survives_its_files_replacement_and_removal(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    files.write_safetensors(path, {"a": torch.full((1000,), 5.0)})
    tensor = files.read_safetensors(path)["a"]
    files.write_safetensors(path, {"a": torch.zeros(1000)})
    path.unlink()
    assert tensor.sum() == 5000


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    files.write_safetensors(path, {"a": torch.zeros(3)})
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="cannot be written"):
        files.write_safetensors(path, {"a": torch.zeros(3, dtype=torch.complex64)})
    with pytest.raises(WeightsError, match="cannot be written"):
        files.write_safetensors(path, {"x" * 600: torch.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="was not written"):
        files.write_safetensors(tmp_path / "no such folder" / "model", {"a": torch.zeros(3)})


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from sfumato.errors import OutputError
from sfumato.weights import files
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    files.write_safetensors(Path(sys.argv[1]), {"a": torch.zeros(10**6)})
except OutputError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    files.write_safetensors(path, {"a": torch.zeros(3)})
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("refused: ")
    assert "has room" in done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
