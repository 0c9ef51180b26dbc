"""PyTorch pickles: honest ones are read to the bit, hostile ones run nothing and name what they wanted."""

import copyreg
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import UnsafeFileError, WeightsError
from sfumato.weights import apart, files, pickles, sources


def read_back(path: Path) -> dict[str, torch.Tensor]:
    with pickles.as_safetensors(path) as converted:
        return {name: tensor.clone() for name, tensor in files.read_safetensors(converted).items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def honest() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4, 6, generator=generator)
    return {
        "half": torch.randn(3, 5, generator=generator).half(),
        "brain": torch.randn(3, 5, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "int64": torch.arange(7),
        "int8": torch.arange(7, dtype=torch.int8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "whole": shared,
        "rows": shared[1:3],
        "columns": shared[:, 2:4],
        "transposed": shared.T,
        "every second": shared[::2, ::3],
        "parameter": torch.nn.Parameter(torch.randn(4, generator=generator)).data,
    }


@pytest.mark.parametrize("new", [True, False], ids=["archive", "older stream"])
def test_an_honest_pickle_is_read_to_the_bit(new: bool, tmp_path: Path) -> None:
    path = tmp_path / "model v1 (final).ckpt"
    tensors = {k: v for k, v in honest().items() if k != "double" or new}
    nested = {
        "state_dict": OrderedDict(tensors),
        "global_step": 470000,
        "epoch": 3,
        "callbacks": {"best": None, 1: (2, [3.5, True])},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    }
    torch.save(nested, path, _use_new_zipfile_serialization=new)
    assert_same(read_back(path), tensors)
    header = pickles.pickle_header(path)
    assert {n: i.shape for n, i in header.tensors.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert header.metadata == {"global_step": "470000", "epoch": "3"}


def test_a_pickle_with_parameters_of_a_module_is_read(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 4)
    torch.save(dict(layer.named_parameters()), tmp_path / "layer.pt")
    assert_same(read_back(tmp_path / "layer.pt"), {k: v.detach() for k, v in layer.named_parameters()})
    torch.save(layer.state_dict(), tmp_path / "state.pt", pickle_protocol=4)
    assert_same(read_back(tmp_path / "state.pt"), dict(layer.state_dict()))


def test_opening_a_pickle_as_a_source_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "vae.pt"
    torch.save({"state_dict": {"decoder.conv_in.weight": torch.zeros(8, 4, 3, 3)}}, path)
    with sources.open_source(path) as source:
        assert source.main == path
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == [path]


# --- hostile --------------------------------------------------------------------------------------


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def archived(data: bytes, **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in extra.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def global_call(module: str, name: str, argument: str) -> bytes:
    return (
        b"\x80\x02c"
        + f"{module}\n{name}\n".encode()
        + b"X"
        + struct.pack("<I", len(argument))
        + argument.encode()
        + b"\x85R."
    )


def stack_global_call(module: str, name: str, argument: str) -> bytes:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


NAMES = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("__builtin__", "eval"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("torch", "load"),
    ("torch.serialization", "load"),
    ("torch.hub", "load_state_dict_from_url"),
    ("torch.jit", "load"),
    ("torch._inductor.codecache", "compile_file"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy", "load"),
    ("ctypes", "CDLL"),
    ("idlelib.pyshell", "ModifiedInterpreter.runcommand"),
    ("idlelib.run", "Executive.runcode"),
    ("lib2to3.pgen2.pgen", "ParserGenerator.make_label"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("runpy", "run_path"),
    ("code", "InteractiveInterpreter"),
    ("importlib", "import_module"),
    ("shutil", "rmtree"),
    ("pathlib", "Path.write_text"),
    ("collections.OrderedDict", "__class__"),
    ("torch", "FloatStorage.__reduce__"),
    ("os\nsystem\x00", "x"),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ".".join(name).encode("unicode_escape").decode())
def test_a_name_that_is_not_allowed_is_refused_and_named(name: tuple[str, str], tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    makers: tuple[Callable[[str, str, str], bytes], ...] = (global_call, stack_global_call)
    for number, make in enumerate(makers):
        for wrap in (archived, bytes):
            path = tmp_path / f"{number}.ckpt"
            path.write_bytes(wrap(make(*name, f"touch {sentinel}")))
            with pytest.raises(WeightsError) as caught:
                read_back(path)
            assert not sentinel.exists()
            if "\n" not in name[0]:
                assert isinstance(caught.value, UnsafeFileError)
                assert ".".join(name) in str(caught.value)
                assert "never" in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_call_hidden_inside_an_honest_checkpoint_is_refused(tmp_path: Path) -> None:
    sentinel, path = tmp_path / "sentinel", tmp_path / "model.ckpt"
    for hostile in (
        {"state_dict": honest(), "extra": Calls(os.system, f"touch {sentinel}")},
        {"state_dict": honest() | {"x": Calls(eval, f"open({str(sentinel)!r}, 'w')")}},
        {Calls(eval, f"open({str(sentinel)!r}, 'w')"): 1, "state_dict": honest()},
        [[[Calls(exec, f"open({str(sentinel)!r}, 'w')")]]],
    ):
        for new in (True, False):
            torch.save(hostile, path, _use_new_zipfile_serialization=new)
            with pytest.raises(
                UnsafeFileError, match=r"asks for (posix\.system|(__builtin__|builtins)\.(eval|exec)) to be"
            ):
                read_back(path)
            assert not sentinel.exists()


class Stateful:
    """Has a state that only its class could take back."""

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("executed")

    def __getstate__(self) -> Any:
        return {"a": 1}


def test_objects_of_classes_are_refused(tmp_path: Path) -> None:
    for protocol in (2, 4):
        torch.save({"x": Stateful()}, tmp_path / "x.pt", pickle_protocol=protocol)
        with pytest.raises(UnsafeFileError, match=r"Stateful|copyreg"):
            read_back(tmp_path / "x.pt")


def test_the_extension_registry_is_refused(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        data = pickle.dumps(os.system, 2).replace(b"posix", b"os")
    finally:
        copyreg.remove_extension("os", "system", 240)
    for opcode in (b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"):
        (tmp_path / "x.pt").write_bytes(archived(b"\x80\x02" + opcode + b"."))
        with pytest.raises(UnsafeFileError, match="extension registry"):
            read_back(tmp_path / "x.pt")
    assert data


ODD_PROGRAMS = {
    "nothing": (b"", "truncated"),
    "stop on an empty stack": (b"\x80\x02.", "empty stack"),
    "no stop": (b"\x80\x02N", "truncated"),
    "unknown opcode": (b"\x80\x02\xff.", "unknown opcode"),
    "INST": (b"\x80\x02(ios\nsystem\n.", "instance of a class"),
    "OBJ": (b"\x80\x02(cos\nsystem\no.", r"os\.system"),
    "NEWOBJ of an allowed name": (b"\x80\x02ctorch\nFloatStorage\n)\x81.", r"a call of torch\.FloatStorage"),
    "call of a text": (b"\x80\x02X\x02\x00\x00\x00os)R.", "a call of os"),
    "state for a list": (b"\x80\x02]}b.", "state of an object"),
    "text reference": (b"\x80\x02Pstorage\n.", "reference by text"),
    "reference to a list": (b"\x80\x02]Q.", "not a storage"),
    "key with a path": (
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x06\x00\x00\x00../../X\x03\x00\x00\x00cpuK\x01tQ.",
        "expected digits",
    ),
    "memo of nothing": (b"\x80\x02q\x00.", "empty stack"),
    "memo never set": (b"\x80\x02h\x07.", "never remembered"),
    "memo at 2^32": (b"\x80\x02Nr\xff\xff\xff\xff.", "no tensors"),
    "text of 4 GB": (b"\x80\x02X\xff\xff\xff\xff.", "longer than"),
    "text of 2^63 bytes": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "longer than"),
    "integer of 4 GB": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "an integer of"),
    "list as a key": (b"\x80\x02}]Ns.", "key of type list"),
    "append to a number": (b"\x80\x02K\x01Na.", "not a list"),
    "unbalanced pairs": (b"\x80\x02}(Nu.", "key without a value"),
    "mark without end": (b"\x80\x02t.", "no mark"),
    "not UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8"),
    "endless duplication": (b"\x80\x02]" + b"2a" * 100_000 + b".", "more than 10000 tensors"),
    "growing tuples": (b"\x80\x02)" + b"2\x86" * 100_000 + b".", "no tensors"),
    "deep lists": (b"\x80\x02" + b"](" * 500_000 + b".", "empty stack|no tensors"),
    "too many instructions": (b"\x80\x02" + b"N0" * 1_000_001 + b"N.", "more than 2000000"),
    "laughing lists": (
        b"\x80\x02]q\x00" + b"".join(b"](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(100)) + b".",
        "more than|no tensors",
    ),
}


@pytest.mark.parametrize("name", ODD_PROGRAMS)
def test_an_odd_program_stops_with_its_own_reason(name: str, tmp_path: Path) -> None:
    data, reason = ODD_PROGRAMS[name]
    (tmp_path / "x.ckpt").write_bytes(archived(data))
    with pytest.raises(WeightsError, match=reason) as caught:
        pickles.pickle_header(tmp_path / "x.ckpt")
    assert len(str(caught.value)) < 700


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", **options) as new:
        for info in old.infolist():
            changed = change(info.filename, old.read(info))
            if changed:
                new.writestr(*changed)
    return buffer.getvalue()


def without(data: bytes, ending: str) -> bytes:
    return repacked(data, lambda name, content: None if name.endswith(ending) else (name, content))


def shortened(data: bytes) -> bytes:
    return repacked(data, lambda name, content: (name, content[:-1] if name.endswith("data/0") else content))


def with_flags(data: bytes, flags: int) -> bytes:
    raw = bytearray(data)
    place = raw.index(b"PK\x01\x02")
    raw[place + 8 : place + 10] = struct.pack("<H", flags)
    return bytes(raw)


def bad_checksum(data: bytes, content: bytes) -> bytes:
    place = data.index(content)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


PLAIN = saved({"w": torch.arange(100, dtype=torch.float32)})
ODD_ARCHIVES = {
    "truncated by one byte": (PLAIN[:-1], "truncated"),
    "truncated by half": (PLAIN[: len(PLAIN) // 2], "truncated"),
    "something follows": (PLAIN + b"#!/bin/sh", "something follows"),
    "two archives": (PLAIN + PLAIN, "more than one directory"),
    "something before": (b"PK\x03\x04" + bytes(60) + PLAIN, "more than one directory"),
    "no data.pkl": (without(PLAIN, "data.pkl"), "no data.pkl"),
    "storage missing": (without(PLAIN, "data/0"), "storage 0 has nothing"),
    "storage short": (shortened(PLAIN), "storage 0 has 399 bytes, expected 400"),
    "wrong checksum": (bad_checksum(PLAIN, torch.arange(100.0).numpy().tobytes()), "CRC"),
    "encrypted flag": (with_flags(PLAIN, 1), "encrypted or patched"),
    "patched flag": (with_flags(PLAIN, 0x20), "encrypted or patched"),
    "absolute name": (
        repacked(PLAIN, lambda name, content: ("/etc/cron.d/x" if "data/0" in name else name, content)),
        "an entry named '/etc",
    ),
    "name that climbs": (
        repacked(PLAIN, lambda name, content: ("archive/../../x" if "data/0" in name else name, content)),
        "an entry named",
    ),
    "two folders": (
        repacked(PLAIN, lambda name, content: ("other/0" if "data/0" in name else name, content)),
        "2 folders",
    ),
    "big-endian": (archived(b"}.", byteorder=b"big"), "most significant"),
    "a bomb": (
        repacked(
            PLAIN,
            lambda name, content: (name, bytes(10**7) if name.endswith("data/0") else content),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "grows from",
    ),
    "an unknown method": (
        repacked(PLAIN, lambda name, content: (name, content), compression=zipfile.ZIP_BZIP2),
        "unknown method",
    ),
    "two entries of one name": (None, "two entries"),
    "20,001 entries": (None, r"2000\d entries"),
    "no tensors": (saved({"a": 1}), "no tensors"),
    "bare pickle": (pickle.dumps({"a": 1}), "not one of torch.save"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ODD_ARCHIVES)
def test_an_odd_archive_stops_with_its_own_reason(name: str, tmp_path: Path) -> None:
    data, reason = ODD_ARCHIVES[name]
    path = tmp_path / "x.ckpt"
    path.write_bytes(data or PLAIN)
    if data is None:
        with zipfile.ZipFile(path, "a") as archive:
            for number in range(20_000 if "20,001" in name else 1):
                archive.writestr(f"archive/x{number}" if "20,001" in name else "archive/data.pkl", b"")
    with pytest.raises(WeightsError, match=reason):
        read_back(path)


def test_a_compressed_archive_of_ordinary_weights_is_read(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    data = repacked(saved(tensors), lambda name, content: (name, content), compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "x.ckpt").write_bytes(data)
    assert_same(read_back(tmp_path / "x.ckpt"), tensors)


def test_a_tensor_larger_than_its_storage_or_repeating_it_is_refused(tmp_path: Path) -> None:
    for tensor in (torch.zeros(1).expand(1000), torch.zeros(10).as_strided((5, 5), (1, 1))):
        torch.save({"w": tensor}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=r"beyond its storage|repeats"):
            read_back(tmp_path / "x.pt")


def test_one_storage_in_many_tensors_cannot_multiply_the_output(tmp_path: Path) -> None:
    whole = torch.zeros(10_000)
    torch.save({str(n): whole.view(-1) for n in range(1000)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="much larger than the file"):
        read_back(tmp_path / "x.pt")


def test_a_process_that_dies_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_PROGRAM", "import os, sys; os.kill(os.getpid(), 9)")
    (tmp_path / "x.ckpt").write_bytes(PLAIN)
    with pytest.raises(WeightsError, match="beyond the limits"):
        read_back(tmp_path / "x.ckpt")


def test_no_product_code_unpickles_or_evaluates() -> None:
    forbidden = ("torch.load", "pickle.load", "import pickle", "eval(", "exec(", "shell=True", "yaml.load")
    root = Path(pickles.__file__).parents[1]
    for file in root.rglob("*.py"):
        text = file.read_text(encoding="utf-8").replace(".eval()", "")
        assert not [word for word in forbidden if word in text], file
