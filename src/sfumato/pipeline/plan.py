"""Before the first step: every open choice of a request settled, pass by pass.

Shape letters: B pictures of a batch, C latent channels, H W latent size (pixels / 8), N steps.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL.Image import Image
from torch import Tensor

from sfumato.diffusion.noise import ImageNoise, picture_seeds
from sfumato.diffusion.samplers import SamplerSpec, resolve, trajectory
from sfumato.diffusion.schedules import NoiseLevels
from sfumato.errors import RequestError
from sfumato.pipeline.conditioning import Script
from sfumato.pipeline.conditions import kind_of, require_pictures
from sfumato.pipeline.enlarge import Target, load_upscaler, second_size
from sfumato.pipeline.models import Models
from sfumato.pipeline.shelf import ModelShelf
from sfumato.pipeline.source import read_picture, source_size
from sfumato.types import Hires, Mask, ModelChoice, Outpaint, Refiner, Request, SoftInpainting, Source
from sfumato.weights.specs import ModelSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Relief:
    """A second checkpoint that takes over on the way."""

    models: Models
    script: Script  # read with its own text encoder
    at_sigma: float  # from this level on


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """One walk from noise to latents, with nothing left open."""

    number: int  # from 1
    request: Request  # of this pass: its prompts, sampler, steps, size and checkpoint
    models: Models
    script: Script
    sampler: SamplerSpec
    levels: NoiseLevels
    sigmas: Tensor  # (N+1,) float64 on the CPU, falling; a single level = nothing to do
    shape: tuple[int, int, int]  # (C,H,W) of one picture's latents
    relief: Relief | None

    @property
    def rows(self) -> int:
        """How often a picture goes through the network at each call."""
        networks = [(self.models, self.script)]
        networks += [] if self.relief is None else [(self.relief.models, self.relief.script)]
        return max(script.prompts + (kind_of(models.spec) == "edit") for models, script in networks)

    @property
    def scripts(self) -> tuple[Script, ...]:
        """The prompt, read for each of the checkpoints."""
        return (self.script, *([] if self.relief is None else [self.relief.script]))

    @property
    def steps(self) -> int:
        """Steps that will be taken."""
        return self.sampler.steps(self.sigmas)

    def noise(self, seeds: Sequence[tuple[int, int]]) -> ImageNoise:
        """The sequence of each picture's noise, at its first draw."""
        return ImageNoise(
            [seed for seed, _ in seeds],
            self.shape,
            self.request.canvas.noise_source,
            subseeds=[subseed for _, subseed in seeds],
            variation=self.request.variation,
            device=self.models.device,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A request with nothing left open."""

    request: Request  # names as in the tables, size and seeds set; still of all its pictures
    passes: tuple[Pass, ...]  # one, or two
    target: Target | None  # to which the second enlarges
    seeds: tuple[tuple[int, int], ...]  # of each picture: its own, and that of its variation
    source: Image | None

    def batches(self) -> list[tuple[tuple[int, int], ...]]:
        """The pictures' seeds, batch by batch."""
        size = self.request.canvas.batch_size
        return [self.seeds[k : k + size] for k in range(0, len(self.seeds), size)]

    @property
    def networks(self) -> tuple[tuple[str, str], ...]:
        """The adapters of all passes, as they stand in the pictures."""
        worn = [script.worn for each in self.passes for script in each.scripts]
        hashes = dict(pair for each in worn for pair in each.hashes)
        said = ", ".join(f"{name}: {digest}" for name, digest in hashes.items())
        on_the_fly = any(each.on_the_fly for each in worn)  # other last bits than merged
        unmatched = dict(pair for each in worn for pair in each.unmatched)
        hypernetworks = dict(pair for each in worn for pair in each.hypernetworks)
        words = dict.fromkeys(word for each in worn for word in each.words)
        rows = (
            ("Lora hashes", said),
            ("TI hashes", ", ".join(words)),
            ("Hypernet hashes", ", ".join(f"{name}: {digest}" for name, digest in hypernetworks.items())),
            ("Lora keys unmatched", ", ".join(f"{name}: {count}" for name, count in unmatched.items())),
            ("Lora method", "on the fly" if on_the_fly else ""),
        )
        return tuple(row for row in rows if row[1])

    def picture(self, index: int) -> Request:
        """The request that makes picture `index` (from 0) alone."""
        seed, subseed = self.seeds[index]
        request = self.request
        canvas = replace(request.canvas, seed=seed, batch_size=1, batch_count=1)
        varied = request.variation.strength > 0
        variation = replace(request.variation, seed=subseed) if varied else request.variation
        return replace(request, canvas=canvas, variation=variation)


def make_plan(request: Request, shelf: ModelShelf) -> Plan:
    """Settle names, sizes, seeds and noise levels, load the checkpoints and read the prompts.

    Raises:
        RequestError: unknown sampler, schedule or upscaler, more steps than the model has levels, a size or a
            checkpoint that does not go with the rest.
        PromptError: see `PromptReader.read`.
        OutputError: the source cannot be read.
        ModelNotFoundError, WeightsError, OutOfMemoryError: the checkpoint cannot be loaded.
    """
    _check(request)
    models = shelf.load(request.model)
    source = None if request.source.image is None else read_picture(request.source.image)
    settled = _settle(request, models, source)
    strength = None if source is None else request.source.denoising_strength
    refiner = _load_refiner(settled, models, shelf)
    if refiner is not None:
        settled = replace(settled, refiner=replace(settled.refiner, checkpoint=refiner.name))
    passed = {"first pass": (1,), "second pass": (2,), "both passes": (1, 2)}[settled.refiner.passes]
    refined = passed if request.hires.enabled else (1,)  # the numbers of the passes
    first = _pass(
        1,
        settled,
        models,
        refiner if 1 in refined else None,
        shelf,
        strength=strength,
        exact=request.source.exact_steps,
        calls_before=0,
    )
    passes: tuple[Pass, ...] = (first,)
    target = None
    if request.hires.enabled:
        upscaler = load_upscaler(request.hires.upscaler, shelf)
        target = second_size(settled.canvas, request.hires, upscaler)
        other = models
        if request.hires.checkpoint is not None:
            other = shelf.load(replace(request.model, checkpoint=request.hires.checkpoint, prediction=None))
            if upscaler is None:
                _require_same_latents(models, other, "hires checkpoint")
        second = _second_request(settled, target, other)
        calls = settled.sampling.steps * first.sampler.calls_per_step
        strength = request.hires.denoising_strength
        relief = refiner if 2 in refined else None
        last = _pass(2, second, other, relief, shelf, strength=strength, exact=True, calls_before=calls)
        passes = (first, last)
    canvas, variation = settled.canvas, settled.variation
    return Plan(
        request=settled,
        passes=passes,
        target=target,
        seeds=picture_seeds(
            canvas.seed, variation.seed, variation.strength, canvas.batch_size * canvas.batch_count
        ),
        source=source,
    )


def _load_refiner(request: Request, models: Models, shelf: ModelShelf) -> Models | None:
    """The checkpoint that takes over on the way. Raises RequestError: its latents are of another kind."""
    if request.refiner.checkpoint is None:
        return None
    refiner = shelf.load(ModelChoice(checkpoint=request.refiner.checkpoint, vae=request.model.vae))
    _require_same_latents(models, refiner, "refiner")
    return refiner


def _require_same_latents(models: Models, other: Models, what: str) -> None:
    """Refuse to hand latents on to a checkpoint that has others. Raises RequestError."""
    mine, theirs = (
        (each.spec.vae.latent_channels, each.spec.vae.reduction, each.spec.vae.scale_factor)
        for each in (models, other)
    )
    if mine != theirs:
        raise RequestError(
            f"{what}={other.name!r} works on other latents than {models.name} "
            f"({theirs[0]} channels at scale {theirs[2]:g}, not {mine[0]} at {mine[2]:g}); "
            "choose one of the same family"
        )


def _check(request: Request) -> None:
    """Refuse parts that contradict one another."""
    if request.source.image is None:
        for name, part, default in (
            ("mask", request.mask, Mask()),
            ("outpaint", request.outpaint, Outpaint()),
            ("soft", request.soft, SoftInpainting()),
        ):
            if part != default:
                raise RequestError(f"{name} needs a source picture; give one, or leave {name} alone")
    elif request.mask.image is not None and request.outpaint.wanted:
        raise RequestError("outpainting makes its own mask; give a mask or sides to continue, not both")
    elif request.hires.enabled:
        raise RequestError(
            "hires is the second pass of text to image; with a source picture choose a larger size instead"
        )


def _settle(request: Request, models: Models, source: Image | None) -> Request:
    """Names as in the tables, the size, and the seeds that are drawn."""
    sampler, schedule = resolve(request.sampling.sampler, request.sampling.schedule)
    canvas, variation = request.canvas, request.variation
    native = models.spec.native_size
    if source is None or request.outpaint.wanted:
        width, height = native, native
    else:
        width, height = source_size(source)
    seed = draw_seed() if canvas.seed < 0 else canvas.seed
    if variation.strength > 0 and variation.seed < 0:
        variation = replace(variation, seed=draw_seed())
    return replace(
        request,
        sampling=replace(request.sampling, sampler=sampler.name, schedule=schedule.name),
        canvas=replace(canvas, width=canvas.width or width, height=canvas.height or height, seed=seed),
        variation=variation,
        model=replace(request.model, checkpoint=models.name, vae=models.vae_name),
        source=request.source if source is not None else _without_picture(request.source),
        refiner=request.refiner if request.refiner.checkpoint is not None else Refiner(),
        hires=request.hires if request.hires.enabled else Hires(),
    )


def _without_picture(source: Source) -> Source:
    """What counts where there is no picture to start from."""
    return Source(extra_noise=source.extra_noise, depth=source.depth)


def _second_request(first: Request, target: Target, models: Models) -> Request:
    """The request of the second pass: what `hires` says, and otherwise the first pass's."""
    hires = first.hires
    sampler, schedule = resolve(
        hires.sampler or first.sampling.sampler,
        hires.schedule or ("Automatic" if hires.sampler else first.sampling.schedule),
    )
    return replace(
        first,
        prompt=replace(
            first.prompt,
            text=hires.prompt or first.prompt.text,
            negative=hires.negative or first.prompt.negative,
        ),
        sampling=replace(
            first.sampling,
            steps=hires.steps or first.sampling.steps,
            sampler=sampler.name,
            schedule=schedule.name,
        ),
        canvas=replace(first.canvas, width=target.width, height=target.height),
        model=replace(first.model, checkpoint=models.name),
    )


def _pass(
    number: int,
    request: Request,
    models: Models,
    refiner: Models | None,
    shelf: ModelShelf,
    *,
    strength: float | None,
    exact: bool,
    calls_before: int,
) -> Pass:
    spec = models.spec
    sampler, schedule = resolve(request.sampling.sampler, request.sampling.schedule)
    levels = models.levels
    script = _script(request, models, sampler, calls_before, shelf)
    relief = None
    if refiner is not None:
        timestep = len(levels) - 1 - len(levels) * request.refiner.switch_at
        at_sigma = float(levels.sigma(torch.tensor(timestep))) if timestep >= 0 else 0.0
        relief = Relief(
            models=refiner,
            script=_script(request, refiner, sampler, calls_before, shelf),
            at_sigma=at_sigma,
        )
    return Pass(
        number=number,
        request=request,
        models=models,
        script=script,
        sampler=sampler,
        levels=levels,
        sigmas=trajectory(
            sampler,
            schedule,
            levels,
            request.sampling.steps,
            request.levels,
            strength=strength,
            exact=exact,
            solver=request.solver,
        ),
        shape=latent_shape(spec, request.canvas.width or 0, request.canvas.height or 0),
        relief=relief,
    )


def _script(
    request: Request, models: Models, sampler: SamplerSpec, calls_before: int, shelf: ModelShelf
) -> Script:
    """Read the prompts for a checkpoint that is to see them. Raises RequestError: it must see more."""
    require_pictures(models.spec, request, models.name)
    scale = request.sampling.guidance
    if kind_of(models.spec) == "edit" and scale == 1:
        scale = request.sampling.image_guidance  # wants the negative prompt on its own account
    steps = request.sampling.steps
    calls = steps * sampler.calls_per_step
    return models.reader.read(
        request.prompt,
        calls,
        0 if sampler.uses_uncond else scale,  # 0 needs the negative prompt, too
        calls_before=calls_before,
        worn=shelf.adapters.wear(request.prompt, models, steps, calls),
    )


def draw_seed() -> int:
    """A seed nobody chose: 0 to 2^32 - 3, the range of the field's interfaces."""
    return secrets.randbelow(2**32 - 2)


def latent_shape(spec: ModelSpec, width: int, height: int) -> tuple[int, int, int]:
    """(C,H,W) of the latents of one picture of `width` × `height` pixels.

    Raises RequestError: a side is no multiple of the autoencoder's reduction.
    """
    f = spec.vae.reduction
    for name, side in (("width", width), ("height", height)):
        if side % f:
            raise RequestError(f"{name}={side} is not a multiple of {f}, as this checkpoint needs")
    return spec.vae.latent_channels, height // f, width // f
