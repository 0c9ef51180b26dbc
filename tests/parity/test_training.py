"""A step of LoRA training against peft inside diffusers: the same loss, the same gradients, a file both read.

Two whole networks of the same float32 arithmetic in another order: 1e-4 of the largest number.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from tests.conftest import TINY
from torch import Tensor, nn

from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.train.batches import Batch
from sfumato.train.config import TrainConfig
from sfumato.train.lora import lora
from sfumato.train.told import metadata_of
from sfumato.train.tuning import TuningTask
from sfumato.types import Prediction
from sfumato.weights.adapters.names import Place, peft_names
from sfumato.weights.load import Checkpoint, load_checkpoint

with warnings.catch_warnings():  # they warn of optional packages
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from diffusers.training_utils import compute_snr

TOLERANCE = 1e-4
DORA = 1e-3  # of gradients: theirs adds the base times a factor less 1, where ours multiplies the sum
RANK, ALPHA = 3, 2.0


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> bool:
    return float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max()) + 1e-9


class Three:
    """Three pictures of which nothing is drawn."""

    def __len__(self) -> int:
        return 3

    def draw(self, number: int) -> Batch:
        raise NotImplementedError

    def hashes(self) -> dict[str, str]:
        return {}

    def metadata(self) -> dict[str, str]:
        return {}


class Both:
    """Ours with changes that are not zero, and diffusers' networks with peft's of the same numbers."""

    def __init__(
        self, path: Path, peers: ModuleType, config: TrainConfig, prediction: Prediction = "eps"
    ) -> None:
        checkpoint = load_checkpoint(path, device="cpu", dtype=torch.float32)
        self.checkpoint: Checkpoint = replace(
            checkpoint, spec=replace(checkpoint.spec, prediction=prediction)
        )
        for network in (self.checkpoint.unet, self.checkpoint.text):
            network.requires_grad_(False)
        self.unet, self.text = peers.peer_unet(self.checkpoint.unet), peers.peer_text(self.checkpoint.text)
        self.trainee = lora(config, self.checkpoint)
        assert isinstance(self.checkpoint.unet, UNet)
        assert isinstance(self.checkpoint.text, CLIPText)
        generator = torch.Generator().manual_seed(7)
        for name, parameter in self.trainee.parameters.items():
            if not name.endswith("dora_scale"):
                nn.init.normal_(parameter, std=0.2, generator=generator)
        left_out = "" if hasattr(self.text, "text_model") else "text_model."  # transformers since 5
        names = peft_names(self.checkpoint.spec)
        self.names = {  # ours: theirs
            name: names[Place(network, module)].partition(".")[2].removeprefix(left_out) + "." + field
            for name in self.trainee.parameters
            for network, module, field in [(name.split(".", 1)[0], *name.split(".", 1)[1].rsplit(".", 1))]
        }
        for network, prefix in ((self.unet, "unet."), (self.text, "text.")):
            network.requires_grad_(False)
            targets = sorted(
                {theirs.rpartition(".")[0] for ours, theirs in self.names.items() if ours.startswith(prefix)}
            )
            if not targets:
                continue
            settings = peft.LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules=targets, use_dora=config.lora.kind == "dora"
            )
            peft.inject_adapter_in_model(settings, network)
        with torch.no_grad():
            for name, parameter in self.trainee.parameters.items():
                self.peer(name).copy_(parameter.reshape(self.peer(name).shape))

    def peer(self, name: str) -> nn.Parameter:
        """Theirs of a parameter of ours."""
        module, _, field = self.names[name].rpartition(".")
        network = self.unet if name.startswith("unet.") else self.text
        ending = {"down": "lora_A", "up": "lora_B", "dora_scale": "lora_magnitude_vector"}[field]
        found = network.get_submodule(f"{module}.{ending}.default")
        parameter: nn.Parameter = found.weight
        return parameter


def config(**tables: object) -> TrainConfig:
    fields: dict[str, object] = {
        "method": "lora",
        "output": "out",
        "steps": 1,
        "model": {"base": "x"},
        "lora": {"rank": RANK, "alpha": ALPHA, "targets": "transformers"},
        "optimiser": {"text_rate": 1e-4},
    }
    return TrainConfig.model_validate(fields | tables)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_loss_and_gradients_equal_those_of_peft_in_diffusers(
    kind: str, gamma: float | None, prediction: Prediction, tiny_checkpoint: Path, peers: ModuleType
) -> None:
    table = {"rank": RANK, "alpha": ALPHA, "kind": kind, "targets": "attention"}
    settings = config(lora=table, loss={"min_snr_gamma": gamma})
    both = Both(tiny_checkpoint, peers, settings, prediction)
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([3, 400, 950])
    batch = Batch(latents=latents, prompts=("a cat", "", "a dog, red"), weights=torch.ones(3))
    task = TuningTask(settings, both.checkpoint, both.trainee, Three())
    loss, _ = task.measure(batch, noise, timesteps)
    loss.backward()  # type: ignore[no-untyped-call]

    scheduler = diffusers.DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon" if prediction == "eps" else "v_prediction",
    )
    ids = torch.tensor([task.texts._split(prompt)[0].ids for prompt in batch.prompts])
    states = both.text(ids).last_hidden_state
    predicted = both.unet(scheduler.add_noise(latents, noise, timesteps), timesteps, states).sample
    wanted = noise if prediction == "eps" else scheduler.get_velocity(latents, noise, timesteps)
    if gamma is None:
        theirs = F.mse_loss(predicted, wanted)
    else:  # as train_text_to_image_lora.py
        snr = compute_snr(scheduler, timesteps)
        weights = torch.stack([snr, gamma * torch.ones_like(timesteps)], 1).min(1)[0]
        weights = weights / (snr if prediction == "eps" else snr + 1)
        theirs = (F.mse_loss(predicted, wanted, reduction="none").mean((1, 2, 3)) * weights).mean()
    theirs.backward()
    assert close(loss.detach(), theirs.detach())
    for name, parameter in both.trainee.parameters.items():
        gradient = both.peer(name).grad
        assert parameter.grad is not None
        assert gradient is not None
        wide = DORA if kind == "dora" else TOLERANCE
        assert close(parameter.grad, gradient.reshape(parameter.shape), wide), name
    assert any(name.startswith("text.") for name in both.trainee.parameters)


def test_diffusers_reads_the_file_as_it_was_trained(
    tiny_checkpoint: Path, peers: ModuleType, tmp_path: Path
) -> None:
    settings = config(lora={"rank": RANK, "alpha": ALPHA, "targets": "transformers", "dtype": "float32"})
    both = Both(tiny_checkpoint, peers, settings)
    path = tmp_path / "fur.safetensors"
    weights = {name: parameter.detach() for name, parameter in both.trainee.parameters.items()}
    both.trainee.export(path, weights, metadata_of(settings, both.checkpoint, "0" * 64, Three(), 1))
    plain = peers.peer_unet(load_checkpoint(tiny_checkpoint, device="cpu", dtype=torch.float32).unet)
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(str(tmp_path), weight_name=path.name)
    plain.load_lora_adapter(state, network_alphas=alphas, prefix="unet")
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, TINY.unet.context_dim)
    timesteps = torch.tensor([500, 20])
    with torch.no_grad():
        assert close(both.checkpoint.unet(x, timesteps, context), plain(x, timesteps, context).sample)
        assert not close(both.checkpoint.unet(x, timesteps, context), plain(x, timesteps, context * 0).sample)
    assert sum(key.startswith("text_encoder.") for key in state) == 2 * 6 * TINY.text.layers
