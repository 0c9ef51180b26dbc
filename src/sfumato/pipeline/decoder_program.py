"""Decodes pictures that strangers have sent, in a process that can do nothing else.

`python -m sfumato.pipeline.decoder_program MEMORY SECONDS` reads pictures from its standard input, each after
a line `WORD BYTES`, and writes a line of JSON for each, and the bytes that it announces. It ends with its
input. MEMORY bounds the process as a whole, SECONDS of computing each picture.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO

from sfumato.errors import OutputError
from sfumato.pipeline import images
from sfumato.pipeline.source import read_picture
from sfumato.weights import apart

Answer = tuple[dict[str, Any], bytes]


def _size(data: bytes) -> Answer:
    return {"size": images.size_of(data)}, b""


def _picture(data: bytes) -> Answer:
    image = read_picture(images.open_image(data))
    return {"size": image.size, "mode": image.mode}, image.tobytes()


def _texts(data: bytes) -> Answer:
    texts = json.dumps(dict(images.read_texts(data)), ensure_ascii=False)
    return {}, texts.encode("utf-8", "surrogatepass")


WORDS: Mapping[str, Callable[[bytes], Answer]] = MappingProxyType(
    {"size": _size, "picture": _picture, "texts": _texts}
)


def serve(questions: BinaryIO, answers: BinaryIO, seconds: int) -> None:
    """Answer one picture after another.

    Args:
        questions: where they come from.
        answers: where what was read goes.
        seconds: that each may be computed.
    """
    while line := questions.readline():
        word, size = line.split()
        data = questions.read(int(size))
        apart.allow(seconds)
        try:
            told, read = WORDS[word.decode("ascii")](data)
        except OutputError as error:
            told, read = {"error": str(error)[:500]}, b""
        except MemoryError:
            told, read = {"error": "the picture that was sent: reading it needs too much memory"}, b""
        answers.write(json.dumps({**told, "bytes": len(read)}).encode("ascii") + b"\n")
        answers.write(read)
        answers.flush()


if __name__ == "__main__":
    apart.limit(memory=int(sys.argv[1]), output=0)
    serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[2]))
