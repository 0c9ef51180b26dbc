"""A training run as a value, read from TOML. Every field of a run stands here and nowhere else."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import to_jsonable_python

from sfumato.errors import TrainingError
from sfumato.nn.clip_text import CLIPTextConfig
from sfumato.nn.unet import UNetConfig
from sfumato.nn.vae import VAEConfig
from sfumato.train.picture_config import PicturesConfig
from sfumato.types import Prediction


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimiserConfig(_Table):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) or another, with warm-up and decay.

    Muon on matrices goes with AdamW on the rest; see `optimisers` for the others.
    """

    name: Literal["adamw", "adamw8bit", "adafactor", "lion", "prodigy"] = "adamw"  # 8 bits: on GPUs only
    matrices: Literal["adamw", "muon"] = "adamw"

    rate: Annotated[float, Field(gt=0, le=1)] = 1e-4  # 1 for Prodigy, which finds its own
    text_rate: Annotated[float, Field(gt=0, le=1)] | None = None  # of the text encoder; None = it stays
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Literal["constant", "cosine", "linear"] = "constant"  # to zero at the last step
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name != "adamw" and self.matrices == "muon":
            raise ValueError(f"matrices='muon' goes with name='adamw', not {self.name!r}; leave one out")
        if self.name == "prodigy" and self.text_rate not in (None, self.rate):
            raise ValueError("Prodigy has one rate for everything: make text_rate equal to rate")
        return self


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


class ModelTable(_Table):
    """The checkpoint that is trained, or that something is trained for."""

    base: Path  # a name or path
    prediction: Prediction | None = None  # where the checkpoint does not say it
    clip_skip: Annotated[int, Field(ge=1, le=12)] = 1
    checkpointing: bool = False  # less memory, a third more time
    max_chunks: Annotated[int, Field(ge=1, le=8)] = 3  # of 75 tokens each, that a caption may fill


class LossConfig(_Table):
    """How noise levels are drawn and weighed; the plain squared error where nothing is given."""

    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None  # 5 in the paper
    debiased: bool = False
    noise_offset: Annotated[float, Field(ge=0, le=1)] = 0.0  # 0.05 to 0.1 for very dark and bright pictures
    zero_terminal_snr: bool | None = None  # None = as the checkpoint was trained
    timesteps: tuple[int, int] = (0, 999)  # the least and most noise, both included

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 <= self.timesteps[0] <= self.timesteps[1] <= 999:
            raise ValueError(f"timesteps={list(self.timesteps)} must rise within 0 to 999")
        if self.debiased and self.min_snr_gamma is not None:
            raise ValueError("min_snr_gamma and debiased weigh the same levels twice; choose one")
        return self


class PreviewConfig(_Table):
    """Pictures drawn on fixed seeds while it trains."""

    prompts: tuple[str, ...] = ()
    negative: str = ""
    guidance: Annotated[float, Field(ge=1)] = 7.0
    steps: Annotated[int, Field(ge=1)] = 20
    width: Annotated[int, Field(ge=8)] | None = None  # None = as the checkpoint was trained
    height: Annotated[int, Field(ge=8)] | None = None


Targets = Literal["cross-attention", "attention", "transformers"]


class LoRAConfig(_Table):
    """Small changes to layers of the networks (Hu et al. 2021, arXiv:2106.09685) and kin."""

    kind: Literal["lora", "dora", "loha", "lokr"] = "lora"
    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    alpha: Annotated[float, Field(gt=0)] | None = None  # the change is scaled by alpha / rank; None = rank
    targets: Targets = "cross-attention"  # of the U-Net
    conv_rank: Annotated[int, Field(ge=1, le=4096)] | None = None  # of residual blocks, too (LoCon)
    conv_alpha: Annotated[float, Field(gt=0)] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float16"  # of the file


class EmbeddingConfig(_Table):
    """A word whose vectors are learnt (Gal et al. 2022, arXiv:2208.01618)."""

    init: str = ""  # words whose vectors it starts from; "" = small random ones
    vectors: Annotated[int, Field(ge=1, le=75)] = 1
    use: Literal["object", "style", "caption"] = "object"  # prompts it is put into; "caption": they have it


class FinetuneConfig(_Table):
    """Every weight of the U-Net, and of the text encoder where it has a rate."""

    unet: bool = True
    dtype: Literal["float32", "bfloat16", "float16"] = "float16"  # of the file


class DreamBoothConfig(FinetuneConfig):
    """The same on one subject, with pictures of its class beside it (Ruiz et al. 2022, arXiv:2208.12242).

    `pictures` says the rest: the prompts, and where pictures of the class are.
    """

    class_pictures: Annotated[int, Field(ge=1)] = 200  # drawn by the base where the folder has fewer
    class_steps: Annotated[int, Field(ge=1)] = 25  # of the sampler that draws them
    class_guidance: Annotated[float, Field(ge=1)] = 7.5


class HypernetworkConfig(_Table):
    """Small networks before the keys and values of attention."""

    layers: tuple[Annotated[float, Field(gt=0)], ...] = (1, 2, 1)  # widths, in units of what is attended to
    activation: Literal["linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "mish"] = "linear"
    layer_norm: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.layers) < 2 or self.layers[0] != 1 or self.layers[-1] != 1:
            raise ValueError(f"layers={list(self.layers)} must begin and end with 1")
        return self


TUNING = ("lora", "embedding", "dreambooth", "finetune", "hypernetwork")  # what a checkpoint is trained by
Method = Literal[
    "autoencoder", "diffusion", "text", "lora", "embedding", "dreambooth", "finetune", "hypernetwork"
]


class TrainConfig(_Table):
    """One run. Of the tables that are called like methods, only the method's own is read."""

    method: Method
    output: Path
    name: Annotated[str, Field(pattern=r"^[^/\\:\x00-\x1f]+$")] | None = (
        None  # of the file; None = the folder's
    )
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 16
    accumulate: Annotated[int, Field(ge=1)] = 1  # batches a step
    device: str = "auto"  # of the methods that train a checkpoint
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
    model: ModelTable | None = None
    pictures: PicturesConfig | None = None
    loss: LossConfig = LossConfig()
    preview: PreviewConfig = PreviewConfig()
    lora: LoRAConfig = LoRAConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    dreambooth: DreamBoothConfig = DreamBoothConfig()
    hypernetwork: HypernetworkConfig = HypernetworkConfig()

    @model_validator(mode="before")
    @classmethod
    def _published(cls, given: Any) -> Any:
        return (
            merge_under(PUBLISHED.get(str(given.get("method")), {}), given)
            if isinstance(given, dict)
            else given
        )

    @property
    def file_name(self) -> str:
        """What the result is called: the file without its ending, the word of an embedding."""
        return self.name or self.output.name


_EVERY = {"batch_size": 1, "ema_decay": 0.0}
_ADAMW = {"betas": (0.9, 0.999), "weight_decay": 0.01, "warmup_steps": 0}
# What the methods' authors and most widely used programs begin with.
PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lora": {**_EVERY, "optimiser": {**_ADAMW, "rate": 1e-4}},
        "embedding": {**_EVERY, "optimiser": {**_ADAMW, "rate": 5e-4}},
        "dreambooth": {**_EVERY, "optimiser": {**_ADAMW, "rate": 5e-6}},
        "finetune": {**_EVERY, "optimiser": {**_ADAMW, "rate": 1e-5}},
        "hypernetwork": {**_EVERY, "optimiser": {**_ADAMW, "rate": 5e-5}},
    }
)


def merge_under(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay what is given over defaults, table by table."""
    merged = dict(defaults) | dict(given)
    for name, table in defaults.items():
        if isinstance(table, Mapping) and isinstance(given.get(name), Mapping):
            merged[name] = merge_under(table, given[name])
    return merged


def default_of(name: str) -> Any:
    """Give the default of a field by its dotted name, as JSON has it; None where there is none."""
    table: Any = TrainConfig
    *tables, last = name.split(".")
    for each in tables:
        kinds = _tables_of(table, each)
        if not kinds:
            return None
        table = kinds[0]
    field = table.model_fields.get(last)
    return None if field is None or field.is_required() else to_jsonable_python(field.default)


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
    if config.method in TUNING:
        for name, what in (("model", "base"), ("pictures", "source")):
            if getattr(config, name) is None:
                raise TrainingError(f"{path}: method {config.method!r} needs a table [{name}] with a {what}")
        if config.data is not None:
            raise TrainingError(
                f"{path}: method {config.method!r} reads [pictures], not [data]; leave that out"
            )
    if getattr(config, config.method) is None:
        raise TrainingError(f"{path}: method {config.method!r} needs a table [{config.method}]")
    if config.method in ("autoencoder", "diffusion") and config.data is None:
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
        table = _tables_of(table, str(name))[0]
    return list(table.model_fields)


def _tables_of(table: type[BaseModel], name: str) -> list[type[BaseModel]]:
    field = table.model_fields.get(name)
    kinds = () if field is None else (get_args(field.annotation) or (field.annotation,))
    return [each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)]
