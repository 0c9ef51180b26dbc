"""A stack machine for pickles that knows no import and no call.

A pickle is a program for a small stack machine, and Python's own machine imports and calls whatever the file
names. This one builds plain values only. The few names that tensors need are symbols with builders of ours;
some more are met in honest checkpoints, and whatever is made of them is thrown away; any other name ends the
reading.

Opcodes as in Python's `pickletools`; tensors as `torch.save` writes them
(https://docs.pytorch.org/docs/stable/notes/serialization.html).
"""

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from sfumato.errors import UnsafeFileError, WeightsError
from sfumato.weights.header import MAX_RANK

MAX_PICKLE_BYTES = 64 * 2**20
MAX_OPCODES = 2_000_000  # an SD checkpoint with its optimiser's state has some 200,000

STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32",
        "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL",
    }.items()
}  # fmt: skip
INERT = frozenset(  # met in honest checkpoints beside the weights; whatever is made of them is thrown away
    (
        *(
            f"torch.{dtype}"
            for dtype in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8")
        ),
        *(
            f"numpy.{core}.multiarray.{name}"
            for core in ("core", "_core")
            for name in ("scalar", "_reconstruct")
        ),
        "numpy.dtype",
        "numpy.ndarray",
        "_codecs.encode",
        "torch.Size",
        "torch.device",
        "torch.nn.modules.container.ParameterDict",
        "pytorch_lightning.callbacks.ModelCheckpoint",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "__builtin__.set",
        "builtins.set",
    )
)


@dataclass(frozen=True)
class Symbol:
    """A name that a pickle refers to. Nothing is ever looked up under it."""

    name: str


class Inert:
    """Something made of names that do not matter."""


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor as a view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


# --- what may be built of symbols -----------------------------------------------------------------


def _natural(values: Any) -> tuple[int, ...]:
    if isinstance(values, list):
        values = tuple(values)
    if not isinstance(values, tuple) or not all(type(v) is int and 0 <= v < 2**62 for v in values):
        raise WeightsError("a tensor's shape is not a tuple of natural numbers")
    return values


def _tensor(args: tuple[Any, ...]) -> TensorView:
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise WeightsError("a tensor is not made of a storage, an offset, a shape and strides")
    storage = args[0]
    (offset,), shape, stride = _natural((args[1],)), _natural(args[2]), _natural(args[3])
    if len(shape) > MAX_RANK or len(shape) != len(stride):
        raise WeightsError(f"a tensor has {len(shape)} dimensions and {len(stride)} strides")
    count = math.prod(shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) if count else 0
    if count > storage.count or last >= max(1, storage.count) or (count and not storage.count):
        raise WeightsError(
            f"a tensor of shape {list(shape)} reaches beyond its storage of {storage.count} numbers"
        )
    return TensorView(storage, offset, shape, stride)


def _parameter(args: tuple[Any, ...]) -> Any:
    return args[0] if args else None


def _ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = args[0] if args else []
    if not isinstance(pairs, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise WeightsError("a dictionary is not made of pairs")
    return {_key(key): value for key, value in pairs}


BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _ordered_dict,
}


def _symbol(module: Any, name: Any) -> Symbol:
    if not isinstance(module, str) or not isinstance(name, str):
        raise WeightsError("a name is not text")
    whole = f"{module}.{name}"
    if whole not in STORAGES and whole not in BUILDERS and whole not in INERT:
        raise UnsafeFileError(whole[:200])
    return Symbol(whole)


def _key(key: Any) -> Any:
    if isinstance(key, str | int | float | bytes | Symbol | None):
        return key
    raise WeightsError(f"a dictionary has a key of type {type(key).__name__}")


# --- the stack machine ----------------------------------------------------------------------------


class Machine:
    """Runs one pickle. Every value on the stack is one of ours or a plain Python value."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = MAX_PICKLE_BYTES

    def run(self) -> Any:
        """Execute up to the pickle's end and give its value."""
        for _ in range(MAX_OPCODES):
            opcode = self.read(1)
            if opcode == b".":
                return self.pop()
            action = OPCODES.get(opcode)
            if action is None:
                raise UnsafeFileError(REFUSED.get(opcode, f"the unknown opcode {opcode!r}"))
            action(self)
        raise WeightsError(f"the pickle has more than {MAX_OPCODES} instructions")

    def read(self, count: int) -> bytes:
        """Take the next `count` bytes."""
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise WeightsError(f"the pickle is longer than {MAX_PICKLE_BYTES} bytes")
        data = self.file.read(count)
        if len(data) < count:
            raise WeightsError("the pickle is truncated")
        return data

    def line(self) -> str:
        """Take a line of text, at most 1,000 characters."""
        data = self.file.readline(1000)
        self.bytes_left -= len(data)
        if not data.endswith(b"\n"):
            raise WeightsError("the pickle has a line without an end")
        return _text(data[:-1])

    def number(self, form: str) -> int:
        """Take an integer in the given `struct` form."""
        value: int = struct.unpack(form, self.read(struct.calcsize(form)))[0]
        return value

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top of the stack."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise WeightsError("the pickle takes from an empty stack")
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        """Take everything above the last mark."""
        if not self.marks:
            raise WeightsError("the pickle has no mark to go back to")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def top(self, kind: type) -> Any:
        """Look at the top of the stack, which must be of a kind."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise WeightsError(f"the pickle fills something that is not a {kind.__name__}")
        return self.stack[-1]

    def put(self, index: int) -> None:
        """Remember the top of the stack."""
        if not self.stack:
            raise WeightsError("the pickle remembers an empty stack")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        """Recall what was remembered."""
        if index not in self.memo:
            raise WeightsError(f"the pickle recalls {index}, which it never remembered")
        self.push(self.memo[index])

    def mark(self) -> None:
        """Set a mark."""
        self.marks.append(len(self.stack))

    def extend(self, values: list[Any]) -> None:
        """Append to the list on top; an inert thing swallows it."""
        if self.stack and isinstance(self.stack[-1], Inert):
            return
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Add pairs to the dictionary on top; an inert thing swallows them."""
        if len(values) % 2:
            raise WeightsError("a dictionary has a key without a value")
        if self.stack and isinstance(self.stack[-1], Inert):
            return
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def call(self) -> None:
        """Build a value of a symbol and its arguments; nothing is called but our own builders."""
        args, symbol = self.pop(), self.pop()
        if not isinstance(symbol, Symbol) or not isinstance(args, tuple):
            raise UnsafeFileError(f"a call of {str(symbol)[:100]}")
        if symbol.name in BUILDERS:
            self.push(BUILDERS[symbol.name](args))
        elif symbol.name in INERT:
            self.push(Inert())
        else:
            raise UnsafeFileError(f"a call of {symbol.name}")

    def set_state(self) -> None:
        """Drop the state that would be given to an object: dictionaries' attributes and inert things."""
        self.pop()
        if not self.stack or not isinstance(self.stack[-1], dict | Inert):
            raise UnsafeFileError("the state of an object")

    def persistent(self) -> None:
        """Turn a reference to data outside the pickle into a storage."""
        reference = self.pop()
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise WeightsError("the pickle refers to something that is not a storage")
        kind, key, count = reference[1], reference[2], reference[4]
        if not isinstance(kind, Symbol) or kind.name not in STORAGES:
            raise WeightsError(f"a storage of unknown type {str(kind)[:100]}")
        if not isinstance(key, str) or not re.fullmatch(r"[0-9]{1,20}", key):
            raise WeightsError(f"a storage has the key {str(key)[:40]!r}, expected digits")
        (count,) = _natural((count,))
        if len(reference) > 5 and reference[5] is not None:
            raise WeightsError("a storage is a view of another, which is not supported")
        self.push(Storage(STORAGES[kind.name], key, count))


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WeightsError("a text in the pickle is not UTF-8") from error


def _long(m: Machine, count: int) -> int:
    if count > 256:
        raise WeightsError(f"an integer of {count} bytes")
    return int.from_bytes(m.read(count), "little", signed=True)


def _append(m: Machine) -> None:
    value = m.pop()
    m.extend([value])


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.set_items([key, value])


def _tuple(count: int) -> Callable[[Machine], None]:
    def action(m: Machine) -> None:
        m.push(tuple(reversed([m.pop() for _ in range(count)])))

    return action


def _named(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.push(_symbol(module, name))


def _twice(m: Machine) -> None:
    value = m.pop()
    m.push(value)
    m.push(value)


OPCODES: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.read(1),  # protocol
    b"\x95": lambda m: m.read(8),  # frame
    b"(": Machine.mark,
    b"0": Machine.pop,
    b"1": Machine.pop_marked,
    b"2": _twice,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(_long(m, m.number("<B"))),
    b"\x8b": lambda m: m.push(_long(m, m.number("<I"))),
    b"G": lambda m: m.push(struct.unpack(">d", m.read(8))[0]),
    b"X": lambda m: m.push(_text(m.read(m.number("<I")))),
    b"\x8c": lambda m: m.push(_text(m.read(m.number("<B")))),
    b"\x8d": lambda m: m.push(_text(m.read(m.number("<Q")))),
    b"U": lambda m: m.push(m.read(m.number("<B"))),
    b"T": lambda m: m.push(m.read(m.number("<I"))),
    b"C": lambda m: m.push(m.read(m.number("<B"))),
    b"B": lambda m: m.push(m.read(m.number("<I"))),
    b"\x8e": lambda m: m.push(m.read(m.number("<Q"))),
    b"]": lambda m: m.push([]),
    b"a": _append,
    b"e": lambda m: m.extend(m.pop_marked()),
    b"}": lambda m: m.push({}),
    b"s": _set_item,
    b"u": lambda m: m.set_items(m.pop_marked()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_marked())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"\x8f": lambda m: m.push(Inert()),  # an empty set
    b"\x90": lambda m: m.pop_marked() and None,  # its items
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"c": lambda m: m.push(_symbol(m.line(), m.line())),
    b"\x93": _named,
    b"R": Machine.call,
    b"\x81": Machine.call,  # a class's instance
    b"b": Machine.set_state,
    b"Q": Machine.persistent,
}
REFUSED = {
    b"\x82": "the extension registry",
    b"\x83": "the extension registry",
    b"\x84": "the extension registry",
    b"i": "an instance of a class",
    b"o": "an instance of a class",
    b"\x92": "an instance of a class",
    b"P": "a reference by text",
}
