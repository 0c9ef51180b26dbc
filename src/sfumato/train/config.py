"""A training run as a value, read from TOML. Every field of a run stands here and nowhere else."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfumato.errors import TrainingError
from sfumato.nn.clip_text import CLIPTextConfig
from sfumato.nn.unet import UNetConfig
from sfumato.nn.vae import VAEConfig
from sfumato.types import Prediction


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimiserConfig(_Table):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with warm-up and decay; Muon on matrices."""

    matrices: Literal["adamw", "muon"] = "adamw"

    rate: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Literal["constant", "cosine", "linear"] = "constant"  # to zero at the last step
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0


class DataConfig(_Table):
    """Where the pictures are and how they are varied."""

    folder: Path
    crop: Annotated[int, Field(ge=8)] | None = None  # side of a random square crop; None = whole pictures
    flip: bool = False
    permute_channels: bool = False  # shuffle red, green and blue: hues the data set lacks


class AutoencoderConfig(_Table):
    """The first stage: network size and the weights of its loss."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    res_blocks: Annotated[int, Field(ge=1)] = 2
    groups: int = 32
    latent_channels: int = 4
    start: Path | None = None  # a checkpoint to go on from
    freeze_encoder: bool = False
    l1: float = 1.0
    mse: float = 0.0
    edges: float = 0.5  # L1 of picture gradients at two scales: the perceptual-type term
    kl: float = 1e-6

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.network()
        return self

    def network(self) -> VAEConfig:
        """Describe the network. Raises ValueError: there is none of such sizes."""
        return VAEConfig(
            channels=self.channels,
            res_blocks=self.res_blocks,
            groups=self.groups,
            latent_channels=self.latent_channels,
            scale_factor=1.0,
        )


class UNetTable(_Table):
    """The U-Net's size; see `nn.unet.UNetConfig` for the meaning of each."""

    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_dim: int = 64
    groups: int = 32
    linear_projection: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.network(latent_channels=4, context_dim=768)
        return self

    def network(self, *, latent_channels: int, context_dim: int) -> UNetConfig:
        """Describe the network between a given autoencoder and text encoder.

        Raises ValueError: there is none of such sizes.
        """
        return UNetConfig(
            in_channels=latent_channels,
            out_channels=latent_channels,
            context_dim=context_dim,
            **self.model_dump(),
        )


class DiffusionConfig(_Table):
    """The second stage: networks, noise and loss."""

    base: Path  # checkpoint that holds the autoencoder and the text encoder
    start: Path | None = None  # checkpoint whose U-Net to go on from
    unet: UNetTable = UNetTable()  # where it is left out, that of `start`
    train_text: bool = False
    prediction: Prediction = "v"
    min_snr_gamma: Annotated[float, Field(gt=0)] = 5.0
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1
    prompts: tuple[str, ...] = ()  # sampled on fixed seeds while training
    guidance: float = 4.0
    sample_steps: Annotated[int, Field(ge=1)] = 20


class TextConfig(_Table):
    """The text encoder, trained so that its last tokens say what a sentence vector says."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vectors: Path  # (N,D) float16 .npy beside `sentences`
    sentences: Path  # one sentence a line
    base: Path  # checkpoint whose autoencoder is carried along
    start: Path | None = None  # checkpoint whose text encoder to go on from
    temperature: Annotated[float, Field(gt=0)] = 0.05

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.network()
        return self

    def network(self) -> CLIPTextConfig:
        """Describe the network. Raises ValueError: there is none of such sizes."""
        return CLIPTextConfig(width=self.width, layers=self.layers, heads=self.heads)


class TrainConfig(_Table):
    """One run. Exactly one of the method's tables is read."""

    method: Literal["autoencoder", "diffusion", "text"]
    output: Path
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 16
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Annotated[int, Field(ge=1)] | None = None
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    save_every: Annotated[int, Field(ge=1)] = 500
    sample_every: Annotated[int, Field(ge=1)] = 500
    provenance: dict[str, str] = {}  # carried into the header of what is trained
    data: DataConfig | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    autoencoder: AutoencoderConfig | None = None
    diffusion: DiffusionConfig | None = None
    text: TextConfig | None = None


def read_config(path: Path) -> TrainConfig:
    """Read and validate a training configuration.

    Args:
        path: a TOML file; relative paths inside it are relative to the working directory.

    Raises:
        TrainingError: the file is missing, is not TOML, or a field is unknown or out of range.
    """
    try:
        config = TrainConfig.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise TrainingError(f"{path}: {_fault(error)}") from error
    if getattr(config, config.method) is None:
        raise TrainingError(f"{path}: method {config.method!r} needs a table [{config.method}]")
    if config.method != "text" and config.data is None:
        raise TrainingError(f"{path}: method {config.method!r} needs a table [data]")
    if config.method == "diffusion" and config.data and config.data.model_fields_set != {"folder"}:
        raise TrainingError(f"{path}: method 'diffusion' takes pictures as they are: leave only data.folder")
    return config


def _fault(error: ValidationError) -> str:
    """Say the first thing wrong; an unknown field before a missing one, as it may be that one misspelt."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{field} is missing"
    if first["type"] == "extra_forbidden":
        known = _fields_of(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        return f"{field} is not known; " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        )
    if first["type"] == "value_error":
        return f"{field}: {first['ctx']['error']}"
    return f"{field}: {first['msg']}, got {str(first['input'])[:60]!r}"


def _fields_of(place: tuple[int | str, ...]) -> list[str]:
    table: Any = TrainConfig
    for name in place:
        kinds = get_args(table.model_fields[name].annotation) or (table.model_fields[name].annotation,)
        table = kinds[0]
    return list(table.model_fields)
