"""Trained embeddings (Gal et al. 2022, arXiv:2208.01618): a word whose vectors were learnt.

Shape letters: V vectors of the word, E width of the text encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.weights.files import file_sha256
from sfumato.weights.pickles import read_tensors

MOST_BYTES = 2**26  # of a file; the largest that are met have some hundred vectors
_STORE = "string_to_param."  # before the token, in files of the field's interfaces
_PLAIN = "emb_params"


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """One word's vectors."""

    name: str  # by which a prompt calls it
    vectors: Tensor  # (V,E) float32 on the CPU
    digest: str  # SHA-256 of the file
    step: int | None = None  # of its training
    checkpoint: str | None = None  # it was trained on, by the name its trainer gave that
    checkpoint_hash: str | None = None


def read_embedding(path: Path) -> Embedding:
    """Read an embedding: of the field's interfaces, of diffusers (`<token>`), or a file with one tensor.

    Args:
        path: a safetensors file or a pickle, which is read without being executed.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsafeFileError: a pickle that asks for something to be executed.
        UnknownModelError: it is something else, or made for another family; what, is said.
        WeightsError: it is broken.
    """
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise UnknownModelError(f"{path} has {path.stat().st_size:,} bytes, too many for an embedding")
    tensors, facts = read_tensors(path)
    return embedding_of(path.stem, path, tensors, facts, file_sha256(path))


def embedding_of(
    name: str, path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object], digest: str
) -> Embedding:
    """Understand the tensors of an embedding.

    Args:
        name: what it is called.
        path: where it comes from, for messages.
        tensors: by the names in the file.
        facts: plain values beside them.
        digest: of the file.

    Raises:
        UnknownModelError: it is something else, or made for another family.
        WeightsError: numbers that are none.
    """
    vectors = vectors_of(path, tensors)
    step = str(facts.get("step", ""))
    return Embedding(
        name=name,
        vectors=vectors,
        digest=digest,
        step=int(step) if step.isdecimal() else None,
        checkpoint=_text(facts.get("sd_checkpoint_name")),
        checkpoint_hash=_text(facts.get("sd_checkpoint")),
    )


def vectors_of(path: Path, tensors: Mapping[str, Tensor]) -> Tensor:
    """Find a word's vectors among tensors: (V,E) float32. Raises UnknownModelError, WeightsError."""
    if "clip_g" in tensors:
        raise UnknownModelError(f"{path} is an embedding for SDXL; choose one made for SD 1.x or 2.x")
    stored = [name for name in tensors if name.startswith(_STORE)]
    chosen = stored or [name for name in tensors if name == _PLAIN] or list(tensors)
    if len(chosen) != 1:
        raise UnknownModelError(f"{path} holds {len(chosen)} tensors that could be an embedding, not one")
    vectors = tensors[chosen[0]].detach().to(torch.float32)
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or not vectors.numel():
        raise UnknownModelError(f"{path} holds a tensor of {list(vectors.shape)}, which is no embedding")
    if not bool(vectors.isfinite().all()):
        raise WeightsError(f"{path} holds vectors that are not finite; get the file again")
    return vectors


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value not in ("", "None") else None
