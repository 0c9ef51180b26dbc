"""Our networks compute what diffusers and transformers compute, with the same weights.

TOLERANCE is that of float32 sums taken in another order: a rounding is 6e-8, some hundreds of them follow
each other, and errors of single roundings largely cancel. Wrong activations, paddings or orders of channels
show at 1e-3 or more; wrong epsilons of norms where activations are small, hence the GAINS.

Configurations are the rows of MODELS, every one, at reduced width.
"""

from dataclasses import replace
from types import ModuleType

import pytest
import torch

from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.weights.specs import MODELS

TOLERANCE = 1e-5

GAINS = [1.0, 0.05]


def narrow_unet(config: UNetConfig) -> UNetConfig:
    head_dim = config.head_dim and 16
    return replace(config, model_channels=32, groups=16, context_dim=48, head_dim=head_dim)


def narrow_text(config: CLIPTextConfig) -> CLIPTextConfig:
    return replace(config, vocab_size=300, width=64, layers=4, heads=4)


MINI = UNetConfig(
    model_channels=48,
    channel_mult=(1, 3, 2),
    res_blocks=1,
    attention_levels=(1,),
    head_dim=24,
    context_dim=32,
    groups=16,
)
SMALL_UNETS = {MINI: "small", replace(MINI, res_blocks=3, attention_levels=(0, 2)): "small, three blocks"}
# By configuration, so that families of equal networks are compared once.
UNETS = {narrow_unet(spec.unet): family for family, spec in MODELS.items()} | SMALL_UNETS
TEXTS = {narrow_text(spec.text): family for family, spec in MODELS.items()}
VAES = {
    "SD": VAEConfig(channels=(32, 64, 64, 64)),
    "small": VAEConfig(channels=(16, 32, 32, 32), res_blocks=1, groups=16, latent_channels=6),
}


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "gain"), [((9, 14), 1.0), ((8, 8), 0.05)], ids=str)
@pytest.mark.parametrize("config", UNETS, ids=UNETS.values())
@torch.no_grad()
def test_unet_equals_diffusers(
    config: UNetConfig, size: tuple[int, int], gain: float, peers: ModuleType
) -> None:
    ours = peers.randomised(UNet(config), 0, gain)
    theirs = peers.peer_unet(ours)
    x, context = noise(2, config.in_channels, *size), noise(2, 11, config.context_dim, seed=2)
    timesteps = torch.tensor([3.0, 741.25])
    wanted = theirs(x, timesteps, context).sample
    assert peers.relative_error(ours(x, timesteps, context), wanted) <= TOLERANCE


@pytest.mark.parametrize("config", [narrow_unet(MODELS["sd-1.x"].unet), MINI], ids=["sd-1.x", "small"])
@torch.no_grad()
def test_unet_adds_control_residuals_as_diffusers_does(config: UNetConfig, peers: ModuleType) -> None:
    ours = peers.randomised(UNet(config), 0)
    theirs = peers.peer_unet(ours)
    x, context = noise(1, 4, 16, 16), noise(1, 11, config.context_dim, seed=2)
    timesteps = torch.tensor([500])
    shapes: list[torch.Size] = []
    hooks = [
        stage.register_forward_hook(lambda *args: shapes.append(args[-1].shape))
        for stage in (*ours.input_blocks, ours.middle_block)
    ]
    ours(x, timesteps, context)
    for hook in hooks:
        hook.remove()
    control = tuple(noise(*shape, seed=3 + n) for n, shape in enumerate(shapes))
    wanted = theirs(
        x,
        timesteps,
        context,
        down_block_additional_residuals=control[:-1],
        mid_block_additional_residual=control[-1],
    ).sample
    assert peers.relative_error(ours(x, timesteps, context, control), wanted) <= TOLERANCE


@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("config", VAES.values(), ids=VAES)
@torch.no_grad()
def test_autoencoder_equals_diffusers(
    config: VAEConfig, memory_format: torch.memory_format, gain: float, peers: ModuleType
) -> None:
    ours = peers.randomised(AutoencoderKL(config), 0, gain)
    theirs = peers.peer_vae(ours)
    ours = ours.to(memory_format=memory_format)
    image = noise(1, 3, 32, 48).contiguous(memory_format=memory_format)
    mean, logvar = ours.encode(image)
    wanted = theirs.encode(image).latent_dist
    assert peers.relative_error(mean, wanted.mean) <= TOLERANCE
    assert peers.relative_error(logvar, wanted.logvar) <= TOLERANCE
    latents = noise(1, config.latent_channels, 4, 5, seed=2)
    assert peers.relative_error(ours.decode(latents), theirs.decode(latents).sample) <= TOLERANCE


@pytest.mark.parametrize(("tokens", "gain"), [(77, 1.0), (9, 0.05)])
@pytest.mark.parametrize("clip_skip", [1, 2, 4])
@pytest.mark.parametrize("config", TEXTS, ids=TEXTS.values())
@torch.no_grad()
def test_text_encoder_equals_transformers_at_every_clip_skip(
    config: CLIPTextConfig, clip_skip: int, tokens: int, gain: float, peers: ModuleType
) -> None:
    """An encoder built without its last layer stands for the published one at its last state but one."""
    penultimate = config.skip == "penultimate"
    ours = peers.randomised(CLIPText(config), 0, gain)
    theirs = peers.peer_text(ours, extra_layers=int(penultimate))
    ids = torch.randint(0, config.vocab_size, (2, tokens), generator=torch.Generator().manual_seed(1))
    states = theirs(ids, output_hidden_states=True)
    from_the_end = 2 if penultimate else clip_skip
    if from_the_end == 1:
        wanted = states.last_hidden_state
    else:
        wanted = peers.final_norm(theirs)(states.hidden_states[-from_the_end])
    assert peers.relative_error(ours(ids, clip_skip), wanted) <= TOLERANCE
