"""From adapters to adapters, and into checkpoints: merge, resize, extract, convert, bake.

Files are read module by module; only what becomes a LoRA, some ten megabytes, is held until it is written.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sfumato.errors import OutputError, RequestError, WeightsError
from sfumato.weights import keymaps
from sfumato.weights.adapters import kinds
from sfumato.weights.adapters.apply import Changes, merged, merged_bias
from sfumato.weights.adapters.names import Place, kohya_names, peft_names
from sfumato.weights.adapters.read import Adapter, Fitted, Piece, fit
from sfumato.weights.adapters.spectrum import Cut, factorise
from sfumato.weights.detect import require_spec
from sfumato.weights.files import DTYPES, TensorStep, read_tensor, stream_safetensors, write_safetensors
from sfumato.weights.header import open_regular, read_header
from sfumato.weights.layouts import Part, build_empty
from sfumato.weights.sources import Source, open_source
from sfumato.weights.specs import MODELS, ModelSpec

Layout = Literal["kohya", "peft"]
LAYOUTS: tuple[Layout, ...] = ("kohya", "peft")
_BASES = {"SD 1.x": "sd-1.x", "SD 2.x": "sd-2.x-base"}
_OF_BASE = frozenset({"ia3", "glora", "oft", "boft", "set"})  # what they change depends on the weight


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a LoRA goes, and in which form."""

    path: Path
    layout: Layout = "kohya"
    dtype: torch.dtype | None = None  # None = as the first input is stored

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise RequestError(f"layout={self.layout!r} is not one of {', '.join(LAYOUTS)}")
        require_new(self.path)


def require_new(path: Path) -> None:
    """Refuse a target that is there, or is no safetensors file. Raises OutputError."""
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists already; choose another name or remove it")
    if path.suffix != ".safetensors":
        raise OutputError(f"{path} does not end in .safetensors; name it so")


def spec_of(adapter: Adapter, checkpoint: Path | None) -> ModelSpec:
    """What an adapter changes: as the checkpoint says, or as its own keys tell.

    Raises:
        RequestError: no checkpoint is given and the keys do not tell.
        UnknownModelError, WeightsError: the checkpoint is none.
    """
    if checkpoint is not None:
        with open_source(checkpoint) as source:
            return require_spec(source.found, checkpoint)
    if adapter.family not in _BASES:
        raise RequestError(f"{adapter.path} is made for {adapter.family}; name a checkpoint with --model")
    return MODELS[_BASES[adapter.family]]


def fit_to(adapter: Adapter, spec: ModelSpec) -> Fitted:
    """Hold an adapter against a specification; see `fit`."""
    return fit(adapter, spec, {name: build_empty(name, spec) for name in ("unet", "text")})


def resize(adapter: Adapter, spec: ModelSpec, cut: Cut, output: Output) -> Iterator[TensorStep]:
    """Write an adapter as a LoRA of a smaller rank, the nearest one module by module.

    Yields a step after each module. Raises as `merge` does.
    """
    yield from merge([(adapter, 1.0)], spec, cut, output)


def merge(
    adapters: Sequence[tuple[Adapter, float]], spec: ModelSpec, cut: Cut | None, output: Output
) -> Iterator[TensorStep]:
    """Write the sum of adapters as one LoRA.

    Args:
        adapters: with a factor each, of any sign.
        spec: of the checkpoints they are for.
        cut: how much of each module's sum is kept; None lays the ranks side by side where all are LoRA,
            which loses nothing, and keeps everything where they are not.
        output: the file.

    Yields:
        A step after each module. Stop iterating to leave nothing behind.

    Raises:
        UnknownModelError, WeightsError: an adapter does not fit, or changes what depends on the checkpoint.
        OutputError: the file cannot be written.
    """
    networks = {name: build_empty(name, spec) for name in ("unet", "text")}
    changes: dict[Place, Changes] = {}
    for adapter, factor in adapters:
        for network, pieces in fit(adapter, spec, networks).parts.items():
            for module, piece in pieces.items():
                _require_own(adapter, piece, module)
                changes.setdefault(Place(network, module), []).append((piece, factor))
    made: dict[Place, Piece] = {}
    for done, (place, each) in enumerate(changes.items(), 1):
        weight = networks[place.network].get_submodule(place.module).weight
        assert isinstance(weight, Tensor)
        made |= _summed(place, each, weight.shape, cut)
        yield TensorStep(done=done, total=len(changes), name=place.module)
    first = adapters[0][0]
    _write(made, spec, output, dict(first.metadata), _stored(first))


def convert(adapter: Adapter, spec: ModelSpec, output: Output) -> None:
    """Write a LoRA in another layout, its numbers as they are but for PEFT's scale, which is in them.

    Raises:
        UnknownModelError, WeightsError: it does not fit, or is of a kind that the layout does not have.
        OutputError: the file cannot be written.
    """
    made = {
        Place(network, module): piece
        for network, pieces in fit_to(adapter, spec).parts.items()
        for module, piece in pieces.items()
    }
    _write(made, spec, output, dict(adapter.metadata), _stored(adapter))


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What of the difference between two checkpoints becomes a LoRA."""

    linear: Cut
    kernels: Cut | None = None  # of convolutions wider than 1×1; None = they are left out
    text: bool = True  # whether the text encoder counts
    least: float = 0.0  # modules whose numbers differ by no more are left out


def extract(base: Path, tuned: Path, what: Extraction, output: Output) -> Iterator[TensorStep]:
    """Write what lies between two checkpoints as a LoRA.

    Args:
        base: the one it will be used with.
        tuned: the one it is to lead to.
        what: how much of it.
        output: the file.

    Yields:
        A step after each module. Stop iterating to leave nothing behind.

    Raises:
        ModelNotFoundError: one of them is missing.
        WeightsError: they are broken, of two families, or do not differ.
        OutputError: the file cannot be written.
    """
    with open_source(base) as first, open_source(tuned) as second:
        spec, other = require_spec(first.found, base), require_spec(second.found, tuned)
        if (spec.unet, spec.text) != (other.unet, other.text):
            raise WeightsError(f"{tuned} is {second.found}, {base} is {first.found}; give two of one family")
        ours, theirs = (
            _Stored(each, ("unet", "text") if what.text else ("unet",)) for each in (first, second)
        )
        places = [place for place in kohya_names(spec) if (*place, "weight") in ours]
        made: dict[Place, Piece] = {}
        for done, place in enumerate(places, 1):
            weight = ours.read(*place, "weight").float()
            kernel = weight.shape[2:].numel() > 1
            cut = what.kernels if kernel else what.linear
            if weight.ndim > 1 and cut is not None:
                change = theirs.read(*place, "weight").float() - weight
                if float(change.abs().max()) > what.least:
                    made[place] = _lora(change, cut)
            yield TensorStep(done=done, total=len(places), name=place.module)
    if not made:
        raise WeightsError(f"{tuned} does not differ from {base} in what a LoRA can change")
    _write(made, spec, output, {"ss_base_model_version": spec.family}, torch.float32)


def bake(
    checkpoint: Path,
    adapters: Sequence[tuple[Adapter, float, float]],
    target: Path,
    dtype: torch.dtype | None = None,
) -> Iterator[TensorStep]:
    """Write a checkpoint with adapters merged into it, in float32, tensor by tensor.

    Args:
        checkpoint: a single file.
        adapters: each with its strengths: in the text encoder, in the U-Net.
        target: the new file.
        dtype: what floating-point weights are cast to; None keeps each as it is.

    Yields:
        A step after each tensor. Stop iterating to leave nothing behind.

    Raises:
        ModelNotFoundError: there is no such checkpoint.
        UnknownModelError, WeightsError: it is a folder or broken, or an adapter does not fit.
        OutputError: the file exists or cannot be written.
    """
    require_new(target)
    if checkpoint.is_dir():
        raise WeightsError(f"{checkpoint} is a folder; make it a single file first: `sfumato models convert`")
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(checkpoint))
        spec = require_spec(source.found, checkpoint)
        changes: dict[Place, Changes] = {}
        for adapter, text, unet in adapters:
            for network, pieces in fit_to(adapter, spec).parts.items():
                for module, piece in pieces.items():
                    strength = text if network == "text" else unet
                    changes.setdefault(Place(network, module), []).append((piece, strength))
        header = read_header(source.file)
        file = stack.enter_context(open_regular(source.file))
        parts = {
            name: (network, part)
            for network, found in source.parts.items()
            for part in found
            for name in part.names
        }

        def produce(name: str) -> Tensor:
            tensor = read_tensor(file, header.tensors[name], source.file)
            if name not in parts or not tensor.is_floating_point():
                return tensor
            network, part = parts[name]
            return _baked(tensor, network, part, name, changes)

        outline = {
            name: torch.empty(info.shape, dtype=_cast(DTYPES[info.dtype], dtype), device="meta")
            for name, info in header.tensors.items()
        }
        said = ", ".join(f"{adapter.name} {text:g} {unet:g}" for adapter, text, unet in adapters)
        metadata = {**header.metadata, "sfumato.baked": said}
        for done, name in enumerate(stream_safetensors(target, outline, produce, metadata), 1):
            yield TensorStep(done=done, total=len(outline), name=name)


def _cast(stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    return wanted if wanted is not None and stored.is_floating_point else stored


def _baked(tensor: Tensor, network: str, part: Part, name: str, changes: Mapping[Place, Changes]) -> Tensor:
    """A stored tensor with what is changed of it; the parts of a joint matrix are views of it."""
    for ours, view in keymaps.to_ours(part.table, {part.names[name]: tensor}).items():
        module, _, leaf = ours.rpartition(".")
        each = changes.get(Place(network, module))
        if each:
            result = (merged if leaf == "weight" else merged_bias)(view, each)
            if result is not None:
                if not bool(result.to(tensor.dtype).isfinite().all()):
                    raise WeightsError(f"{name} would have values that {tensor.dtype} cannot hold")
                view.copy_(result)
    return tensor


class _Stored:
    """Tensors of a checkpoint by our names, read one by one."""

    def __init__(self, source: Source, networks: tuple[str, ...]) -> None:
        self._found: dict[tuple[str, str, str], tuple[Part, str]] = {}
        for network in networks:
            for part in source.parts[network]:
                for name, inner in part.names.items():
                    outline = torch.empty(part.header.tensors[name].shape, device="meta")
                    for ours in keymaps.to_ours(part.table, {inner: outline}):
                        module, _, leaf = ours.rpartition(".")
                        self._found[network, module, leaf] = part, name

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        return key in self._found

    def read(self, network: str, module: str, leaf: str) -> Tensor:
        part, name = self._found[network, module, leaf]
        with open_regular(part.file) as file:
            tensor = read_tensor(file, part.header.tensors[name], part.file)
        return keymaps.to_ours(part.table, {part.names[name]: tensor})[f"{module}.{leaf}"]


def _require_own(adapter: Adapter, piece: Piece, module: str) -> None:
    if piece.kind in _OF_BASE or "dora_scale" in piece.tensors:
        kind = "DoRA" if "dora_scale" in piece.tensors else piece.kind
        raise WeightsError(
            f"{adapter.path}: what {kind} changes in {module} depends on the checkpoint; "
            "bake it into one and extract the difference"
        )
    if kinds.bias_delta(piece.tensors, piece.alpha) is not None or piece.kind == "norm":
        raise WeightsError(f"{adapter.path} changes a bias or norm in {module}, which a LoRA cannot")


def _summed(place: Place, changes: Changes, shape: torch.Size, cut: Cut | None) -> dict[Place, Piece]:
    if cut is None and all(piece.kind == "lora" and "mid" not in piece.tensors for piece, _ in changes):
        ups, downs = [], []
        for piece, factor in changes:
            thin = kinds.factors("lora", {n: t.float() for n, t in piece.tensors.items()}, piece.alpha)
            assert thin is not None
            downs.append(thin[0])
            ups.append(thin[1] * factor)
        tensors = {"down": torch.cat(downs), "up": torch.cat(ups, 1)}
        return {place: Piece(kind="lora", tensors=tensors, alpha=float(len(tensors["down"])))}
    total = torch.zeros(shape)
    for piece, factor in changes:
        tensors = {name: tensor.float() for name, tensor in piece.tensors.items()}
        change = kinds.delta(piece.kind, tensors, piece.alpha, total)
        assert change is not None
        total = total + change * factor
    return {place: _lora(total, cut or Cut())} if bool(total.any()) else {}


def _lora(change: Tensor, cut: Cut) -> Piece:
    """A LoRA of a change (O,I,K…)."""
    up, down = factorise(change.flatten(1), cut)
    rank = len(down)
    ones = [1] * (change.ndim - 2)
    tensors = {"up": up.reshape(-1, rank, *ones), "down": down.reshape(rank, *change.shape[1:])}
    return Piece(kind="lora", tensors=tensors, alpha=float(rank))


def _stored(adapter: Adapter) -> torch.dtype:
    tensors = (tensor for piece in adapter.pieces.values() for tensor in piece.tensors.values())
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def _write(
    made: Mapping[Place, Piece],
    spec: ModelSpec,
    output: Output,
    metadata: dict[str, str],
    stored: torch.dtype,
) -> None:
    ranks = {piece.rank for piece in made.values()}
    metadata |= {"format": "pt", "ss_network_module": "networks.lora"}
    metadata["ss_network_dim"] = metadata["ss_network_alpha"] = (
        str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    )
    lay: Callable[[Mapping[Place, Piece], ModelSpec], dict[str, Tensor]] = (
        kohya_tensors if output.layout == "kohya" else _as_peft
    )
    tensors = lay(made, spec)
    if output.layout == "peft":
        metadata = {"format": "pt"}
    write_safetensors(output.path, tensors, metadata, dtype=output.dtype or stored)


_KOHYA = {  # our field: the ending of its key, where that is not the field's name
    "up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight", "boft_blocks": "oft_blocks",
    **{name: f"{name}.weight" for name in ("a1", "a2", "b1", "b2", "bm")}, "on_output": "on_input",
}  # fmt: skip


def kohya_tensors(made: Mapping[Place, Piece], spec: ModelSpec) -> dict[str, Tensor]:
    """Spell an adapter as kohya's trainer and LyCORIS do, and most programs read."""
    names = kohya_names(spec)
    tensors: dict[str, Tensor] = {}
    for place, piece in made.items():
        for field, tensor in piece.tensors.items():
            tensors[f"{names[place]}.{_KOHYA.get(field, field)}"] = tensor
        if piece.alpha is not None or piece.rank is not None:
            tensors[f"{names[place]}.alpha"] = torch.tensor(piece.alpha or float(piece.rank or 1))
    return tensors


def _as_peft(made: Mapping[Place, Piece], spec: ModelSpec) -> dict[str, Tensor]:
    names = peft_names(spec)
    tensors: dict[str, Tensor] = {}
    for place, piece in made.items():
        if piece.kind != "lora" or not {"mid", "diff_b", "bias_up"}.isdisjoint(piece.tensors):
            raise WeightsError(
                f"{place.module} is changed by {piece.kind}, which PEFT's files of LoRA cannot hold"
            )
        scale = (piece.alpha or len(piece.tensors["down"])) / len(piece.tensors["down"])
        tensors[f"{names[place]}.lora_A.weight"] = piece.tensors["down"]
        tensors[f"{names[place]}.lora_B.weight"] = piece.tensors["up"].float() * scale
        if "dora_scale" in piece.tensors:
            tensors[f"{names[place]}.lora_magnitude_vector"] = piece.tensors["dora_scale"].flatten()
    return tensors
