"""Dynamic prompts: {red|green} and __wildcards__ from a folder, drawn at random or every combination in turn.

The language is that of the library dynamicprompts. What is drawn follows from the picture's seed alone, so a
seed gives the same prompt again, in a batch and on its own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from dynamicprompts.generators import CombinatorialPromptGenerator, RandomPromptGenerator
from dynamicprompts.wildcards import WildcardManager
from pyparsing import ParseBaseException

from sfumato.errors import PromptError, RequestError
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.work import settled
from sfumato.types import MAX_SEED, Request

MAX_PROMPTS = 10_000  # of all combinations

_SEED_FIELDS = ("canvas.seed", "variation.seed")  # the one that counts up from picture to picture
_WILDCARD = re.compile(r"__([^\s_][^\s]*?)__")


def expand(request: Request, draw: str, folder: Path) -> list[Request]:
    """The requests that a request with dynamic prompts stands for.

    Args:
        request: its prompts are templates.
        draw: "random": each picture has its own prompts, drawn with its seed; "all": every combination of
            the alternatives in both prompts, each with the pictures the request asks for.
        folder: of wildcards, NAME.txt with one text a line for __NAME__; it need not exist.

    Returns:
        The request itself where nothing in it is dynamic.

    Raises:
        RequestError: another way to draw.
        PromptError: a template that cannot be read, a wildcard that is not there, too many combinations.
    """
    if draw not in ("random", "all"):
        raise RequestError(f"dynamic={draw!r} is not one of random, all")
    prompts = request.prompt.text, request.prompt.negative
    if draw == "all":
        texts, negatives = (_all(prompt, folder) for prompt in prompts)
        if len(texts) * len(negatives) > MAX_PROMPTS:
            raise PromptError(_too_many(f"{len(texts) * len(negatives):,}"))
        return [_with_prompts(request, text, negative) for text in texts for negative in negatives]
    seeds = _SEED_FIELDS if request.variation.strength > 0 else _SEED_FIELDS[:1]
    base = fields.with_values(request, {field: settled(fields.value(request, field)) for field in seeds})
    pictures = [_picture(base, k) for k in range(base.canvas.batch_size * base.canvas.batch_count)]
    drawn = [
        _with_prompts(each, *(_random(prompt, _seed(each), folder) for prompt in prompts))
        for each in pictures
    ]
    return [request] if all((each.prompt.text, each.prompt.negative) == prompts for each in drawn) else drawn


def _picture(request: Request, index: int) -> Request:
    """The request of picture `index` alone."""
    field = _SEED_FIELDS[request.variation.strength > 0]
    seed = (fields.value(request, field) + index) % (MAX_SEED + 1)
    return fields.with_values(request, {field: seed, "canvas.batch_size": 1, "canvas.batch_count": 1})


def _seed(picture: Request) -> int:
    return int(fields.value(picture, _SEED_FIELDS[picture.variation.strength > 0]))


def _with_prompts(request: Request, text: str, negative: str) -> Request:
    return fields.with_values(request, {"prompt.text": text, "prompt.negative": negative})


def _random(template: str, seed: int, folder: Path) -> str:
    generator = RandomPromptGenerator(WildcardManager(folder), seed=seed)
    return _sampled(template, folder, lambda: generator.generate(template, 1))[0]


def _all(template: str, folder: Path) -> list[str]:
    generator = CombinatorialPromptGenerator(WildcardManager(folder))
    texts = _sampled(template, folder, lambda: generator.generate(template, MAX_PROMPTS + 1))
    if len(texts) > MAX_PROMPTS:
        raise PromptError(_too_many(f"more than {MAX_PROMPTS:,}"))
    return texts


def _sampled(template: str, folder: Path, sample: Callable[[], list[str]]) -> list[str]:
    """What the library makes of a template, its failures as errors of ours; an empty one stays as it is."""
    if not template.strip():
        return [template]
    for name in _WILDCARD.findall(template):
        _require_wildcard(name, folder)
    try:
        texts = sample()
    except ParseBaseException as error:
        raise PromptError(
            f"dynamic prompt {template[:60]!r} cannot be read at character {error.loc + 1}; "
            "alternatives are written {red|green}, wildcards __name__"
        ) from error
    except RecursionError as error:
        raise PromptError(f"dynamic prompt {template[:60]!r} goes round in circles or too deep") from error
    except (KeyError, ValueError) as error:
        raise PromptError(
            f"dynamic prompt {template[:60]!r}: {str(error.args[0]) if error.args else error}"
        ) from error
    for text in texts:
        for name in _WILDCARD.findall(text):
            _require_wildcard(name, folder)
    return texts


def _require_wildcard(name: str, folder: Path) -> None:
    if ".." in name:
        raise PromptError(f"wildcard __{name[:60]}__ leaves its folder; name a file in {folder}")
    manager = WildcardManager(folder)
    if any(any(manager.match_collections(each)) for each in (name, f"**/{name}")):
        return
    known = sorted(manager.get_collection_names())
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known[:3]
    hint = f"; did you mean {' or '.join(f'__{each}__' for each in near)}?" if near else ""
    raise PromptError(f"there is no wildcard __{name[:60]}__ in {folder}{hint}")


def _too_many(number: str) -> str:
    return f"the prompts have {number} combinations, of at most {MAX_PROMPTS:,}; draw them at random instead"
