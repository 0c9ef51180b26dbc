"""Two or three checkpoints become one, tensor by tensor, from the files straight into the new file.

    no interpolation   A
    weighted sum       A (1 - m) + B m
    add difference     A + (B - C) m

m is one number, or one for each of the U-Net's 25 blocks. The arithmetic is in float32, whatever is stored.
Only one tensor of each file is in memory at a time.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from sfumato.errors import OutputError, RequestError, WeightsError
from sfumato.weights import keymaps
from sfumato.weights.detect import SELF
from sfumato.weights.files import (
    DTYPES,
    TensorStep,
    file_sha256,
    read_safetensors,
    read_tensor,
    stream_safetensors,
)
from sfumato.weights.header import Header, TensorInfo, open_regular, parse_header
from sfumato.weights.layouts import HARMLESS, PREFIXES
from sfumato.weights.sources import Source, open_source

Method = Literal["no-interpolation", "weighted-sum", "add-difference"]
METHODS: tuple[Method, ...] = get_args(Method)
BLOCKS = (  # the U-Net's, in the order in which the field lists their weights
    *(f"IN{number:02d}" for number in range(12)),
    "M00",
    *(f"OUT{number:02d}" for number in range(12)),
)
RECIPE, MERGED = "sd_merge_recipe", "sd_merge_models"  # where other programs look for what was merged

_METHOD_NAMES: Mapping[Method, str] = MappingProxyType(
    {
        "no-interpolation": "No interpolation",
        "weighted-sum": "Weighted sum",
        "add-difference": "Add difference",
    }
)
_BLOCK = re.compile(r"model\.diffusion_model\.(input_blocks|middle_block|output_blocks)\.(\d+)\.")
_FIRST = "model.diffusion_model.input_blocks.0.0.weight"  # (O,I,3,3): what the U-Net looks at
_WIDER = MappingProxyType({9: ".inpainting", 8: ".instruct-pix2pix", 5: ".depth"})  # than the picture's four
_STALE = re.compile(r"sshs_.*|.*hash.*", re.IGNORECASE)  # metadata that no longer holds


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How checkpoints are merged."""

    method: Method = "weighted-sum"
    multiplier: float = 0.3  # m: 0 = A alone
    blocks: tuple[float, ...] = ()  # m for each of `BLOCKS`, the multiplier for the rest; () = for all
    vae: Path | None = None  # an autoencoder to put into the result
    dtype: torch.dtype | None = None  # of the result; None = each tensor as in A
    discard: str = ""  # tensors whose name matches this regular expression are left out
    metadata: Mapping[str, str] = field(default_factory=dict)  # further strings for the file's header

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RequestError(f"method={self.method!r} is not one of {', '.join(METHODS)}")
        for name, value in (("multiplier", self.multiplier), *zip(BLOCKS, self.blocks, strict=False)):
            if not 0 <= value <= 1:
                raise RequestError(f"{name}={value} is outside 0 to 1")
        if len(self.blocks) not in (0, len(BLOCKS)):
            raise RequestError(f"{len(self.blocks)} block weights, {len(BLOCKS)} are needed: IN00 to OUT11")
        try:
            re.compile(self.discard)
        except re.error as error:
            raise RequestError(
                f"discard={self.discard[:80]!r} is not a regular expression: {error}"
            ) from error

    def weight(self, name: str) -> float:
        """The m of a tensor. What stands before and after the blocks goes with the first and the last."""
        if not self.blocks or not name.startswith(PREFIXES["unet"]):
            return self.multiplier
        block = _BLOCK.match(name)
        if block is None:
            after = name.startswith(f"{PREFIXES['unet']}out.")
            return self.blocks[-1] if after else self.blocks[0]
        if block[1] == "middle_block":
            return self.blocks[BLOCKS.index("M00")]
        if int(block[2]) > 11:
            raise WeightsError(f"{name} is beyond the 12 blocks that have weights; give one multiplier")
        return self.blocks[BLOCKS.index(f"{'IN' if block[1][0] == 'i' else 'OUT'}{int(block[2]):02d}")]


@dataclass(frozen=True, kw_only=True)
class _Input:
    """A checkpoint's file, open."""

    path: Path  # as given
    source: Source
    file: BufferedReader
    header: Header

    def shape(self, name: str) -> tuple[int, ...] | None:
        info = self.header.tensors.get(name)
        return None if info is None else info.shape

    def read(self, name: str) -> Tensor:
        return read_tensor(self.file, self.header.tensors[name], self.source.file)


def merge(recipe: Recipe, inputs: tuple[Path, ...], target: Path) -> Iterator[TensorStep]:
    """Merge checkpoints into a new file.

    Only what can be interpolated is: floating-point tensors of the networks. Everything else is A's. A may be
    an inpainting (9 input channels), editing (8) or depth (5) checkpoint beside a B of 4; then the first four
    channels are merged.

    Args:
        recipe: how.
        inputs: A; A, B; or A, B, C, as the method needs: single files, safetensors or pickles.
        target: the new file; it must not exist.

    Yields:
        A step after each tensor. Stop iterating to leave nothing behind.

    Raises:
        RequestError: another number of inputs than the method needs.
        ModelNotFoundError: an input does not exist.
        WeightsError: an input is broken or a folder, or does not fit A: the tensors are named.
        OutputError: the target exists, or cannot be written.
    """
    _require_count(recipe, inputs)
    if target.exists() or target.is_symlink():
        raise OutputError(f"{target} exists already; choose another name or remove it")
    with contextlib.ExitStack() as stack:
        opened = [_open(path, stack) for path in inputs]
        baked = {} if recipe.vae is None else _vae(recipe.vae, stack)
        names = _check(opened, baked)
        kept = [
            name
            for name in (
                *opened[0].header.tensors,
                *(name for name in baked if opened[0].shape(name) is None),
            )
            if not (recipe.discard and re.search(recipe.discard, name))
        ]
        if not kept:
            raise RequestError(f"discard={recipe.discard[:80]!r} matches every tensor; nothing would be left")
        outline = {name: _outline(name, opened[0], baked, recipe.dtype) for name in kept}

        def produce(name: str) -> Tensor:
            if name in names:
                return _finite(name, _merged(name, opened, recipe), outline)
            return _finite(name, baked[name] if name in baked else opened[0].read(name), outline)

        metadata = _metadata(recipe, opened)
        for done, name in enumerate(stream_safetensors(target, outline, produce, metadata), 1):
            yield TensorStep(done=done, total=len(outline), name=name)


def default_name(recipe: Recipe, inputs: tuple[Path, ...]) -> str:
    """What the result is called where nobody chooses: its formula, and what kind of checkpoint it is."""
    _require_count(recipe, inputs)
    a, *others = (path.stem for path in inputs)
    with contextlib.ExitStack() as stack:
        shape = _open(inputs[0], stack).shape(_FIRST) or ()
    kind = _WIDER.get(shape[1], "") if len(shape) == 4 else ""
    m = round(recipe.multiplier, 2)
    formula = a
    if recipe.method == "weighted-sum":
        formula = f"{round(1 - m, 2)}({a}) + {m}({others[0]})"
    elif recipe.method == "add-difference":
        formula = f"{a} + {m}({others[0]} - {others[1]})"
    return f"{formula[:180]}{kind}.safetensors"


def _require_count(recipe: Recipe, inputs: tuple[Path, ...]) -> None:
    needed = METHODS.index(recipe.method) + 1
    if len(inputs) != needed:
        raise RequestError(f"{recipe.method} takes {needed} checkpoints, {len(inputs)} were given")


def _open(path: Path, stack: contextlib.ExitStack) -> _Input:
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; make it a single file first: `sfumato models convert`")
    source = stack.enter_context(open_source(path))
    file = stack.enter_context(open_regular(source.file))
    return _Input(path=path, source=source, file=file, header=parse_header(file, source.file))


def _vae(path: Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    source = stack.enter_context(open_source(path))
    if not source.parts.get("vae"):
        raise WeightsError(f"{path} is {source.found}, not a VAE; give a VAE or a whole checkpoint")
    ours: dict[str, Tensor] = {}
    for part in source.parts["vae"]:
        stored = read_safetensors(part.file, names=part.names)
        ours |= keymaps.to_ours(part.table, {part.names[name]: tensor for name, tensor in stored.items()})
    return {
        f"{PREFIXES['vae']}{name}": tensor for name, tensor in ours.items() if not HARMLESS.fullmatch(name)
    }


def _mergeable(info: TensorInfo, name: str) -> bool:
    return "model" in name and "position_ids" not in name and DTYPES[info.dtype].is_floating_point


def _check(opened: list[_Input], baked: Mapping[str, Tensor]) -> set[str]:
    """See that the inputs fit A; the names that are merged. Raises WeightsError, naming what does not fit."""
    a, *others = opened
    told = {each.path.name: each.source.found.spec for each in opened}
    predictions = {name: spec.prediction for name, spec in told.items() if spec is not None}
    if len(set(predictions.values())) > 1:
        said = ", ".join(f"{name} predicts {what}" for name, what in predictions.items())
        raise WeightsError(f"{said}; only checkpoints that predict the same can be merged")
    names = {name for name, info in a.header.tensors.items() if others and _mergeable(info, name)}
    names -= baked.keys()
    for letter, other in zip("BC", others, strict=False):
        _compare(letter, other, a, names, baked)
    if len({other.shape(_FIRST) for other in others}) > 1:
        raise WeightsError(f"{_FIRST} has other shapes in B and in C; their difference needs two of one kind")
    names = {name for name in names if all(_fits(name, a, each) for each in others)}  # ballast may not
    if baked:
        _check_vae(a, baked)
    return names


def _compare(letter: str, other: _Input, a: _Input, names: set[str], baked: Mapping[str, Tensor]) -> None:
    theirs = {name for name, info in other.header.tensors.items() if _mergeable(info, name)} - baked.keys()
    faults = {
        f"missing in {letter}": [name for name in names - theirs if not HARMLESS.fullmatch(name)],
        f"only in {letter}": [name for name in theirs - names if not HARMLESS.fullmatch(name)],
        "of another shape": [
            f"{name} A {list(a.shape(name) or ())} {letter} {list(other.shape(name) or ())}"
            for name in names & theirs
            if not _fits(name, a, other) and not HARMLESS.fullmatch(name)
        ],
    }
    found = [
        f"{len(each)} {what}: {', '.join(sorted(each)[:10])}{' …' if len(each) > 10 else ''}"
        for what, each in faults.items()
        if each
    ]
    if found:
        hint = (
            "; exchange A and B: the inpainting or editing checkpoint comes first"
            if _widened(_FIRST, other, a)
            else ""
        )
        raise WeightsError(f"{other.path} does not fit {a.path}: {'; '.join(found)}{hint}")


def _fits(name: str, a: _Input, other: _Input) -> bool:
    return a.shape(name) == other.shape(name) or _widened(name, a, other)


def _widened(name: str, wide: _Input, narrow: _Input) -> bool:
    """Whether it is the first convolution, and that of `wide` sees more than the picture's four channels."""
    one, other = wide.shape(name), narrow.shape(name)
    if name != _FIRST or one is None or other is None or len(one) != 4 or len(other) != 4:
        return False
    return one[1] in _WIDER and other[1] == 4 and (one[0], *one[2:]) == (other[0], *other[2:])


def _check_vae(a: _Input, baked: Mapping[str, Tensor]) -> None:
    present = {
        name: info.shape
        for name, info in a.header.tensors.items()
        if name.startswith(PREFIXES["vae"]) and not HARMLESS.fullmatch(name)
    }
    given = {name: tuple(tensor.shape) for name, tensor in baked.items()}
    wrong = sorted(name for name in {*present, *given} if present.get(name) != given.get(name))
    if present and wrong:
        raise WeightsError(
            f"the VAE does not fit {a.path}: {len(wrong)} tensors differ: {', '.join(wrong[:10])}"
        )


def _outline(name: str, a: _Input, baked: Mapping[str, Tensor], dtype: torch.dtype | None) -> Tensor:
    if name in baked:
        shape, stored = tuple(baked[name].shape), baked[name].dtype
    else:
        shape, stored = a.header.tensors[name].shape, DTYPES[a.header.tensors[name].dtype]
    if dtype is not None and stored.is_floating_point:
        stored = dtype
    return torch.empty(shape, dtype=stored, device="meta")


def _merged(name: str, opened: list[_Input], recipe: Recipe) -> Tensor:
    a, *others = (each.read(name) for each in opened)
    combine: Callable[[Tensor, list[Tensor], float], Tensor] = (
        weighted_sum if recipe.method == "weighted-sum" else add_difference
    )
    others = [other.float() for other in others]
    m = recipe.weight(name)
    if a.shape == others[0].shape:
        return combine(a.float(), others, m)
    whole = a.float().clone()  # (O,9,3,3): only what sees the picture is merged
    whole[:, :4] = combine(whole[:, :4], others, m)
    return whole


def weighted_sum(a: Tensor, others: list[Tensor], m: float) -> Tensor:
    """Give A (1 - m) + B m, all float32."""
    (b,) = others
    return a * (1 - m) + b * m


def add_difference(a: Tensor, others: list[Tensor], m: float) -> Tensor:
    """Give A + (B - C) m, all float32."""
    b, c = others
    return a + (b - c) * m


def _finite(name: str, tensor: Tensor, outline: Mapping[str, Tensor]) -> Tensor:
    stored = tensor.to(outline[name].dtype)
    if stored.is_floating_point() and stored.dtype.itemsize > 1 and not stored.isfinite().all():
        dtype = str(stored.dtype).removeprefix("torch.")
        raise WeightsError(
            f"{name} has values that {dtype} cannot hold or that are no numbers; nothing was written"
        )
    return stored


def _metadata(recipe: Recipe, opened: list[_Input]) -> dict[str, str]:
    """The inputs' own metadata, A's before the others', and the recipe with the inputs' hashes."""
    copied: dict[str, str] = {"format": "pt"}
    for each in reversed(opened):
        own = {
            k: v
            for k, v in each.header.metadata.items()
            if not _STALE.fullmatch(k) and k not in (RECIPE, MERGED)
        }
        if each is not opened[0]:
            own = {k: v for k, v in own.items() if k != SELF and not k.startswith("modelspec.")}
        copied |= own
    hashes = [file_sha256(each.path) for each in opened]
    models: dict[str, object] = {}
    for each, digest in zip(opened, hashes, strict=True):
        models |= _earlier(each.header.metadata)
        before = each.header.metadata.get(RECIPE)
        models[digest] = {"name": each.path.name, "legacy_hash": None, "sd_merge_recipe": before}
    roles = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
    channels = (opened[0].shape(_FIRST) or (0, 0))[1]
    said = {
        "type": "webui",
        **{role: (hashes[k] if k < len(hashes) else None) for k, role in enumerate(roles)},
        "interp_method": _METHOD_NAMES[recipe.method],
        "multiplier": recipe.multiplier,
        "block_weights": dict(zip(BLOCKS, recipe.blocks, strict=False)) or None,
        "save_as_half": recipe.dtype in (torch.float16, torch.bfloat16),
        "bake_in_vae": recipe.vae and recipe.vae.name,
        "discard_weights": recipe.discard,
        "is_inpainting": channels == 9,
        "is_instruct_pix2pix": channels == 8,
    }
    return {**copied, **recipe.metadata, RECIPE: json.dumps(said), MERGED: json.dumps(models)}


def _earlier(metadata: Mapping[str, str]) -> dict[str, object]:
    """What an input was merged of, where its metadata says it usably."""
    try:
        found = json.loads(metadata.get(MERGED, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
