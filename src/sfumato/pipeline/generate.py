"""One request becomes pictures.

    plan ─ fits? ─ open the source ─┬─ noise ─ guide ─ sample ─┬─ decode ─ finish ─┐
                                    │        second pass ◀─────┤                   │
                                    │      enlarge ─ sample ───┘                   │
                                    └──────────────── next batch ◀─────────────────┘

Shape letters: B pictures of a batch, C latent channels, H W latent size (pixels / 8).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from sfumato.diffusion.denoisers import Watched
from sfumato.diffusion.noise import noise_sampler
from sfumato.pipeline import images, memory, metadata
from sfumato.pipeline.enlarge import enlarge
from sfumato.pipeline.latents import decode
from sfumato.pipeline.networks import Shown, guided, shown
from sfumato.pipeline.opening import Opening, open_source
from sfumato.pipeline.outpaint import outpaint
from sfumato.pipeline.plan import Pass, Plan, make_plan
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Request, Result, StepInfo

_REMEDY = "choose a smaller size or batch, or close other programs"
Making: TypeAlias = "Generator[StepInfo | Result, bool | None, None]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Walked:
    """Latents at the end of a pass, or as far as they had come."""

    latents: Tensor  # (B,C,H,W)
    enough: bool = False  # it was said that this is enough
    cut: str = ""  # the last step of how many; "" = the way was walked to its end


@torch.no_grad()
def generate(request: Request, shelf: ModelShelf, *, first_batch: int = 1) -> Making:
    """Make the pictures of a request.

    Args:
        request: what to make.
        shelf: where the checkpoints come from.
        first_batch: the batch to begin with, from 1; those before it have been made already.

    Yields:
        A StepInfo after each step of a batch, then a Result for each of its pictures. Stop iterating to
        cancel: nothing is computed that nobody waits for. Send True in answer to a StepInfo to have the
        batch's pictures as far as they have come, and no more: see `until_enough`.

    Raises:
        RequestError, PromptError: before the first step; the request makes no sense for this checkpoint.
        OutputError: before the first step; a picture it names cannot be read.
        OutOfMemoryError: before the first step: it will not fit; later: memory ran out all the same. Carries
            the numbers.
        ModelNotFoundError, WeightsError: a checkpoint is missing, broken, or computes no numbers.
    """
    if request.outpaint.wanted and request.source.image is not None:
        yield from outpaint(request, shelf, lambda part: generate(part, shelf))
        return
    plan = prepare(request, shelf)
    canvas = plan.request.canvas
    what = f"{canvas.width}×{canvas.height}, {canvas.batch_size} at once"
    with memory.told(plan.passes[0].models.device, what, _REMEDY):
        yield from _batches(plan, first_batch)


def until_enough(making: Making, enough: Callable[[], bool]) -> Iterator[StepInfo | Result]:
    """Hand on what `generate` yields; once `enough` says so, the pictures come as far as they are made."""
    answer: bool | None = None
    with suppress(StopIteration):
        while True:
            yield making.send(answer)
            answer = enough()


def _batches(plan: Plan, first_batch: int) -> Making:
    opening = open_source(plan)
    batches = plan.batches()
    first, *later = plan.passes
    beside = [shown(each, opening) for each in plan.passes]
    for number, seeds in list(enumerate(batches, 1))[first_batch - 1 :]:
        began = time.perf_counter()
        place = (number, len(batches), len(plan.passes))
        walked = yield from walk(first, seeds, opening, beside[0], place)
        for second in later:
            if walked.enough:
                walked = replace(walked, cut=walked.cut or "first pass")
                break
            assert plan.target is not None
            wraps = plan.request.canvas.tiling
            clean = enlarge(walked.latents, first.models.vae, plan.target, second.models.vae, wraps=wraps)
            enlarged = Opening(clean=clean, source=plan.request.source)
            walked = yield from walk(second, seeds, enlarged, beside[1], place)
        for offset, each in enumerate(walked.latents):
            index = (number - 1) * len(batches[0]) + offset
            extra = (("Interrupted", walked.cut),) if walked.cut else ()
            result = finish(plan, index, each, replace(opening, extra=(*opening.extra, *extra)), began)
            waiting = time.perf_counter()
            yield result
            began += time.perf_counter() - waiting  # what the caller does with it does not count
        if walked.enough:
            return


def prepare(request: Request, shelf: ModelShelf) -> Plan:
    """Do all that can be refused, and no step: settle the request, read its prompts, see that it fits.

    Raises RequestError, PromptError, OutputError, OutOfMemoryError …: see `generate`.
    """
    plan = make_plan(request, shelf)
    size = plan.request.canvas.batch_size
    for each in plan.passes:
        models, canvas = each.models, each.request.canvas
        memory.require(
            memory.activation_bytes(
                models.spec.unet,
                models.spec.vae,
                each.shape,
                rows=size * each.rows,
                pictures=1,
                dtype=models.dtype,
            ),
            memory.available_bytes(models.device),
            f"{canvas.width}×{canvas.height}, {size} at once",
            _REMEDY,
        )
    return plan


def walk(
    walked: Pass,
    seeds: Sequence[tuple[int, int]],
    opening: Opening,
    beside: Shown,
    place: tuple[int, int, int],
) -> Generator[StepInfo, bool | None, Walked]:
    """Sample the latents of one batch in one pass, or as far as the caller wants them.

    Args:
        walked: the pass.
        seeds: of the batch's pictures: their own, and those of their variations.
        opening: what the pictures start from.
        beside: what the networks see beside the latents.
        place: number of the batch, number of batches, number of passes.
    """
    request, sampler, models = walked.request, walked.sampler, walked.models
    noise = walked.noise(seeds)
    start = noise.draw().to(models.device)
    if not walked.steps:
        clean = opening.latents(start)
        assert clean is not None, "nothing to start from and no step to take"
        return Walked(latents=opening.settle(clean))
    denoiser = guided(walked, beside)
    denoise = Watched(opening.guard(denoiser, start, before=sampler.blends_before), denoiser)
    x = opening.start(sampler, start, walked.sigmas)
    draws = noise_sampler(sampler.noise, noise)
    batch, batches, passes = place
    enough: bool | None = False
    for step, latents in enumerate(sampler.sample(denoise, x, walked.sigmas, draws, request.solver), 1):  # noqa: B007  # the last are handed on
        assert denoise.clean is not None
        steps = max(walked.steps, step)  # an estimate for samplers that choose them
        enough = yield StepInfo(
            step=step,
            steps=steps,
            batch=batch,
            batches=batches,
            pass_=walked.number,
            passes=passes,
            latents=denoise.clean,
        )
        if enough and (step < steps or sampler.estimated):
            return Walked(latents=opening.settle(denoise.clean), enough=True, cut=f"{step}/{steps}")
    return Walked(latents=opening.settle(latents), enough=bool(enough))


def finish(plan: Plan, index: int, latents: Tensor, opening: Opening, began: float) -> Result:
    """Make picture `index` (from 0) of the request from its latents (C,H,W)."""
    request, models = plan.picture(index), plan.passes[0].models
    vae = plan.passes[-1].models.vae
    pixels = decode(latents[None], vae, wraps=request.canvas.tiling)[0]  # (8H,8W,3)
    image = opening.finish(images.to_image(pixels.numpy()), latents)
    return Result(
        image=image,
        request=request,
        infotext=metadata.write(
            request,
            model_hash=models.sha256,
            vae_hash=models.vae_sha256,
            extra=(*opening.extra, *plan.networks, *models.circumstances),
        ),
        index=index,
        seconds=time.perf_counter() - began,
    )
