"""What each kind of adapter does to a weight, as a pure function of its tensors.

Fields are called the same in every layout (names.py). A kind whose change depends on the weight itself is
given that weight; the others only look at its shape.

Shape letters: O out, I in, K… kernel of a convolution (nothing for a linear map), R rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sfumato.errors import WeightsError

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class KindSpec:
    """One kind: the fields that tell it, and what it makes of them."""

    needs: tuple[tuple[str, ...], ...]  # any of these sets of fields tells the kind
    change: Callable[[Tensors, float | None, Tensor], Tensor | None]  # of the weight, in float32


def delta(kind: str, tensors: Tensors, alpha: float | None, base: Tensor) -> Tensor | None:
    """Give what a kind adds to a weight at strength 1.

    With a `dora_scale` the sum of weight and change is brought to that length, row by row or column by column
    (Liu et al. 2024, arXiv:2402.09353), and the change is what leads there.

    Args:
        kind: a name in `KINDS`.
        tensors: its fields, in float32 and on one device; they may be of the meta device, for the shape.
        alpha: the constant stored beside them; None or 0 = the rank, so that nothing is scaled.
        base: the weight (O,I,K…) in float32, on the same device.

    Returns:
        (O,I,K…) float32; None = the weight stays, as where only a bias is changed.

    Raises:
        WeightsError: the tensors do not fit one another or the weight.
    """
    try:
        change = KINDS[kind].change(tensors, alpha, base)
        if change is None or change.shape == base.shape:
            return change if change is None or "dora_scale" not in tensors else _dora(tensors, change, base)
    except (RuntimeError, IndexError, TypeError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise WeightsError(f"{shapes} do not fit one another or {list(base.shape)}") from error
    raise WeightsError(f"changes a weight of {list(change.shape)}, the network's is {list(base.shape)}")


def bias_delta(tensors: Tensors, alpha: float | None) -> Tensor | None:
    """Give what an adapter adds to a bias at strength 1: (O,) float32, or None."""
    if "bias_up" in tensors and "down" in tensors:
        return tensors["bias_up"] * _scale(alpha, _length(tensors["down"]))
    return next((tensors[name] for name in ("diff_b", "b_norm") if name in tensors), None)


def factors(kind: str, tensors: Tensors, alpha: float | None) -> tuple[Tensor, ...] | None:
    """Give a change that is a product of thin matrices as these, if it is nothing else.

    Returns:
        (R,I,K…), for a Tucker form (R,R,K…), and (O,R…) with the scale in it; None = no such product.
    """
    if kind != "lora" or not {"dora_scale", "diff_b", "bias_up"}.isdisjoint(tensors):
        return None
    up = tensors["up"] * _scale(alpha, _length(tensors["down"]))
    return (tensors["down"], *([tensors["mid"]] if "mid" in tensors else []), up)


def rank_of(kind: str, tensors: Tensors) -> int | None:
    """Give the rank of what has one."""
    inner = {"lora": "down", "loha": "hada_w1_b", "glora": "b2"}.get(kind)
    if kind == "lokr":
        inner = next((name for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors), None)
    return _length(tensors[inner]) if inner else None


def _length(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _scale(alpha: float | None, rank: int) -> float:
    if not rank:
        raise WeightsError("has rank 0; it was not saved completely, get the file again")
    return alpha / rank if alpha else 1.0


def _shaped(matrix: Tensor, base: Tensor) -> Tensor:
    """Lay (O,I·K) out as the weight."""
    if matrix.shape != (base.shape[0], base[:1].numel()):
        raise WeightsError(f"changes a weight of {list(matrix.shape)}, the network's is {list(base.shape)}")
    return matrix.reshape(base.shape)


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(R,R,K…) between (R,O) and (R,I): (O,I,K…)."""
    return torch.einsum("pq...,po,qi->oi...", core, left, right)


def _lora(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    """Hu et al. 2021, arXiv:2106.09685: alpha / R · up · down."""
    up, down = t["up"].flatten(1), t["down"]  # (O,R), (R,I,K…)
    scale = _scale(alpha, _length(down))
    if "mid" in t:
        return _tucker(t["mid"], up.T, down.flatten(1)) * scale
    return _shaped(up @ down.flatten(1) * scale, base)


def _loha(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    """Hyeon-Woo et al. 2021, arXiv:2108.06098: the entrywise product of two products."""
    halves = []
    for n in (1, 2):
        left, right = t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]
        core = t.get(f"hada_t{n}")
        halves.append(left @ right.flatten(1) if core is None else _tucker(core, left, right))
    product = halves[0] * halves[1] * _scale(alpha, _length(t["hada_w1_b"]))
    return product if "hada_t1" in t else _shaped(product, base)


def _lokr(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    """Edalati et al. 2022, arXiv:2212.10650: a Kronecker product; alpha counts where a half is a product."""
    rank = rank_of("lokr", t)
    first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        second = t["lokr_w2"]
    elif "lokr_t2" in t:
        second = _tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        right = t["lokr_w2_b"]  # (R,I/…,K…)
        second = (t["lokr_w2_a"] @ right.flatten(1)).reshape(-1, *right.shape[1:])
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    product = torch.kron(first, second.contiguous())
    product = product * (1.0 if rank is None else _scale(alpha, rank))
    return product if product.shape == base.shape else _shaped(product.flatten(1), base)


def _ia3(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    """Liu et al. 2022, arXiv:2205.05638: a factor for each channel that comes in or goes out."""
    if "ia3_l" in t:  # the factor itself, (O,1) or (1,I)
        return base * (t["ia3_l"] - 1)
    axis = 1 if "on_input" in t else 0
    factor = t["weight"].reshape([-1 if place == axis else 1 for place in range(base.ndim)])
    return base * factor


def _full(t: Tensors, alpha: float | None, base: Tensor) -> Tensor | None:
    return _shaped(t["diff"].flatten(1), base) if t["diff"].ndim > 1 else t["diff"]


def _norm(t: Tensors, alpha: float | None, base: Tensor) -> Tensor | None:
    return t["w_norm"]


def _bias_only(t: Tensors, alpha: float | None, base: Tensor) -> Tensor | None:
    return None


def _set(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    return t["set_weight"] - base


def _glora(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    """Chavan et al. 2023, arXiv:2306.07967: W·A + B. Older files have the halves of both the other way."""
    a1, a2, b1, b2 = (t[name].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    if b1.shape[0] < b1.shape[1]:
        a1, a2, b1, b2 = a2, a1, t["b2"].flatten(1), t["b1"].flatten(1)
    scale = _scale(alpha, len(b2))
    added = _tucker(t["bm"], b1.T, b2) if "bm" in t else _shaped(b1 @ b2, base)
    turned = torch.einsum("oi...,ij,jk->ok...", base, a1, a2)
    return (added + turned) * scale


def _rotation(blocks: Tensor, alpha: float | None, width: int) -> Tensor:
    """Cayley: an orthogonal matrix of each block (…,B,B). alpha · width, if given, bounds the turn."""
    skew = blocks - blocks.transpose(-1, -2)
    if alpha:
        skew = skew * (alpha * width / (skew.norm() + 1e-8)).clamp(max=1.0)
    one = torch.eye(blocks.shape[-1], device=blocks.device)
    turn: Tensor = (one + skew) @ torch.linalg.inv(one - skew)
    return turn


def _oft(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    """Qiu et al. 2023, arXiv:2306.07280: the outputs turned, block by block."""
    turn = _rotation(t["oft_blocks"], alpha, base.shape[0])  # (N,B,B)
    blocks = base.reshape(*turn.shape[:2], *base.shape[1:])
    turned = torch.einsum("knm,kn...->km...", turn, blocks).flatten(0, 1)
    return turned * t.get("rescale", 1) - base


def _boft(t: Tensors, alpha: float | None, base: Tensor) -> Tensor:
    """Liu et al. 2023, arXiv:2311.06243: turns in stages, each over partners twice as far apart."""
    turns = _rotation(t["boft_blocks"], alpha, base.shape[0])  # (M,N,B,B)
    size = turns.shape[-1]
    turned, inside = base, base.shape[1:]
    for stage, turn in enumerate(turns):
        apart = 2**stage * (size // 2)
        turned = turned.reshape(-1, 2, apart, *inside).transpose(1, 2).reshape(-1, size, *inside)
        turned = torch.einsum("bij,bj...->bi...", turn, turned).flatten(0, 1)
        turned = turned.reshape(-1, apart, 2, *inside).transpose(1, 2).reshape(base.shape)
    return turned * t.get("rescale", 1) - base


def _dora(t: Tensors, change: Tensor, base: Tensor) -> Tensor:
    length = t["dora_scale"]
    axis = 1 if length.ndim > 1 and length.shape[0] == 1 and length.shape[1] > 1 else 0
    others = [place for place in range(base.ndim) if place != axis]
    merged = base + change
    norm = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
    length = length.reshape([-1 if place == axis else 1 for place in range(base.ndim)])
    led: Tensor = merged * (length / (norm + torch.finfo(torch.float32).eps)) - base
    return led


_LOKR = tuple(
    (*first, *second)
    for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
    for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
)
KINDS: Mapping[str, KindSpec] = MappingProxyType(
    {
        "lora": KindSpec(needs=(("up", "down"),), change=_lora),
        "loha": KindSpec(needs=(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),), change=_loha),
        "lokr": KindSpec(needs=_LOKR, change=_lokr),
        "glora": KindSpec(needs=(("a1", "a2", "b1", "b2"),), change=_glora),
        "oft": KindSpec(needs=(("oft_blocks",),), change=_oft),
        "boft": KindSpec(needs=(("boft_blocks",),), change=_boft),
        "ia3": KindSpec(needs=(("weight", "on_input"), ("weight", "on_output"), ("ia3_l",)), change=_ia3),
        "full": KindSpec(needs=(("diff",),), change=_full),
        "norm": KindSpec(needs=(("w_norm",),), change=_norm),
        "set": KindSpec(needs=(("set_weight",),), change=_set),
        "bias": KindSpec(needs=(("diff_b",), ("b_norm",)), change=_bias_only),
    }
)


def kind_of(fields: Tensors) -> str | None:
    """Tell the kind of a module's tensors from their names; None = none is complete."""
    for kind, spec in KINDS.items():
        if any(all(name in fields for name in needed) for needed in spec.needs):
            return kind
    return None
