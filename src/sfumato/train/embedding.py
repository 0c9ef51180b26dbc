"""A word whose vectors are learnt (Gal et al. 2022, arXiv:2208.01618), while every network stays.

Shape letters: V vectors of the word, E width of the text encoder.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.errors import TrainingError
from sfumato.text.tokenizer import Tokenizer
from sfumato.train.config import TrainConfig
from sfumato.train.method import Trainee, Weights
from sfumato.weights.files import write_safetensors
from sfumato.weights.load import Checkpoint

_OBJECT = (  # as CLIP was asked about pictures (Radford et al. 2021)
    *(
        "a photo of {}",
        "a picture of {}",
        "a close-up photo of {}",
        "a bright photo of {}",
        "a good photo of {}",
    ),
    *("a rendering of {}", "a depiction of {}", "a photo of one {}", "a photo of the {}", "an image of {}"),
)
_STYLE = (
    *("a painting in the style of {}", "a picture in the style of {}", "a rendering in the style of {}"),
    *("a drawing in the style of {}", "an image in the style of {}", "the style of {}"),
)


def embedding(config: TrainConfig, checkpoint: Checkpoint) -> Trainee:
    """Coin a word, named as the file will be."""
    word = config.file_name
    table = checkpoint.text.text_model.embeddings.token_embedding.weight  # (·,E)
    first = first_vectors(table, config.embedding.init, config.embedding.vectors, config.seed)
    vectors = nn.Parameter(first.to(table))
    name = "text.vectors"

    def export(path: Path, weights: Weights, metadata: Mapping[str, str]) -> None:
        said = {
            "step": metadata["ss_steps"],
            "sd_checkpoint_name": metadata["ss_sd_model_name"],
            "sd_checkpoint": metadata["ss_new_sd_model_hash"],
        }
        write_safetensors(path, {word: weights[name]}, {"format": "pt", **said, **metadata})

    return Trainee(parameters={name: vectors}, export=export, words={word: vectors})


def first_vectors(table: Tensor, init: str, count: int, seed: int) -> Tensor:
    """Choose where a word's vectors start: (V,E) float32.

    Args:
        table: of all tokens' vectors (·,E).
        init: words whose vectors are taken, over and over where there are fewer; "" = small random ones.
        count: V.
        seed: of the random ones.
    """
    ids = Tokenizer.load().encode(init)
    wide = table.detach().float()
    if not ids:
        noise = torch.randn(count, wide.shape[1], generator=torch.Generator().manual_seed(seed))
        return noise * wide.std().cpu()
    return wide[[ids[place % len(ids)] for place in range(count)]].clone()


def worded(caption: str, word: str, use: str, rng: np.random.Generator) -> str:
    """Put the word into a caption that lacks it.

    Args:
        caption: of the picture; "" = it has none.
        word: what is learnt.
        use: as in `EmbeddingConfig`.
        rng: chooses a form of words.

    Raises:
        TrainingError: there is a caption and it should have the word.
    """
    if word.casefold() in caption.casefold() or (use == "caption" and not caption):
        return caption
    if use == "caption":
        raise TrainingError(
            f"the caption {caption[:40]!r} lacks the word {word!r}; write it there, or choose embedding.use "
            "'object' or 'style'"
        )
    if use == "style":
        return f"{caption}, in the style of {word}" if caption else str(rng.choice(_STYLE)).format(word)
    said = str(rng.choice(_OBJECT)).format(word)
    return f"{said}, {caption}" if caption else said
