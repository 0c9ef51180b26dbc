"""Classifier-free guidance: away from what every picture has, towards what the prompt says.

Shape letters: B pictures, C latent channels, H W latent size, T tokens (77 per chunk), E embedding width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ContextDenoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x (B,C,H,W), sigma (B,), context (B,T,E) -> clean latents (B,C,H,W)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One of the prompts joined by AND."""

    context: Tensor  # (B,T,E), or (1,T,E) for all pictures
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Contexts:
    """What the network is told in one call."""

    positive: tuple[Part, ...]  # at least one
    negative: Tensor | None  # (B,T,E) or (1,T,E); T may differ; None only where `needs_negative` says so

    def __post_init__(self) -> None:
        assert self.positive, "a prompt has at least one part"


ContextsAt = Callable[[int], Contexts]
"""Number of the denoiser call, from 0 -> what the network is told in it."""


def needs_negative(scale: float, weights: Sequence[float] = (1.0,)) -> bool:
    """Tell whether guidance calls the network with the negative prompt at all.

    Source: own; where scale = 1 and the weights sum to 1 the negative prompt cancels.

    Args:
        scale: guidance s.
        weights: of the positive parts.
    """
    return scale != 1 or sum(weights) != 1


def guide(
    denoise: ContextDenoiser,
    contexts: Contexts | ContextsAt,
    scale: float,
    rescale: float = 0.0,
    *,
    negative_min_sigma: float = 0.0,
    skip_early: int = 0,
    keep_uncond: bool = False,
) -> "Guided":
    """Give the denoiser uncond + s · sum_i w_i (cond_i - uncond), for one sampling run.

    All prompts go through the network in one batch; those of another length T are run apart. Parts joined by
    AND are first brought to one length by repeating the last vector. At s = 1 (and weights that sum to 1) the
    network sees the positive parts only, at s = 0 only the negative prompt.

    Prompts that change on the way (prompt editing, alternation): pass a function instead of `Contexts`. It is
    asked at each call of the denoiser with the number of calls made before, 0 for the first. Samplers know
    nothing of it. A sampler calls the denoiser `SamplerSpec.calls_per_step` times a step (the last step may
    need fewer), so a timeline is laid out over steps · calls_per_step calls. As the denoiser counts, make a
    new one for each run.

    Source: Ho & Salimans 2022 (arXiv:2207.12598); parts: Liu et al. 2022 (arXiv:2206.01714), equation 12;
    rescale: Lin et al. 2023 (arXiv:2305.08891), equations 15 and 16, taken on the velocity whatever the
    network predicts; calls without the negative prompt: the field's.

    Args:
        denoise: a denoiser that is told a context.
        contexts: what it is told: the same for all calls, or a function of the call's number.
        scale: guidance s, >= 0; 1 = none.
        rescale: phi in [0, 1]: how far the prediction's spread is brought back to the one without guidance.
        negative_min_sigma: below this sigma every second call leaves the negative prompt out. Reads sigma
            back from its device.
        skip_early: so many first calls leave it out, see `early_calls`.
        keep_uncond: run the negative prompt where s = 1 does not need it, for samplers that do
            (`SamplerSpec.uses_uncond`).
    """
    return Guided(
        denoise,
        (lambda call: contexts) if isinstance(contexts, Contexts) else contexts,
        scale,
        rescale,
        negative_min_sigma,
        skip_early,
        keep_uncond,
    )


def early_calls(share: float, calls: int) -> int:
    """Count the first calls that leave the negative prompt out: those with number / calls <= share.

    Source: own; the rule of the field's interfaces.

    Args:
        share: in [0, 1]; 0 = none.
        calls: of the whole run, steps · `SamplerSpec.calls_per_step`.
    """
    return sum(number <= share * calls for number in range(calls)) if share > 0 else 0


class Guided:
    """What `guide` gives: a denoiser that counts its calls and keeps the negative prompt's last estimate."""

    def __init__(
        self,
        denoise: ContextDenoiser,
        contexts: ContextsAt,
        scale: float,
        rescale: float,
        negative_min_sigma: float,
        skip_early: int,
        keep_uncond: bool,
    ) -> None:
        """See `guide`."""
        self.denoise, self.contexts, self.scale, self.rescale = denoise, contexts, scale, rescale
        self.negative_min_sigma, self.skip_early = negative_min_sigma, skip_early
        self.keep_uncond = keep_uncond
        self.calls = 0
        self.uncond: Tensor | None = None  # (B,C,H,W) of the last call; without a negative prompt the answer

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Give the guided estimate (B,C,H,W) of the clean latents."""
        told = self.contexts(self.calls)
        skipped = self._is_skipped(sigma)
        self.calls += 1
        weights = [part.weight for part in told.positive]
        positive = _same_length([part.context for part in told.positive])
        if skipped:
            first, *others = _run(self.denoise, x, sigma, positive)
            self.uncond = first  # stands in for it, so that a single part's weight does not count
            return first + sum(w * (each - first) for w, each in zip(weights[1:], others, strict=True))
        if not (self.keep_uncond or needs_negative(self.scale, weights)):
            self.uncond = _weighted_sum(_run(self.denoise, x, sigma, positive), weights)
            return self.uncond
        assert told.negative is not None, f"guidance {self.scale} without a negative prompt"
        if self.scale == 0:
            self.uncond = _run(self.denoise, x, sigma, [told.negative])[0]
            return self.uncond
        self.uncond, *conds = _run(self.denoise, x, sigma, [told.negative, *positive])
        direction = _weighted_sum([cond - self.uncond for cond in conds], weights)
        guided = self.uncond + self.scale * direction
        if self.rescale == 0:
            return guided
        return _rescaled(x, sigma, guided, self.uncond + direction, self.rescale)

    def _is_skipped(self, sigma: Tensor) -> bool:
        if self.calls < self.skip_early:
            return True
        return (
            self.calls % 2 == 1 and self.negative_min_sigma > 0 and float(sigma[0]) < self.negative_min_sigma
        )


def guide_edit(
    denoise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    contexts: Contexts | ContextsAt,
    image: Tensor,
    scale: float,
    image_scale: float,
) -> "GuidedEdit":
    """Give the denoiser uncond + s_i · (img - uncond) + s · sum_i w_i (cond_i - img), for one sampling run.

    `cond` is told the instruction and shown the picture, `img` is told the negative prompt and shown the
    picture, `uncond` is told the negative prompt and shown nothing. All that the sum needs go through the
    network in one batch: without `uncond` at s_i = 1, without `img` at s = s_i.

    Source: Brooks et al. 2023, InstructPix2Pix (arXiv:2211.09800), equation 3; parts as in `guide`.

    Args:
        denoise: x (B,C,H,W), sigma (B,), context (B,T,E), image (B,C',H,W) -> clean latents (B,C,H,W).
        contexts: as in `guide`.
        image: latents of the picture that is edited, (1,C',H,W) or (B,C',H,W).
        scale: guidance s by the instruction, >= 0.
        image_scale: guidance s_i by the picture, >= 0.
    """
    at = (lambda call: contexts) if isinstance(contexts, Contexts) else contexts
    return GuidedEdit(denoise, at, image, scale, image_scale)


class GuidedEdit:
    """What `guide_edit` gives: a denoiser that counts its calls and keeps what the negative prompt gave."""

    def __init__(
        self,
        denoise: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
        contexts: ContextsAt,
        image: Tensor,
        scale: float,
        image_scale: float,
    ) -> None:
        """See `guide_edit`."""
        self.denoise, self.contexts, self.image = denoise, contexts, image
        self.scale, self.image_scale = scale, image_scale
        self.calls = 0
        self.uncond: Tensor | None = None  # (B,C,H,W) of the last call; without such a row the answer

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Give the guided estimate (B,C,H,W) of the clean latents."""
        told = self.contexts(self.calls)
        self.calls += 1
        weights = [self.scale * part.weight for part in told.positive]
        positive = _same_length([part.context for part in told.positive])
        shown = (self.image, self.image.new_zeros(1).expand_as(self.image))
        rows = [(weight, context, shown[0]) for weight, context in zip(weights, positive, strict=True)]
        without = (self.image_scale - sum(weights), 1 - self.image_scale)  # instruction: img, uncond
        for weight, image in zip(without, shown, strict=True):
            assert weight == 0 or told.negative is not None, "guidance without a negative prompt"
            rows += [] if told.negative is None else [(weight, told.negative, image)]
        rows = [row for row in rows if row[0] != 0]
        counted, contexts, images = (list(column) for column in zip(*rows, strict=True))
        answers = _run(self.denoise, x, sigma, contexts, images)
        guided = _weighted_sum(answers, counted)
        self.uncond = answers[-1] if any(without) else guided
        return guided


def _run(denoise: Callable[..., Tensor], x: Tensor, sigma: Tensor, *told: Sequence[Tensor]) -> list[Tensor]:
    """Denoise x under each context and what else is told with it, contexts of equal length in one batch."""
    clean: dict[int, Tensor] = {}
    contexts = told[0]
    for length in dict.fromkeys(context.shape[1] for context in contexts):
        rows = [row for row, context in enumerate(contexts) if context.shape[1] == length]
        columns = [
            torch.cat([each[row].expand(len(x), *each[row].shape[1:]) for row in rows]) for each in told
        ]  # (rows B,…)
        batch = denoise(x.repeat(len(rows), 1, 1, 1), sigma.repeat(len(rows)), *columns)  # (rows B,C,H,W)
        clean |= zip(rows, batch.chunk(len(rows)), strict=True)
    return [clean[row] for row in range(len(contexts))]


def _same_length(contexts: Sequence[Tensor]) -> list[Tensor]:
    longest = max(context.shape[1] for context in contexts)
    return [
        torch.cat([context, context[:, -1:].expand(-1, longest - context.shape[1], -1)], 1)
        if context.shape[1] < longest
        else context
        for context in contexts
    ]


def _weighted_sum(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = weights[0] * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = total + weight * term
    return total


def _rescaled(x: Tensor, sigma: Tensor, guided: Tensor, plain: Tensor, phi: float) -> Tensor:
    # The velocity is proportional to x / (sigma^2 + 1) - clean; the factor cancels in the ratio of spreads.
    still = x / (sigma.view(-1, 1, 1, 1).square() + 1)

    def spread(clean: Tensor) -> Tensor:
        return (clean - still).std(dim=(1, 2, 3), keepdim=True)  # (B,1,1,1)

    ratio = spread(plain) / spread(guided).clamp(min=1e-12)
    return still + (guided - still) * (phi * ratio + 1 - phi)
