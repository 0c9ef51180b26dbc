"""The system's nouns: what is asked for, what is reported on the way, what comes out.

`Request` is the single description of a generation. CLI options, PNG text and (later) API and interface
fields are mapped from it by tables; nothing else carries a generation's parameters.

Nothing here imports torch or Pillow at run time, so that reading a request costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from sfumato.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

EmphasisMode = Literal["None", "Ignore", "Original", "No norm"]
NoiseSource = Literal["philox", "cpu"]
Prediction = Literal["eps", "v"]

MAX_SEED = 2**64 - 1
MAX_STEPS = 1000
MAX_SIDE = 16384


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RequestError(message)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What should be in the picture, and how the text is read."""

    text: str = ""
    negative: str = ""
    clip_skip: int = 1  # 1 = last layer; k takes the k-th hidden state from the end
    emphasis: EmphasisMode = "Original"

    def __post_init__(self) -> None:
        _require(1 <= self.clip_skip <= 12, f"clip_skip={self.clip_skip} is outside 1 to 12")
        modes = get_args(EmphasisMode)
        _require(self.emphasis in modes, f"emphasis={self.emphasis!r} is not one of {', '.join(modes)}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the noise is walked to a picture."""

    sampler: str = "DPM++ 2M"
    schedule: str = "Automatic"
    steps: int = 20
    guidance: float = 7.0  # s in uncond + s (cond - uncond); 1 = none
    guidance_rescale: float = 0.0  # phi of Lin et al. 2023; 0 = off
    eta: float | None = None  # noise of ancestral samplers and DDIM; None = the sampler's own default

    def __post_init__(self) -> None:
        _require(1 <= self.steps <= MAX_STEPS, f"steps={self.steps} is outside 1 to {MAX_STEPS}")
        _require(0 <= self.guidance <= 100, f"guidance={self.guidance} is outside 0 to 100")
        _require(
            0 <= self.guidance_rescale <= 1, f"guidance_rescale={self.guidance_rescale} is outside 0 to 1"
        )
        _require(self.eta is None or 0 <= self.eta <= 1, f"eta={self.eta} is outside 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Size, number and starting noise of the pictures."""

    width: int | None = None  # pixels, a multiple of 8; None = the checkpoint's native size
    height: int | None = None
    seed: int = -1  # -1 = draw one; picture k of the request uses seed + k
    batch_size: int = 1  # pictures sampled together
    batch_count: int = 1  # batches, one after another
    noise_source: NoiseSource = "philox"

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            side = getattr(self, name)
            _require(
                side is None or (8 <= side <= MAX_SIDE and side % 8 == 0),
                f"{name}={side} is not a multiple of 8 from 8 to {MAX_SIDE}"
                + (f"; try {max(8, min(MAX_SIDE, round(side / 8) * 8))}" if isinstance(side, int) else ""),
            )
        _require(-1 <= self.seed <= MAX_SEED, f"seed={self.seed} is outside -1 to 2^64 - 1")
        _require(1 <= self.batch_size <= 64, f"batch_size={self.batch_size} is outside 1 to 64")
        _require(1 <= self.batch_count <= 10000, f"batch_count={self.batch_count} is outside 1 to 10000")
        sources = get_args(NoiseSource)
        _require(
            self.noise_source in sources,
            f"noise_source={self.noise_source!r} is not one of {', '.join(sources)}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which weights make the picture."""

    checkpoint: str | None = None  # a name from the models folder or a path; None = the embedded model
    vae: str | None = None  # another autoencoder; None = the checkpoint's own
    prediction: Prediction | None = None  # what the U-Net predicts, where its file does not say it

    def __post_init__(self) -> None:
        kinds = (None, *get_args(Prediction))
        _require(
            self.prediction in kinds, f"prediction={self.prediction!r} is not one of {', '.join(kinds[1:])}"
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation, whole. Composed of small parts, none over 15 fields."""

    prompt: Prompt = field(default_factory=Prompt)
    sampling: Sampling = field(default_factory=Sampling)
    canvas: Canvas = field(default_factory=Canvas)
    model: ModelChoice = field(default_factory=ModelChoice)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """A prompt as the network sees it: T = 77 per chunk, E = width of the text encoder."""

    context: Tensor  # (B,T,E)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepInfo:
    """One step done. `latents` are the current estimate of the clean picture, for previews."""

    step: int  # from 1
    steps: int
    batch: int  # from 1
    batches: int
    latents: Tensor  # (B,C,H/8,W/8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One finished picture."""

    image: Image
    request: Request  # resolved: seed, size, schedule and checkpoint of this very picture, batch of one
    infotext: str
    index: int  # place in the request, from 0
    seconds: float  # sampling and decoding of its batch
