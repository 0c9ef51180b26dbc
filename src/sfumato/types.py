"""The system's nouns: what is asked for, what is reported on the way, what comes out.

`Request` is the single description of a generation. CLI options, PNG text and (later) API and interface
fields are mapped from it by tables; nothing else carries a generation's parameters.

Nothing here imports torch or Pillow at run time, so that reading a request costs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_type_hints

from sfumato.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

EmphasisMode = Literal["None", "Ignore", "Original", "No norm"]
NoiseSource = Literal["philox", "cpu", "device"]
Prediction = Literal["eps", "v"]  # what a U-Net predicts: the noise, or v = alpha noise - sigma latents
ResizeMode = Literal["Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)"]
MaskedArea = Literal["Whole picture", "Only masked"]
MaskedContent = Literal["fill", "original", "latent noise", "latent nothing"]
RefinedPasses = Literal["first pass", "second pass", "both passes"]
Picture: TypeAlias = "Path | Image"  # a file that is read when it is needed, or a picture in memory

MAX_SEED = 2**64 - 1
MAX_STEPS = 1000
MAX_SIDE = 16384


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RequestError(message)


def _within(part: object, name: str, low: float, high: float) -> None:
    """Refuse a field outside low to high, and a NaN; None is let through."""
    value = getattr(part, name)
    _require(value is None or low <= value <= high, f"{name}={value} is outside {low:g} to {high:g}")


def _among(part: object, name: str, kind: Any) -> None:
    """Refuse a field that is not one of a Literal's values."""
    value = getattr(part, name)
    _require(value in get_args(kind), f"{name}={value!r} is not one of {', '.join(get_args(kind))}")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What should be in the picture, and how the text is read."""

    text: str = ""
    negative: str = ""
    clip_skip: int = 1  # 1 = last layer; k takes the k-th hidden state from the end
    emphasis: EmphasisMode = "Original"

    def __post_init__(self) -> None:
        _within(self, "clip_skip", 1, 12)
        _among(self, "emphasis", EmphasisMode)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the noise is walked to a picture."""

    sampler: str = "DPM++ 2M"
    schedule: str = "Automatic"
    steps: int = 20
    guidance: float = 7.0  # s in uncond + s (cond - uncond); 1 = none
    guidance_rescale: float = 0.0  # phi of Lin et al. 2023; 0 = off
    image_guidance: float = 1.5  # the second scale of instruction-editing checkpoints
    negative_min_sigma: float = 0.0  # below it every other step leaves the negative prompt out
    skip_early_guidance: float = 0.0  # share of the steps that leave the negative prompt out

    def __post_init__(self) -> None:
        _within(self, "steps", 1, MAX_STEPS)
        _within(self, "guidance", 0, 100)
        _within(self, "guidance_rescale", 0, 1)
        _within(self, "image_guidance", 0, 100)
        _within(self, "negative_min_sigma", 0, 100)
        _within(self, "skip_early_guidance", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The finer choices of single samplers; each is without effect in the others."""

    eta: float | None = None  # noise of ancestral samplers and DDIM; None = the sampler's own default
    s_churn: float = 0.0  # noise added before a step: Karras et al. 2022, Algorithm 2
    s_tmin: float = 0.0  # lowest sigma at which it is
    s_tmax: float | None = None  # highest; None = no limit
    s_noise: float = 1.0  # standard deviation of added noise
    unipc_variant: Literal["bh1", "bh2", "vary_coeff"] = "bh1"
    unipc_skip: Literal["time_uniform", "time_quadratic", "logSNR"] = "time_uniform"
    unipc_order: int = 3
    unipc_lower_order_final: bool = True

    def __post_init__(self) -> None:
        _within(self, "eta", 0, 1)
        for name in ("s_churn", "s_tmin", "s_noise"):
            _within(self, name, 0, 1000)
        _within(self, "s_tmax", 0, 1e9)
        _among(self, "unipc_variant", Literal["bh1", "bh2", "vary_coeff"])
        _among(self, "unipc_skip", Literal["time_uniform", "time_quadratic", "logSNR"])
        _within(self, "unipc_order", 1, 50)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The finer choices of a schedule; None = the schedule's or the checkpoint's own."""

    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float | None = None  # Karras (7) and Polyexponential (1)
    beta_alpha: float = 0.6  # of the schedule Beta
    beta_beta: float = 0.6
    discard_penultimate: bool | None = None  # None = where the sampler wants it

    def __post_init__(self) -> None:
        for name in ("sigma_min", "sigma_max", "rho"):
            _within(self, name, 1e-4, 1e4)
        for name in ("beta_alpha", "beta_beta"):
            _within(self, name, 0.01, 10)
        _require(
            self.sigma_min is None or self.sigma_max is None or self.sigma_min < self.sigma_max,
            f"sigma_min={self.sigma_min} is not below sigma_max={self.sigma_max}",
        )


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Size, number and starting noise of the pictures."""

    width: int | None = None  # pixels, a multiple of 8; None = the checkpoint's (or the source's) own size
    height: int | None = None
    seed: int = -1  # -1 = draw one; picture k of the request uses seed + k
    batch_size: int = 1  # pictures sampled together
    batch_count: int = 1  # batches, one after another
    noise_source: NoiseSource = "philox"
    tiling: bool = False  # left meets right and top meets bottom without a seam

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            side = getattr(self, name)
            _require(
                side is None or (8 <= side <= MAX_SIDE and side % 8 == 0),
                f"{name}={side} is not a multiple of 8 from 8 to {MAX_SIDE}"
                + (f"; try {max(8, min(MAX_SIDE, round(side / 8) * 8))}" if isinstance(side, int) else ""),
            )
        _require(-1 <= self.seed <= MAX_SEED, f"seed={self.seed} is outside -1 to 2^64 - 1")
        _within(self, "batch_size", 1, 64)
        _within(self, "batch_count", 1, 10000)
        _among(self, "noise_source", NoiseSource)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Starting noise between two seeds, or of another size; noise of later steps under another seed."""

    seed: int = -1  # of the other noise; -1 = draw one
    strength: float = (
        0.0  # 0 = the canvas's seed alone, 1 = the other alone; above 0 only this seed counts up
    )
    from_width: int = 0  # pixels for which the noise is drawn, then set into the middle; 0 = the canvas's own
    from_height: int = 0
    seed_delta: int = 0  # added to the seed after the starting noise ("eta noise seed delta")

    def __post_init__(self) -> None:
        _require(-1 <= self.seed <= MAX_SEED, f"seed={self.seed} is outside -1 to 2^64 - 1")
        _within(self, "strength", 0, 1)
        _within(self, "from_width", 0, MAX_SIDE)
        _within(self, "from_height", 0, MAX_SIDE)
        _within(self, "seed_delta", 0, MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which weights make the picture."""

    checkpoint: str | None = None  # a name from the models folder or a path; None = the embedded model
    vae: str | None = None  # another autoencoder; None = the checkpoint's own
    prediction: Prediction | None = None  # what the U-Net predicts, where its file does not say it

    def __post_init__(self) -> None:
        if self.prediction is not None:
            _among(self, "prediction", Prediction)


@dataclass(frozen=True, kw_only=True)
class Refiner:
    """A second checkpoint that takes over on the way."""

    checkpoint: str | None = None  # None = none
    switch_at: float = 0.8  # share of the way from noise to picture
    passes: RefinedPasses = "second pass"  # which of two passes it refines; a single pass always

    def __post_init__(self) -> None:
        _within(self, "switch_at", 0.01, 1)
        _among(self, "passes", RefinedPasses)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The picture to start from."""

    image: Picture | None = None  # None = text to image
    resize_mode: ResizeMode = "Just resize"
    denoising_strength: float = 0.75  # 0 = the source, 1 = nothing of it
    exact_steps: bool = False  # take all the steps, whatever the strength
    noise_multiplier: float = 1.0  # of the starting noise
    extra_noise: float = 0.0  # added to the starting latents
    color_correction: bool = False  # bring the result's colours to the source's
    background: str = "#ffffff"  # under transparent places
    depth: Picture | None = None  # a depth map, white near, for depth-guided checkpoints

    def __post_init__(self) -> None:
        _among(self, "resize_mode", ResizeMode)
        _within(self, "denoising_strength", 0, 1)
        _within(self, "noise_multiplier", 0, 2)
        _within(self, "extra_noise", 0, 1)
        _require(
            re.fullmatch("#[0-9a-fA-F]{6}", self.background) is not None,
            f"background={self.background!r} is not a colour like #ffffff",
        )


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Where the source may change."""

    image: Picture | None = None  # white changes; where it is transparent, its alpha; None = everywhere
    invert: bool = False  # black changes
    blur_x: int = 4  # pixels
    blur_y: int = 4
    area: MaskedArea = "Whole picture"
    padding: int = 32  # pixels around the masked area with "Only masked"
    content: MaskedContent = "original"  # what stands in the mask at the start
    round: bool = True  # latents are masked or not, nothing between
    conditioning_weight: float = 1.0  # how far an inpainting checkpoint is kept from seeing under the mask
    overlay: bool = True  # lay the source's pixels over the result outside the mask

    def __post_init__(self) -> None:
        _within(self, "blur_x", 0, 512)
        _within(self, "blur_y", 0, 512)
        _among(self, "area", MaskedArea)
        _within(self, "padding", 0, 4096)
        _among(self, "content", MaskedContent)
        _within(self, "conditioning_weight", 0, 1)


@dataclass(frozen=True, kw_only=True)
class SoftInpainting:
    """A mask with grey values that lets go of the source step by step."""

    enabled: bool = False
    schedule_bias: float = 1.0
    preservation_strength: float = 0.5
    contrast_boost: float = 4.0
    mask_influence: float = 0.0
    difference_threshold: float = 0.5
    difference_contrast: float = 2.0

    def __post_init__(self) -> None:
        _within(self, "schedule_bias", 0, 8)
        _within(self, "preservation_strength", 0, 8)
        _within(self, "contrast_boost", 1, 32)
        _within(self, "mask_influence", 0, 1)
        _within(self, "difference_threshold", 0, 8)
        _within(self, "difference_contrast", 0, 8)


@dataclass(frozen=True, kw_only=True)
class Outpaint:
    """The source continued beyond its edges. Any width above 0 asks for it."""

    left: int = 0  # pixels
    right: int = 0
    up: int = 0
    down: int = 0
    mask_blur: int = 8
    falloff: float = 1.0  # exponent of the noise's spectrum
    color_variation: float = 0.05

    def __post_init__(self) -> None:
        for name in ("left", "right", "up", "down"):
            _within(self, name, 0, 4096)
        _within(self, "mask_blur", 0, 64)
        _within(self, "falloff", 0, 4)
        _within(self, "color_variation", 0, 1)

    @property
    def wanted(self) -> bool:
        """Whether any side is to be continued."""
        return bool(self.left or self.right or self.up or self.down)


@dataclass(frozen=True, kw_only=True)
class Hires:
    """A second pass over the enlarged picture."""

    enabled: bool = False
    scale: float = 2.0  # where neither width nor height is given
    width: int = 0  # pixels; 0 = from the height, or from the scale
    height: int = 0
    upscaler: str = "Latent"
    steps: int = 0  # 0 = as in the first pass
    denoising_strength: float = 0.7
    sampler: str | None = None  # None = as in the first pass, here and below
    schedule: str | None = None
    checkpoint: str | None = None
    prompt: str = ""  # "" = as in the first pass
    negative: str = ""

    def __post_init__(self) -> None:
        _within(self, "scale", 1, 8)
        _within(self, "width", 0, MAX_SIDE)
        _within(self, "height", 0, MAX_SIDE)
        _within(self, "steps", 0, MAX_STEPS)
        _within(self, "denoising_strength", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation, whole. Composed of small parts, none over 15 fields."""

    prompt: Prompt = field(default_factory=Prompt)
    sampling: Sampling = field(default_factory=Sampling)
    solver: Solver = field(default_factory=Solver)
    levels: Levels = field(default_factory=Levels)
    canvas: Canvas = field(default_factory=Canvas)
    variation: Variation = field(default_factory=Variation)
    model: ModelChoice = field(default_factory=ModelChoice)
    refiner: Refiner = field(default_factory=Refiner)
    source: Source = field(default_factory=Source)
    mask: Mask = field(default_factory=Mask)
    soft: SoftInpainting = field(default_factory=SoftInpainting)
    outpaint: Outpaint = field(default_factory=Outpaint)
    hires: Hires = field(default_factory=Hires)


def field_types(part: type) -> dict[str, Any]:
    """The types of a part's fields, by name; a `Picture` counts as a path."""
    return get_type_hints(part, localns={"Picture": Path})


@dataclass(frozen=True, kw_only=True, eq=False)
class StepInfo:
    """One step done. `latents` are the current estimate of the clean picture, for previews."""

    step: int  # from 1
    steps: int  # of this pass
    batch: int  # from 1
    batches: int
    pass_: int  # from 1; the second enlarges
    passes: int
    latents: Tensor  # (B,C,H/8,W/8)

    @property
    def share(self) -> float:
        """How much of the request is done, 0 to 1; the second pass counts as much as the first."""
        walks = (self.batch - 1) * self.passes + self.pass_ - 1
        return (walks + self.step / self.steps) / (self.batches * self.passes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One finished picture."""

    image: Image
    request: Request  # resolved: seed, size, schedule and checkpoint of this very picture, batch of one
    infotext: str
    index: int  # place in the request, from 0
    seconds: float  # sampling and decoding of its batch
