"""Adapter files: read whole, understood module by module, held against the checkpoint they are to change."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.weights.adapters import kinds
from sfumato.weights.adapters.names import BUNDLED, flat, places, split_key
from sfumato.weights.detect import detect
from sfumato.weights.header import open_regular, read_header
from sfumato.weights.pickles import is_pickle, read_tensors
from sfumato.weights.specs import ModelSpec

MOST_STRANGERS = 12  # keys that fit nothing, beyond which a file is taken for another model's


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """What an adapter does to one module."""

    kind: str  # in kinds.KINDS
    tensors: Mapping[str, Tensor]  # by our names of the fields, as stored
    alpha: float | None
    keys: tuple[str, ...] = ()  # as they stand in the file

    @property
    def rank(self) -> int | None:
        """The rank of what has one."""
        return kinds.rank_of(self.kind, self.tensors)

    def cut(self, rank: int) -> "Piece":
        """Keep the first `rank` ranks of a LoRA; anything else stays whole. The scale stays too."""
        if self.kind != "lora" or "mid" in self.tensors or rank >= len(self.tensors["down"]):
            return self
        whole = len(self.tensors["down"])
        cut = {**self.tensors, "up": self.tensors["up"][:, :rank], "down": self.tensors["down"][:rank]}
        return Piece(kind=self.kind, tensors=cut, alpha=(self.alpha or whole) * rank / whole, keys=self.keys)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """An adapter file, read."""

    name: str
    path: Path
    family: str  # as far as its keys tell
    digest: str  # SHA-256 of its tensors' bytes, as it stands beside its name in pictures
    metadata: Mapping[str, str]
    pieces: Mapping[str, Piece]  # by the module as the file spells it
    embeddings: Mapping[str, Tensor]  # bundled with it, by token: (vectors,E)
    strange: tuple[str, ...]  # keys that are of no known form


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """An adapter held against a checkpoint."""

    adapter: Adapter
    parts: Mapping[str, Mapping[str, Piece]]  # "unet", "text"; by our module
    unmatched: tuple[str, ...] = ()  # keys that change nothing here


def read_adapter(path: Path) -> Adapter:
    """Read an adapter of any known kind and spelling.

    Args:
        path: a safetensors file or a pickle, which is read without being executed.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: a pickle that asks for something to be executed.
        UnknownModelError: it is something else; what, is said.
        WeightsError: it is broken, or holds numbers that are none.
    """
    tensors, metadata = read_tensors(path)
    found = detect(read_header(path)) if not is_pickle(path) else None
    if found is not None and found.kind not in ("LoRA", "unknown"):
        raise UnknownModelError(f"{path} is {found}, not a LoRA or its like")
    grouped: dict[str, dict[str, tuple[str, Tensor]]] = {}
    embeddings: dict[str, Tensor] = {}
    strange = []
    for key, tensor in tensors.items():
        if bundled := BUNDLED.fullmatch(key):
            embeddings[bundled["token"]] = tensor
        elif split := split_key(key):
            grouped.setdefault(split[0], {})[split[1]] = key, tensor
        else:
            strange.append(key)
    alphas = _Alphas.of(path, metadata)
    pieces = {}
    for module, fields in grouped.items():
        piece = _piece(path, module, fields, alphas)
        if piece is None:
            strange += [key for key, _ in fields.values()]
        else:
            pieces[module] = piece
    if not pieces:
        what = found if found is not None else "a file"
        raise UnknownModelError(f"{path} is {what} in which nothing is known of a LoRA or its like")
    return Adapter(
        name=path.stem,
        path=path,
        family=found.family if found else "an unknown base",
        digest=adapter_sha256(path),
        metadata=metadata,
        pieces=pieces,
        embeddings=embeddings,
        strange=tuple(strange),
    )


def fit(adapter: Adapter, spec: ModelSpec, networks: Mapping[str, nn.Module]) -> Fitted:
    """Hold an adapter against a checkpoint, without computing anything.

    Args:
        adapter: the adapter.
        spec: the checkpoint's.
        networks: "unet" and "text"; only shapes are looked at.

    Raises:
        UnknownModelError: it was made for another family, which is named.
        WeightsError: its tensors fit neither one another nor the checkpoint; the first are named.
    """
    known = places(spec)
    found: dict[str, dict[str, Piece]] = {"unet": {}, "text": {}}
    unmatched = list(adapter.strange)
    faults = []
    for spelled, piece in adapter.pieces.items():
        place = known.get(flat(spelled))
        module = place and _module(networks[place.network], place.module)
        if place is None or module is None:
            unmatched += piece.keys
            continue
        try:
            _require_fit(piece, module)
        except WeightsError as error:
            faults.append(f"{spelled} {error}")
            continue
        found[place.network][place.module] = piece
    matched = sum(map(len, found.values()))
    if faults or not matched or len(unmatched) > MOST_STRANGERS:
        _refuse(adapter, spec, faults, unmatched, matched)
    return Fitted(adapter=adapter, parts=found, unmatched=tuple(unmatched))


def _refuse(adapter: Adapter, spec: ModelSpec, faults: list[str], unmatched: list[str], matched: int) -> None:
    first = "; ".join(faults[:3]) or ", ".join(unmatched[:3])
    count = len(faults) or len(unmatched)
    what = "modules do not fit" if faults else "keys belong to nothing"
    said = f"{count} {what} the checkpoint ({matched} do): {first}"
    wanted = _base_of(spec)
    if adapter.family not in ("an unknown base", wanted):
        raise UnknownModelError(
            f"{adapter.path} is an adapter for {adapter.family}, the checkpoint is {spec.family}; "
            f"choose one made for {wanted} ({said})"
        )
    raise WeightsError(f"{adapter.path} does not fit {spec.family}: {said}")


def _base_of(spec: ModelSpec) -> str:
    return {768: "SD 1.x", 1024: "SD 2.x"}.get(spec.unet.context_dim, spec.family)


def _module(network: nn.Module, name: str) -> nn.Module | None:
    """The module of that name, if it is there and has a weight; a shortcut of equal widths has none."""
    try:
        module = network.get_submodule(name)
    except AttributeError:
        return None
    return module if isinstance(getattr(module, "weight", None), Tensor) else None


def _require_fit(piece: Piece, module: nn.Module) -> None:
    """Do on shapes what will be done on numbers. Raises WeightsError."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    meta = {name: tensor.to("meta", torch.float32) for name, tensor in piece.tensors.items()}
    kinds.delta(piece.kind, meta, piece.alpha, weight.to("meta", torch.float32))
    shift = kinds.bias_delta(meta, piece.alpha)
    if shift is not None and (bias is None or shift.shape != bias.shape):
        there = "none" if bias is None else list(bias.shape)
        raise WeightsError(f"changes a bias of {list(shift.shape)}, the network's is {there}")


def _piece(
    path: Path, module: str, fields: Mapping[str, tuple[str, Tensor]], alphas: "_Alphas"
) -> Piece | None:
    tensors = {name: tensor for name, (_, tensor) in fields.items() if name != "alpha"}
    for name, tensor in tensors.items():
        _require_finite(path, fields[name][0], tensor)
    if "on_input" in tensors and not _number(path, *fields["on_input"]):
        tensors["on_output"] = tensors.pop("on_input")
    if "oft_blocks" in tensors and tensors["oft_blocks"].ndim == 4:
        tensors["boft_blocks"] = tensors.pop("oft_blocks")
    if "magnitude" in tensors:  # one length a row, however it is laid out
        tensors["dora_scale"] = tensors.pop("magnitude").reshape(-1, 1)
    kind = kinds.kind_of(tensors)
    if kind is None:
        return None
    alpha = _number(path, *fields["alpha"]) if "alpha" in fields else None
    rank = kinds.rank_of(kind, tensors)
    if rank == 0:
        raise WeightsError(f"{path} has rank 0 in {module}; it was not saved completely, get the file again")
    if alpha is None:
        alpha = alphas.alpha(module, rank)
    if kind == "lokr" and rank is None:
        tensors["lokr_w1"] = tensors["lokr_w1"] * alphas.scale(module)
    return Piece(kind=kind, tensors=tensors, alpha=alpha, keys=tuple(key for key, _ in fields.values()))


def _number(path: Path, key: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or not math.isfinite(float(tensor)):
        raise WeightsError(f"{path} holds in {key} no number, or one that is not finite; get the file again")
    return float(tensor)


def _require_finite(path: Path, key: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and tensor.numel() and not bool(tensor.float().isfinite().all()):
        raise WeightsError(f"{path} holds values in {key} that are not finite; get the file again")


@dataclass(frozen=True, kw_only=True)
class _Alphas:
    """What PEFT's configuration says of alpha, which its tensors do not."""

    configs: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # by prefix of modules

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str]) -> "_Alphas":
        """Read it from the header, as diffusers writes it, or from the file beside, as PEFT does."""
        told: dict[str, dict[str, object]] = {}
        for name, value in _json(metadata.get("lora_adapter_metadata", "")).items():
            prefix, _, key = name.partition(".")
            told.setdefault(f"{prefix}.", {})[key] = value
        beside = path.with_name("adapter_config.json")
        if not told and path.stem == "adapter_model" and beside.is_file():
            with open_regular(beside) as file:
                told[""] = _json(file.read(2**20).decode("utf-8", "replace"))
        return cls(configs=told)

    def alpha(self, module: str, rank: int | None) -> float | None:
        """The alpha that gives a module its scale alpha / rank; None = 1."""
        for config in self._of(module):
            value = config.get("lora_alpha", config.get("alpha"))
            patterns = config.get("alpha_pattern")
            if isinstance(patterns, dict):
                value = next((v for name, v in patterns.items() if module.endswith(str(name))), value)
            if isinstance(value, int | float) and rank:
                return float(value) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
        return None

    def scale(self, module: str) -> float:
        """The scale of a module whose tensors have no rank: PEFT divides by that of the configuration."""
        for config in self._of(module):
            alpha, rank = config.get("alpha"), config.get("r")
            if isinstance(alpha, int | float) and isinstance(rank, int) and rank:
                return alpha / rank
        return 1.0

    def _of(self, module: str) -> list[Mapping[str, object]]:
        return [config for prefix, config in self.configs.items() if module.startswith(prefix)]


def _json(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def adapter_sha256(path: Path) -> str:
    """Give the hash by which programs know a LoRA: of a safetensors file without its header, which they edit.

    Raises:
        ModelNotFoundError: there is no such file.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(8 + length if not is_pickle(path) else 0)
        return hashlib.file_digest(file, "sha256").hexdigest()
