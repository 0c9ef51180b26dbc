"""The networks of one generation, loaded onto the device and in the numbers that suit it.

Shape letters: B pictures in the network at once, C latent channels, H W latent size, T tokens, E width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from sfumato.diffusion.schedules import NoiseLevels, sd_noise_levels
from sfumato.errors import ModelNotFoundError, RequestError
from sfumato.nn.seamless import seamless
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline import memory
from sfumato.pipeline.conditioning import PromptReader
from sfumato.text.tokenizer import Tokenizer
from sfumato.types import Prediction
from sfumato.weights import store
from sfumato.weights.adapters.apply import Adapted, Use
from sfumato.weights.files import file_sha256
from sfumato.weights.load import Checkpoint, load_checkpoint
from sfumato.weights.specs import ModelSpec

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """A checkpoint ready to generate."""

    checkpoint: Checkpoint
    vae_path: Path | None  # of another autoencoder in place of the checkpoint's own
    reader: PromptReader
    adapted: Adapted  # the U-Net
    device: torch.device
    dtype: torch.dtype

    @property
    def spec(self) -> ModelSpec:
        """Everything about the checkpoint but its weights."""
        return self.checkpoint.spec

    @property
    def name(self) -> str:
        """Of the checkpoint, as it stands in the pictures."""
        return self.checkpoint.name

    @property
    def vae(self) -> AutoencoderKL:
        """The autoencoder in use."""
        return self.checkpoint.vae

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All that hold weights."""
        return self.checkpoint.unet, self.checkpoint.vae, self.checkpoint.text

    @property
    def vae_name(self) -> str | None:
        """Of the autoencoder, if it is not the checkpoint's own."""
        return None if self.vae_path is None else self.vae_path.stem

    @property
    def sha256(self) -> str:
        """Of the checkpoint's file, 64 hexadecimal digits."""
        return self.checkpoint.sha256

    @cached_property
    def vae_sha256(self) -> str | None:
        """Of the other autoencoder's file."""
        return None if self.vae_path is None else file_sha256(self.vae_path)

    @property
    def circumstances(self) -> tuple[tuple[str, str], ...]:
        """What beside a request decides the last bits of its pictures, as it stands in them."""
        precision = str(self.dtype).removeprefix("torch.")
        return ("Device", self.device.type), ("Precision", precision), ("Torch", torch.__version__)

    @property
    def levels(self) -> NoiseLevels:
        """The noise levels it was trained on."""
        return sd_noise_levels(zero_snr=self.spec.zero_terminal_snr)

    def predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        *,
        wraps: bool = False,
        uses: tuple[Use, ...] = (),
        on_the_fly: bool = False,
    ) -> Tensor:
        """The U-Net as samplers see it: float32 latents (B,C,H,W) in, a prediction of its own dtype out.

        Where it `wraps`, opposite edges of the latents meet. `uses` are the adapters it wears for this call
        and no other; see `Adapted.wearing`.
        """
        x = x.to(self.dtype, memory_format=torch.channels_last)
        unet: UNet = self.checkpoint.unet
        with self.adapted.wearing(uses, on_the_fly=on_the_fly), seamless(unet, wraps):
            out: Tensor = unet(x, timesteps, context.to(self.dtype))
        return out


def load_models(
    path: Path, vae: Path | None, prediction: Prediction | None, *, device: torch.device, dtype: torch.dtype
) -> Models:
    """Load a checkpoint, ready to generate.

    Args:
        path: the checkpoint, a file or a folder in diffusers' layout.
        vae: another autoencoder in place of the checkpoint's own.
        prediction: what the U-Net predicts, where the file does not say it.
        device: where the networks go.
        dtype: the numbers they compute in.

    Raises:
        WeightsError: a file that is broken or of another kind.
        OutOfMemoryError: it will not fit.
    """
    memory.require(
        memory.loading_bytes(path, dtype),
        memory.available_bytes(device),
        f"loading {path.name} as {str(dtype).removeprefix('torch.')}",
        "choose a smaller checkpoint or --dtype bfloat16, or close other programs",
    )
    checkpoint = load_checkpoint(path, device=device, dtype=dtype, prediction=prediction, vae=vae)
    for network in (checkpoint.unet, checkpoint.vae):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    reader = PromptReader(checkpoint.text, Tokenizer.load(), checkpoint.spec.pad_token)
    return Models(
        checkpoint=checkpoint,
        vae_path=vae,
        reader=reader,
        adapted=Adapted(checkpoint.unet),
        device=device,
        dtype=dtype,
    )


def find_checkpoint(name: str | None, folder: Path, *, paths: bool = True) -> Path:
    """Where a checkpoint is: a path as it stands, the embedded model, or a name in `folder`.

    Args:
        name: what was asked for; None = the embedded model.
        folder: the models folder.
        paths: whether a path anywhere on the machine is accepted.

    Raises ModelNotFoundError: nowhere; the nearest names are given.
    """
    if name is None or name == store.EMBEDDED:
        return embedded_model()
    return store.find(folder, name, paths=paths, kinds=("checkpoint", "pickle"))


def embedded_model() -> Path:
    """The file of the model that comes with Sfumato. Raises ModelNotFoundError: this copy has none."""
    path = Path(str(resources.files("sfumato"))) / "assets" / f"{store.EMBEDDED}.safetensors"
    if not path.is_file():
        raise ModelNotFoundError(
            f"{path} is missing from this installation; name a checkpoint with --model, or install again"
        )
    return path


def choose_device(name: str) -> torch.device:
    """The device called `name`; for "auto" the fastest kind there is.

    Raises RequestError: no such device here; says which there are.
    """
    there = devices()
    if name == "auto":
        return torch.device(there[0])
    if name not in there and not (name == "cuda" and "cuda:0" in there):
        raise RequestError(f"device={name!r} is not on this machine; choose auto or {' or '.join(there)}")
    return torch.device(name)


def devices() -> list[str]:
    """All devices that torch can use here, the fastest kind first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def choose_dtype(device: torch.device, name: str) -> torch.dtype:
    """The numbers called `name`; for "auto" float16 on GPUs and, on CPUs, bfloat16 where it is in silicon.

    Raises RequestError: no such type.
    """
    if name == "auto":
        narrow = torch.float16 if device.type != "cpu" else torch.bfloat16
        return narrow if device.type != "cpu" or cpu_has_bfloat16() else torch.float32
    if name not in DTYPES:
        raise RequestError(f"dtype={name!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def stored_dtype(name: str | None) -> torch.dtype | None:
    """The numbers that a file is to be written in; None = as they are. Raises RequestError: no such type."""
    if name is not None and name not in DTYPES:
        raise RequestError(f"dtype={name!r} is not one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; emulated it would be slower than float32."""
    return any("bf16" in name and there is True for name, there in torch.cpu.get_capabilities().items())
