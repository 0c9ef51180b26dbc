"""Walks between pictures of the gallery: what a job for the script "walk" is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sfumato.app.codec import Inputs, decode
from sfumato.app.gallery import Gallery
from sfumato.app.gallery_table import Picture
from sfumato.app.jobs import Script
from sfumato.errors import RequestError
from sfumato.pipeline.scripts.walk import MOST_STOPS, Stop
from sfumato.types import Request


def between_prompts(request: Request, prompts: Sequence[str], **how: Any) -> tuple[Request, Script]:
    """A walk from prompt to prompt; the noise stays the same.

    Args:
        request: all else.
        prompts: 2 to 4.
        how: fields of `pipeline.scripts.walk.Walk` but its stops; `cells`, to keep every frame.

    Returns:
        What to submit.
    """
    return _one(request), _script([Stop(prompt=each) for each in prompts], how)


def between_pictures(
    gallery: Gallery, inputs: Inputs, picture_ids: Sequence[str], *, owner: str | None = None, **how: Any
) -> tuple[Request, Script]:
    """A walk from picture to picture; sampler, steps and all else are as for the first.

    Args:
        gallery: where they are.
        inputs: where the pictures of requests are.
        picture_ids: 2 to 4.
        owner: whose they have to be; None = anybody's.
        how: as for `between_prompts`.

    Returns:
        What to submit.

    Raises:
        PictureNotFoundError: no such picture, or another owner's.
        RequestError: one that does not say how it was made, or was made from another picture; pictures of
            different sizes or models.
    """
    if not 2 <= len(picture_ids) <= MOST_STOPS:
        raise RequestError(f"a walk between {len(picture_ids)} pictures; choose 2 to {MOST_STOPS}")
    pictures = [gallery.get(each, owner) for each in picture_ids]
    requests = [_request(each, inputs) for each in pictures]
    for what, values in (
        ("sizes", [f"{each.width}×{each.height}" for each in pictures]),
        ("models", [each.model or "unknown" for each in pictures]),
    ):
        if len(set(values)) > 1:
            listed = ", ".join(dict.fromkeys(values))
            raise RequestError(f"the pictures have different {what}: {listed}; choose pictures of one")
    stops = [
        Stop(prompt=each.prompt.text, negative=each.prompt.negative, seed=each.canvas.seed)
        for each in requests
    ]
    return _one(requests[0]), _script(stops, how)


def _request(picture: Picture, inputs: Inputs) -> Request:
    name = picture.file.rpartition("/")[2]
    if picture.request is None or picture.seed is None:
        raise RequestError(f"{name} does not say how it was made; choose pictures that do")
    request = decode(picture.request, inputs.path)
    if request.source.image is not None:
        raise RequestError(f"{name} was made from another picture; choose pictures made from prompts alone")
    if request.variation.strength > 0:
        raise RequestError(f"{name} is a variation between two seeds already; choose another")
    return replace(request, canvas=replace(request.canvas, seed=picture.seed))


def _one(request: Request) -> Request:
    return replace(request, canvas=replace(request.canvas, batch_size=1, batch_count=1))


def _script(stops: Sequence[Stop], how: dict[str, Any]) -> Script:
    rows = [{"prompt": each.prompt, "negative": each.negative, "seed": each.seed} for each in stops]
    return Script(name="walk", arguments={"stops": rows, **how})
