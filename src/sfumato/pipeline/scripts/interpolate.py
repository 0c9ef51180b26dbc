"""From one prompt or seed to another in small steps: a sequence of frames.

Noise goes along the great circle between both seeds (the variation of a request), the prompts' contexts along
the straight line or, token by token, along the great circle. First and last frame are exactly the pictures of
the two ends.

Shape letters: K chunks of the longest text, T = 77 tokens of a chunk, E encoder width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.diffusion.guidance import Contexts, Part
from sfumato.errors import RequestError
from sfumato.pipeline.adapters import Worn
from sfumato.pipeline.conditioning import PromptReader, Script
from sfumato.pipeline.models import Models
from sfumato.pipeline.scripts import fields
from sfumato.pipeline.scripts.work import Make, settled, with_parameters
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import ModelChoice, Prompt, Request, Result, StepInfo

MAX_FRAME_PIXELS = 500_000_000  # of all frames


@dataclass(frozen=True, kw_only=True)
class Way:
    """Where to go, and in how many frames. What is None stays as the request says."""

    frames: int = 16
    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    spherical: bool = False  # for contexts: along the great circle, so that they keep their length

    def __post_init__(self) -> None:
        if not 2 <= self.frames <= 10_000:
            raise RequestError(f"frames={self.frames} is outside 2 to 10000")
        if self.prompt is None and self.negative is None and self.seed is None:
            raise RequestError("nowhere to go: give another prompt, negative prompt or seed")

    def check(self, size: tuple[int, int]) -> None:
        """Refuse more frames of this width and height than can be held at once. Raises RequestError."""
        most = MAX_FRAME_PIXELS // (size[0] * size[1])
        if self.frames > most:
            raise RequestError(
                f"{self.frames:,} frames of {size[0]}×{size[1]} are more than are held at once: {most:,}"
            )


def run(
    way: Way,
    request: Request,
    make_with: Callable[[ModelShelf], Make],
    shelf: ModelShelf,
    first: int = 0,
) -> Iterator[StepInfo | Result]:
    """Make the frames.

    Args:
        way: where to go.
        request: the start; one picture.
        make_with: gives what makes the pictures of a request with the models of a shelf.
        shelf: where the models come from.
        first: the frame to begin with; 0 = the start.

    Yields:
        The events of every frame, the results numbered in order.

    Raises:
        RequestError: several pictures, or a variation beside the way to another seed.
    """
    canvas = request.canvas
    if canvas.batch_size * canvas.batch_count != 1:
        raise RequestError("a way has one picture a frame; leave batch size and count at 1")
    if way.seed is not None and request.variation.strength > 0:
        raise RequestError("a variation has no place on the way to another seed; leave its strength at 0")
    start = fields.with_values(request, {"canvas.seed": settled(canvas.seed)})
    end = Prompt(
        text=request.prompt.text if way.prompt is None else way.prompt,
        negative=request.prompt.negative if way.negative is None else way.negative,
        clip_skip=request.prompt.clip_skip,
        emphasis=request.prompt.emphasis,
    )
    seed = None if way.seed is None else settled(way.seed)
    for frame in range(first, way.frames):
        share = frame / (way.frames - 1)
        asked = start
        if seed is not None and frame:
            asked = fields.with_values(start, {"variation.seed": seed, "variation.strength": share})
        told = _told(request.prompt, end, share, way.spherical)
        for event in make_with(BlendingShelf(shelf, end, share, spherical=way.spherical))(asked):
            if isinstance(event, Result):
                event = replace(event, index=frame, infotext=with_parameters(event.infotext, told))
            yield event


def there_and_back(frames: Sequence[Result]) -> list[Result]:
    """The frames and, backwards, those between last and first, so that the end meets the start."""
    return [*frames, *frames[-2:0:-1]]


class BlendingShelf(ModelShelf):
    """A shelf whose models read every prompt as something between it and another."""

    def __init__(self, shelf: ModelShelf, end: Prompt, share: float, *, spherical: bool = False) -> None:
        """Blend what the models of `shelf` read with `end`, whose share is 0 to 1; see `blend`."""
        self.folder, self.device, self.dtype = shelf.folder, shelf.device, shelf.dtype
        self.adapters = shelf.adapters
        self._shelf, self._end, self._share, self._spherical = shelf, end, share, spherical

    def load(self, choice: ModelChoice) -> Models:
        """As the shelf does."""
        models = self._shelf.load(choice)
        return replace(models, reader=BlendingReader(models.reader, self._end, self._share, self._spherical))


class BlendingReader(PromptReader):
    """Reads two prompts as one between them."""

    def __init__(self, reader: PromptReader, end: Prompt, share: float, spherical: bool = False) -> None:
        """Blend with `end`, whose share is 0 to 1; see `blend`."""
        super().__init__(reader.encoder, reader.tokenizer, reader.pad_token)
        self._reader, self._end, self._share, self._spherical = reader, end, share, spherical

    def read(
        self,
        prompt: Prompt,
        calls: int,
        guidance: float,
        *,
        calls_before: int = 0,
        worn: Worn | None = None,
    ) -> Script:
        """Read both, wearing what the first asks for; see `PromptReader.read`."""
        first, last = (
            self._reader.read(each, calls, guidance, calls_before=calls_before, worn=worn)
            for each in (prompt, self._end)
        )
        if self._share in (0, 1) or prompt == self._end:
            return last if self._share == 1 else first
        nothing = self._reader.read(Prompt(clip_skip=prompt.clip_skip), calls, 1.0, worn=worn)
        empty = _at(nothing, 0).positive[0].context  # (1,T,E)
        prompts = max(first.prompts, last.prompts)
        return Script(
            contexts=lambda call: blend(
                _at(first, call), _at(last, call), self._share, empty, spherical=self._spherical
            ),
            prompts=prompts,
            worn=first.worn,
        )


def blend(
    first: Contexts, last: Contexts, share: float, empty: Tensor, *, spherical: bool = False
) -> Contexts:
    """What the network is told between two prompts.

    Args:
        first: the one.
        last: the other. Parts (joined by AND) that only one of them has fade with their weight.
        share: of the other, 0 to 1.
        empty: the context of an empty text (1,T,E), which fills the shorter of two contexts up.
        spherical: go along the great circle between each token's vectors, not along the straight line.
    """
    between = _slerp if spherical else torch.lerp
    parts = []
    for place in range(max(len(first.positive), len(last.positive))):
        a, b = (each.positive[place] if place < len(each.positive) else None for each in (first, last))
        one, other = a or _weightless(b), b or _weightless(a)
        parts.append(
            Part(
                context=between(*_filled(one.context, other.context, empty), share),
                weight=(1 - share) * one.weight + share * other.weight,
            )
        )
    negatives = [each for each in (first.negative, last.negative) if each is not None]
    negative = between(*_filled(negatives[0], negatives[-1], empty), share) if negatives else None
    return Contexts(positive=tuple(parts), negative=negative)


def _weightless(part: Part | None) -> Part:
    """The part, counting for nothing."""
    assert part is not None
    return Part(context=part.context, weight=0.0)


def _filled(a: Tensor, b: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
    """Two contexts (1,K·T,E), both of the longer one's length."""
    longest = max(a.shape[1], b.shape[1])
    a, b = (
        torch.cat([each, empty.repeat(1, (longest - each.shape[1]) // empty.shape[1], 1)], 1)
        for each in (a, b)
    )
    return a, b


def _slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between the vectors (…,E) of two contexts on the sphere; where they point the same way, on the line.

    Source: Shoemake 1985, "Animating rotation with quaternion curves", section 3.3. The arithmetic is in
    float32 at least.
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    low, high = a.to(wide), b.to(wide)
    angle = torch.cosine_similarity(low, high, dim=-1).clamp(-1, 1).acos()[..., None]  # (…,1)
    whole = angle.sin()
    straight = whole < 1e-4
    whole = whole.masked_fill(straight, 1)
    first = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / whole)
    second = torch.where(straight, share, (share * angle).sin() / whole)
    return (first * low + second * high).to(a.dtype)


def _at(script: Script, call: int) -> Contexts:
    return script.contexts if isinstance(script.contexts, Contexts) else script.contexts(call)


def _told(start: Prompt, end: Prompt, share: float, spherical: bool) -> Iterator[tuple[str, object]]:
    """Parameters of a frame that its request does not hold."""
    if share > 0 and start != end:
        yield "Blend prompt", end.text
        yield "Blend negative prompt", end.negative or None
        yield "Blend share", f"{share:.6g}"
        yield "Blend curve", "spherical" if spherical else None
