"""The `tokenizer/` folder that transformers and diffusers expect, made from the vocabulary in the package."""

import gzip
import json
from importlib import resources
from pathlib import Path

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_SIZE = 49408


def write_tokenizer(folder: Path, pad_token: int) -> None:
    """Write vocab.json, merges.txt and the two small settings files.

    Args:
        folder: an existing empty folder.
        pad_token: id that fills a prompt up.
    """
    packed = resources.files("sfumato").joinpath("assets", _FILE).read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : _SIZE - 2 * 256 - 2 + 1]
    words = [*_byte_signs(), *(f"{sign}</w>" for sign in _byte_signs())]
    words += [merge.replace(" ", "") for merge in merges] + [_START, _END]
    assert len(words) == _SIZE
    vocabulary = {word: number for number, word in enumerate(words)}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": words[pad_token],
    }
    special = {name: settings[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    contents = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2),
        "special_tokens_map.json": json.dumps(special, indent=2),
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")


def _byte_signs() -> list[str]:
    """Give the signs that stand for bytes: printable Latin-1 as itself, then the others from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = 256 - len(visible)
    return [chr(number) for number in visible] + [chr(0x100 + number) for number in range(hidden)]
