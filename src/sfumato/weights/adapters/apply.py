"""Adapters on a network and off it again: merged into copies of its weights, or computed beside them.

The base weights are never written to. A merged weight is a new tensor in the parameter's place, so taking an
adapter off puts the old one back, to the bit and at no cost; what is computed on the fly leaves even the
parameters alone.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.weights.adapters import kinds
from sfumato.weights.adapters.hypernetworks import Hyper
from sfumato.weights.adapters.read import Piece

Changes = list[tuple[Piece, float]]  # of one module: what, and how strongly


@dataclass(frozen=True, kw_only=True)
class Part:
    """What an adapter does to one network."""

    digest: str  # tells it from others
    pieces: Mapping[str, Piece | Hyper] = field(compare=False)  # by our module


@dataclass(frozen=True, kw_only=True)
class Use:
    """One adapter on one network, so strongly."""

    part: Part
    strength: float
    blocks: tuple[tuple[str, float], ...] = ()  # start of modules' names: factor for these; the rest 1
    rank: int | None = None  # so many ranks of each module, the first

    @property
    def key(self) -> tuple[object, ...]:
        """Tells what it does without holding on to it."""
        return self.part.digest, self.strength, self.blocks, self.rank

    def strength_of(self, module: str) -> float:
        """How strongly a module is changed."""
        factor = next((factor for start, factor in self.blocks if module.startswith(start)), 1.0)
        return self.strength * factor


class Adapted:
    """A network that wears adapters. Say around each call which; what it wears already costs nothing."""

    def __init__(self, network: nn.Module) -> None:
        """Leave the network as it is."""
        self.network = network
        self._lock = threading.RLock()
        self._uses: tuple[Use, ...] = ()
        self._on_the_fly = False
        self._bases: dict[str, tuple[nn.Parameter, Tensor]] = {}  # of merged parameters: what they held
        self._wrapped: list[nn.Module] = []
        self._ready: dict[Piece, tuple[Tensor, ...] | None] = {}  # thin matrices in the network's numbers
        self._cut: dict[tuple[Piece, int], Piece] = {}

    @contextmanager
    def wearing(self, uses: tuple[Use, ...], *, on_the_fly: bool = False) -> Iterator[None]:
        """Have the network wear exactly these while the block runs; other threads wait. See `use`."""
        with self._lock:
            self.use(uses, on_the_fly=on_the_fly)
            yield

    @property
    def copied_bytes(self) -> int:
        """Bytes of the merged weights that stand beside their bases."""
        with self._lock:
            return sum(base.numel() * base.element_size() for _, base in self._bases.values())

    def bytes_of(self, uses: Iterable[Use]) -> int:
        """Bytes of the merged weights that these adapters would need."""
        pieces = (pair for use in uses if use.strength for pair in use.part.pieces.items())
        names = {name for name, piece in pieces if isinstance(piece, Piece)}
        weights = (self.network.get_parameter(f"{name}.weight") for name in names)
        return sum(each.numel() * each.element_size() for each in weights)

    def use(self, uses: tuple[Use, ...], *, on_the_fly: bool = False) -> None:
        """Wear exactly these adapters; () = none, and the network is as it was, to the bit.

        Args:
            uses: in any order; what they do adds up.
            on_the_fly: compute them beside the weights at every call: no memory for merged weights and
                nothing to wait for, but each call takes longer.
        """
        uses = tuple(use for use in uses if use.strength)
        if uses == self._uses and on_the_fly == self._on_the_fly:
            return
        self._unwrap()
        changes: dict[str, Changes] = {}
        moves: dict[str, list[tuple[Hyper, float]]] = {}
        for use in uses:
            for name, piece in use.part.pieces.items():
                strength = use.strength_of(name)
                if not strength:
                    continue
                if isinstance(piece, Hyper):
                    moves.setdefault(name, []).append((piece, strength))
                else:
                    changes.setdefault(name, []).append((self._cut_to(piece, use.rank), strength))
        merged = {} if on_the_fly else changes
        with ExitStack() as undo:  # Ctrl-C included: no network is left half dressed
            undo.callback(self._undress)
            self._restore(keep=merged)
            if on_the_fly:
                for name, each in changes.items():
                    self._wrap(self.network.get_submodule(name), each)
            else:
                for name, each in changes.items():
                    self._merge(name, self.network.get_submodule(name), each)
            for name, hypers in moves.items():
                module = self.network.get_submodule(name)
                module.forward = _moved(module.forward, hypers)
                self._wrapped.append(module)
            undo.pop_all()
        self._uses, self._on_the_fly = uses, on_the_fly
        if not on_the_fly or not uses:
            self._ready.clear()
            self._cut.clear()

    def _undress(self) -> None:
        self._unwrap()
        self._restore(keep={})
        self._uses, self._on_the_fly = (), False

    def _restore(self, keep: Mapping[str, Changes]) -> None:
        """Put base tensors back, but for modules that are about to be merged anew into the same memory."""
        for key in [key for key in self._bases if key.rpartition(".")[0] not in keep]:
            parameter, base = self._bases.pop(key)
            parameter.data = base

    def _merge(self, name: str, module: nn.Module, changes: Changes) -> None:
        weight, bias = module.weight, getattr(module, "bias", None)
        assert isinstance(weight, nn.Parameter)
        base = self._base(f"{name}.weight", weight)
        self._put(f"{name}.weight", weight, base, merged(base, changes))
        if bias is not None:
            base = self._base(f"{name}.bias", bias)
            self._put(f"{name}.bias", bias, base, merged_bias(base, changes))

    def _base(self, key: str, parameter: nn.Parameter) -> Tensor:
        return self._bases[key][1] if key in self._bases else parameter.data

    def _put(self, key: str, parameter: nn.Parameter, base: Tensor, result: Tensor | None) -> None:
        if result is None:
            if key in self._bases:
                self._bases.pop(key)
                parameter.data = base
            return
        self._bases[key] = parameter, base
        parameter.data = torch.empty_like(base).copy_(result) if result.dtype != base.dtype else result

    def _wrap(self, module: nn.Module, changes: Changes) -> None:
        thin = [(each, strength) for piece, strength in changes if (each := self._thin(piece, module))]
        if len(thin) == len(changes):
            module.forward = _beside(module, module.forward, thin)
        else:
            module.forward = _within(module, module.forward, changes)
        self._wrapped.append(module)

    def _thin(self, piece: Piece, module: nn.Module) -> tuple[Tensor, ...] | None:
        if piece not in self._ready:
            weight = module.weight
            assert isinstance(weight, Tensor)
            thin = kinds.factors(piece.kind, _numbers(piece, weight.device), piece.alpha)
            self._ready[piece] = None if thin is None else tuple(each.to(weight.dtype) for each in thin)
        return self._ready[piece]

    def _cut_to(self, piece: Piece, rank: int | None) -> Piece:
        if rank is None:
            return piece
        return self._cut.setdefault((piece, rank), piece.cut(rank))

    def _unwrap(self) -> None:
        while self._wrapped:
            vars(self._wrapped.pop()).pop("forward", None)  # a module may be wrapped twice


def merged(base: Tensor, changes: Changes) -> Tensor | None:
    """The weight with all changes, computed in float32: of `base`'s layout; None = none changes it."""
    thin = [(_thin_pair(piece, base), strength) for piece, strength in changes]
    if all(pair is not None for pair, _ in thin) and (base.is_contiguous() or base[0, 0].numel() == 1):
        total = base.detach().to(torch.float32, copy=True)
        flat = total.view(len(total), -1)
        for pair, strength in thin:  # added while it is multiplied, which needs no memory of its own
            assert pair is not None
            flat.addmm_(pair[1], pair[0], alpha=strength)
        return total
    wide = base.detach().to(torch.float32)
    sum_: Tensor | None = None
    for piece, strength in changes:
        change = kinds.delta(piece.kind, _numbers(piece, base.device), piece.alpha, wide)
        if change is not None:
            sum_ = wide.clone() if sum_ is None else sum_
            sum_.add_(change, alpha=strength)
    return sum_


def _thin_pair(piece: Piece, base: Tensor) -> tuple[Tensor, Tensor] | None:
    """A change as (R,M) and (O,R), if it is such a product."""
    thin = kinds.factors(piece.kind, _numbers(piece, base.device), piece.alpha)
    return (thin[0].flatten(1), thin[1].flatten(1)) if thin is not None and len(thin) == 2 else None


def merged_bias(base: Tensor, changes: Changes) -> Tensor | None:
    """The bias with all changes, computed in float32; None = none changes it."""
    total: Tensor | None = None
    for piece, strength in changes:
        change = kinds.bias_delta(_numbers(piece, base.device), piece.alpha)
        if change is not None:
            total = base.detach().to(torch.float32, copy=True) if total is None else total
            total.add_(change, alpha=strength)
    return total


def _numbers(piece: Piece, device: torch.device | None) -> dict[str, Tensor]:
    return {name: tensor.to(device, torch.float32) for name, tensor in piece.tensors.items()}


def _beside(
    module: nn.Module, original: Callable[..., Tensor], thin: list[tuple[tuple[Tensor, ...], float]]
) -> Callable[..., Tensor]:
    """The module's output with that of thin maps added."""

    def linear(x: Tensor) -> Tensor:
        out = original(x)
        for (down, up), strength in thin:
            out = out + F.linear(F.linear(x, down.flatten(1)), up.flatten(1)) * strength
        return out

    def convolution(x: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        out = original(x)
        for (*inner, up), strength in thin:
            h = x if len(inner) == 1 else F.conv2d(x, inner[0].flatten(1)[..., None, None])
            kernel = inner[-1].reshape(len(inner[-1]), -1, *module.kernel_size)
            h = module._conv_forward(h, kernel, None)
            out = out + F.conv2d(h, up.flatten(1)[..., None, None]) * strength
        return out

    return convolution if isinstance(module, nn.Conv2d) else linear


def _moved(original: Callable[..., Tensor], hypers: list[tuple[Hyper, float]]) -> Callable[..., Tensor]:
    """The module's output for what hypernetworks make of its input, one after another."""

    def forward(x: Tensor) -> Tensor:
        for hyper, strength in hypers:
            x = hyper(x, strength)
        return original(x)

    return forward


def _within(module: nn.Module, original: Callable[..., Tensor], changes: Changes) -> Callable[..., Tensor]:
    """The module's output with its weights changed for the moment of the call."""

    def forward(x: Tensor) -> Tensor:
        weight, bias = module.weight, getattr(module, "bias", None)
        assert isinstance(weight, nn.Parameter)
        kept = [(each, each.data) for each in (weight, bias) if each is not None]
        try:
            for (parameter, base), merge in zip(kept, (merged, merged_bias), strict=False):
                result = merge(base, changes)
                if result is not None:
                    parameter.data = result.to(base.dtype)
            return original(x)
        finally:
            for parameter, base in kept:
                parameter.data = base

    return forward
