"""One request becomes pictures.

    settle ─ read the prompt ─ fits? ─┬─ noise ─ guide ─ sample ─ decode ─ finish ─┐
                                      └──────────────── next batch ◀───────────────┘

Shape letters: B pictures of a batch, C latent channels, H W latent size (pixels / 8).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from sfumato.diffusion.denoisers import Watched, parameterise
from sfumato.diffusion.guidance import guide
from sfumato.diffusion.noise import noise_sampler
from sfumato.errors import WeightsError
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline import images, memory, metadata
from sfumato.pipeline.conditioning import Script
from sfumato.pipeline.models import Models
from sfumato.pipeline.start import Plan, make_plan, start_latents
from sfumato.types import Request, Result, StepInfo


@torch.no_grad()
def generate(request: Request, models: Models) -> Iterator[StepInfo | Result]:
    """Make the pictures of a request.

    Args:
        request: what to make.
        models: loaded for this request's `model`.

    Yields:
        A StepInfo after each step of a batch, then a Result for each of its pictures. Stop iterating to
        cancel: nothing is computed that nobody waits for.

    Raises:
        RequestError, PromptError: before the first step; the request makes no sense for this checkpoint.
        OutOfMemoryError: before the first step; it will not fit. Carries the numbers.
        WeightsError: the networks produce values that are not numbers.
    """
    plan, script = prepare(request, models)  # 1 settle, 2 read the prompt, 3 refuse what cannot fit
    sampling, batches = plan.request.sampling, plan.batches()
    network = parameterise(models.predict, plan.levels.to(models.device), models.spec.prediction)
    for number, seeds in enumerate(batches, 1):
        began = time.perf_counter()
        start, noise = start_latents(plan, seeds, models.device)  # 4: (B,C,H,W)
        denoise = Watched(guide(network, script.contexts, sampling.guidance, sampling.guidance_rescale))  # 5
        draws = noise_sampler(plan.sampler.noise, noise)
        walk = plan.sampler.sample(denoise, start, plan.sigmas, draws, plan.request.solver.eta)  # 6
        for step, latents in enumerate(walk, 1):  # noqa: B007  # the last are decoded
            assert denoise.clean is not None
            yield StepInfo(
                step=step,
                steps=sampling.steps,
                batch=number,
                batches=len(batches),
                pass_=1,
                passes=1,
                latents=denoise.clean,
            )
        for place, each in enumerate(latents):
            pixels = decode(each[None], models.vae)[0]  # 7: (H,W,3)
            yield finish(plan, models, (number - 1) * len(batches[0]) + place, pixels, began)  # 8


def prepare(request: Request, models: Models) -> tuple[Plan, Script]:
    """Do all that can be refused, and no step: settle the request, read its prompt, see that it fits.

    Raises RequestError, PromptError, OutOfMemoryError: see `generate`.
    """
    plan = make_plan(request, models.spec, models.name, models.vae_name)
    script = models.reader.read(plan.request.prompt, plan.calls, plan.request.sampling.guidance)
    width, height, size = (getattr(plan.request.canvas, name) for name in ("width", "height", "batch_size"))
    memory.require(
        memory.activation_bytes(
            models.spec.unet,
            models.spec.vae,
            plan.shape,
            rows=size * script.prompts,
            pictures=1,
            dtype=models.dtype,
        ),
        memory.available_bytes(models.device),
        f"{width}×{height}, {size} at once",
        "choose a smaller size or batch, or close other programs",
    )
    return plan, script


def decode(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Turn finished latents into 8-bit pictures.

    The autoencoder works in its own dtype; where that gives values that are not finite (float16 overflows in
    published autoencoders), once more in float32. Brightness is truncated to 1/255, as the field does.

    Args:
        latents: (B,C,H,W) as sampled, of unit scale.
        vae: the autoencoder.

    Returns:
        (B,8H,8W,3) uint8 on the CPU.

    Raises:
        WeightsError: the latents are not finite, or the pictures are not even in float32.
    """
    if not latents.isfinite().all():
        raise WeightsError(
            "sampling ended in values that are not numbers; try --dtype float32, and if that does not help, "
            "the checkpoint is damaged"
        )
    weight = next(vae.parameters())
    scaled = latents / vae.config.scale_factor
    pictures = vae.decode(scaled.to(weight.dtype, memory_format=torch.channels_last))  # (B,3,8H,8W)
    if not pictures.isfinite().all() and weight.dtype != torch.float32:
        pictures = copy.deepcopy(vae).float().decode(scaled.float())
    if not pictures.isfinite().all():
        raise WeightsError("decoding ended in values that are not numbers: the autoencoder is damaged")
    unit = (pictures.float() + 1).div(2).clamp(0, 1)
    return unit.mul(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def finish(plan: Plan, models: Models, index: int, pixels: Tensor, began: float) -> Result:
    """Make picture `index` (from 0) of the request from its pixels (H,W,3) uint8."""
    request = plan.picture(index)
    return Result(
        image=images.to_image(pixels.numpy()),
        request=request,
        infotext=metadata.write(request, model_hash=models.sha256, vae_hash=models.vae_sha256),
        index=index,
        seconds=time.perf_counter() - began,
    )
