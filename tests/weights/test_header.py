"""Every fault of a safetensors header gets its own refusal, before anything of that size is allocated."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from sfumato.errors import ModelNotFoundError, UnsafeFileError, WeightsError
from sfumato.weights import files, header


def container(head: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(head) if length is None else length).to_bytes(8, "little") + head + data


def entry(shape: list[Any], start: Any, stop: Any, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def described(entries: dict[str, Any], data: bytes = b"") -> bytes:
    return container(json.dumps(entries).encode(), data)


GOOD = described({"a": entry([2], 0, 2), "b": entry([3], 2, 5)}, b"12345")
HUGE = "9" * 5000

FAULTS = {
    "empty file": (b"", "truncated header: 0 bytes"),
    "seven bytes": (b"1234567", "truncated header: 7 bytes"),
    "length 0": (container(b""), "a header of 0 bytes"),
    "length 1": (container(b"{"), "a header of 1 bytes"),
    "length 2^63": (container(b"{}", length=2**63), "a header of 9223372036854775808 bytes"),
    "length 2^64 - 1": (container(b"{}", length=2**64 - 1), "a header of 18446744073709551615 bytes"),
    "length one past the file": (container(b"{}", length=3), "truncated header: 3 bytes announced"),
    "length over our limit": (container(b"{}", length=header.MAX_HEADER_BYTES + 1), "at most 33554432"),
    "not UTF-8": (container(b'{"\xff":1}'), "not UTF-8 at byte 10"),
    "not JSON": (container(b"{nothing}"), "not JSON"),
    "JSON with an end": (container(b"{} {}"), "not JSON"),
    "a list": (container(b"[]"), r"starts with b'\['"),
    "leading space": (container(b" {}"), "starts with b' '"),
    "byte order mark": (container(b"\xef\xbb\xbf{}"), "byte order mark"),
    "nested a million deep": (container(b'{"a":' + b"[" * 10**6), "nested deeper than 3"),
    "nested objects": (container(b'{"a":' * 10**5), "nested deeper than 3"),
    "a million brackets": (container(b'{"a":[' + b"[]," * 10**6 + b"0]}"), "nested|announced"),
    "a million empty entries": (container(b"{" + b'"a":{},' * 10**6 + b'"b":{}}'), "tensors are announced"),
    "endless string": (container(b'{"' + b'\\"' * 10**5), "not JSON"),
    "duplicate tensor": (container(b'{"a":1,"a":2}'), "the key 'a' twice"),
    "duplicate key in an entry": (container(b'{"a":{"dtype":"U8","dtype":"U8"}}'), "the key 'dtype' twice"),
    "NaN": (container(b'{"a":NaN}'), "the number NaN"),
    "integer of 5000 digits": (container(f'{{"a":{HUGE}}}'.encode()), "not JSON"),
    "entry is a number": (described({"a": 1}), "not described by exactly"),
    "entry lacks the shape": (described({"a": {"dtype": "U8", "data_offsets": [0, 0]}}), "exactly dtype"),
    "entry has more": (described({"a": entry([0], 0, 0) | {"x": 1}}), "exactly dtype"),
    "unknown dtype": (described({"a": entry([1], 0, 1, "Q4_K")}, b"1"), "dtype 'Q4_K', known are F64"),
    "dtype is a list": (described({"a": entry([1], 0, 1, ["U8"])}, b"1"), "dtype"),
    "offsets overlap": (described({"a": entry([2], 0, 2), "b": entry([2], 1, 3)}, b"123"), "overlaps"),
    "offsets reversed": (described({"a": entry([2], 2, 0)}, b"12"), "two rising integers"),
    "offsets past the end": (described({"a": entry([3], 0, 3)}, b"12"), "truncated: tensor 'a'"),
    "a hole": (described({"a": entry([1], 0, 1), "b": entry([1], 2, 3)}, b"123"), "a hole of 1 bytes"),
    "a hole at the start": (described({"a": entry([1], 1, 2)}, b"12"), "a hole of 1 bytes"),
    "bytes after the end": (described({"a": entry([1], 0, 1)}, b"12"), "1 bytes after the last tensor"),
    "no tensors, but data": (described({}, b"12"), "2 bytes after the last tensor"),
    "offset negative": (described({"a": entry([1], -1, 0)}), "two rising integers"),
    "offset a float": (described({"a": entry([1], 0.0, 1)}, b"1"), "the number 0.0"),
    "offset a string": (described({"a": entry([1], "0", 1)}, b"1"), "two rising integers"),
    "offset true": (described({"a": entry([1], False, True)}, b"1"), "two rising integers"),
    "offset over 2^63": (described({"a": entry([1], 2**63, 2**63 + 1)}, b"1"), "two rising integers"),
    "three offsets": (described({"a": entry([1], 0, 1) | {"data_offsets": [0, 1, 1]}}, b"1"), "two rising"),
    "shape product over 2^64": (described({"a": entry([2**40, 2**40], 0, 1)}, b"1"), "more than 2\\^63"),
    "shape wraps to its size": (described({"a": entry([2**32, 2**32 + 0], 0, 0)}), "more than 2\\^63"),
    "shape with 0, not empty": (described({"a": entry([0, 4], 0, 4)}, b"1234"), "needs 0 bytes"),
    "shape with -1": (described({"a": entry([-1], 0, 1)}, b"1"), "list of integers from 0"),
    "shape a number": (described({"a": entry(3, 0, 3)}, b"123"), "list of integers from 0"),  # type: ignore[arg-type]
    "shape too small": (described({"a": entry([1], 0, 2)}, b"12"), "needs 1 bytes"),
    "rank 1000": (described({"a": entry([1] * 1000, 0, 1)}, b"1"), "1000 dimensions"),
    "name of 513 characters": (described({"a" * 513: entry([1], 0, 1)}, b"1"), "513 characters"),
    "name empty": (described({"": entry([1], 0, 1)}, b"1"), "0 characters"),
    "metadata a list": (described({"__metadata__": []}), "__metadata__"),
    "metadata with a number": (described({"__metadata__": {"step": 1}}), "__metadata__"),
    "data short by one byte": (GOOD[:-1], "truncated: tensor 'b'"),
    "data short by half": (GOOD[:-3], "truncated: tensor 'b'"),
    "git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
    "web page": (b"<!DOCTYPE html><html>log in</html>", "web page"),
    "GGUF": (b"GGUF" + bytes(60), "GGUF"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_with_its_own_reason(fault: str, tmp_path: Path) -> None:
    data, reason = FAULTS[fault]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(WeightsError, match=reason) as caught:
        header.read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * len(data) + 2**24  # nothing of an announced size is allocated
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    with pytest.raises(WeightsError, match=reason):
        files.read_safetensors(path)


def test_more_tensors_than_the_limit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    path.write_bytes(described({str(n): entry([0], 0, 0) for n in range(header.MAX_TENSORS + 1)}))
    with pytest.raises(WeightsError, match=r"10001 tensors|announced"):
        header.read_header(path)
    path.write_bytes(described({str(n): entry([0], 0, 0) for n in range(header.MAX_TENSORS)}))
    assert len(header.read_header(path).tensors) == header.MAX_TENSORS


def test_a_million_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    one = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    path.write_bytes(container(b"{" + b",".join(one % n for n in range(500_000)) + b"}"))
    with pytest.raises(WeightsError, match=r"announced|at most"):
        header.read_header(path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_pickles_are_named_as_such(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(start + bytes(100))
    with pytest.raises(UnsafeFileError, match="convert"):
        header.read_header(path)


def test_a_header_length_that_looks_like_a_pickle_is_not_taken_for_one(tmp_path: Path) -> None:
    for length in (0x80, ord("<")):  # the first byte is the length's lowest
        path = tmp_path / "fine.safetensors"
        path.write_bytes(container(b"{}".ljust(length)))
        assert header.read_header(path).tensors == {}


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(WeightsError, match="not a regular file"):
            header.read_header(path)
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        header.read_header(tmp_path / "none.safetensors")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(WeightsError, match="cannot be read"):
        header.read_header(tmp_path / "loop")


def test_a_good_header_gives_names_shapes_places_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(
        described({"__metadata__": {"k": "v"}, "a": entry([2], 0, 2), "b": entry([3], 2, 5)}, b"12345")
    )
    good = header.read_header(path)
    start = good.file_size - 5
    assert good.metadata == {"k": "v"}
    assert good.tensors == {
        "a": header.TensorInfo("U8", (2,), start, start + 2),
        "b": header.TensorInfo("U8", (3,), start + 2, start + 5),
    }


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_what_we_accept_the_reference_accepts(data: st.DataObject, tmp_path_factory: Any) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("mutants") / "mutant.safetensors"
    path.write_bytes(raw)
    try:
        ours = header.read_header(path)
    except WeightsError:
        return
    try:
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(ours.tensors)
    except SafetensorError as error:
        pytest.fail(f"accepted {bytes(raw)!r}, which the reference refuses: {error}")
