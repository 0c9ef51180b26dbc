"""Our networks compute what diffusers and transformers compute, with the same weights.

TOLERANCE is that of float32 sums taken in another order: a rounding is 6e-8, some hundreds of them follow
each other, and errors of single roundings largely cancel. A wrong epsilon, activation or order of channels
shows at 1e-3 or more.
"""

from dataclasses import replace
from types import ModuleType

import pytest
import torch

from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import AutoencoderKL, VAEConfig

TOLERANCE = 1e-5

SD1 = UNetConfig(model_channels=32, groups=16, context_dim=48, heads=8)
SD2 = UNetConfig(model_channels=64, context_dim=80, head_dim=64, linear_projection=True)
MINI = UNetConfig(
    model_channels=48,
    channel_mult=(1, 3, 2),
    res_blocks=1,
    attention_levels=(1,),
    head_dim=24,
    context_dim=32,
    groups=16,
)
UNETS = {
    "SD 1": SD1,
    "SD 1 with mask": replace(SD1, in_channels=9),
    "SD 1 edit": replace(SD1, in_channels=8),
    "SD 2": SD2,
    "SD 2 with depth": replace(SD2, in_channels=5),
    "SD 2 with mask": replace(SD2, in_channels=9),
    "small": MINI,
    "small, three blocks a level": replace(MINI, res_blocks=3, attention_levels=(0, 2)),
}
VAES = {
    "SD": VAEConfig(channels=(32, 64, 96, 96)),
    "small": VAEConfig(channels=(16, 32, 32, 32), res_blocks=1, groups=16, latent_channels=6),
}
CLIP_L = CLIPTextConfig(vocab_size=300, width=64, layers=4, heads=4)
OPEN_CLIP = replace(CLIP_L, activation="gelu", skip="penultimate", width=128, heads=2)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 7)], ids=str)
@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
@torch.no_grad()
def test_unet_equals_diffusers(config: UNetConfig, size: tuple[int, int], peers: ModuleType) -> None:
    ours = peers.randomised(UNet(config), 0)
    theirs = peers.peer_unet(ours)
    x, context = noise(2, config.in_channels, *size), noise(2, 11, config.context_dim, seed=2)
    timesteps = torch.tensor([3.0, 741.25])
    wanted = theirs(x, timesteps, context).sample
    assert peers.relative_error(ours(x, timesteps, context), wanted) <= TOLERANCE


@pytest.mark.parametrize("config", [SD1, MINI], ids=["SD 1", "small"])
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


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("config", VAES.values(), ids=VAES)
@torch.no_grad()
def test_autoencoder_equals_diffusers(
    config: VAEConfig, memory_format: torch.memory_format, peers: ModuleType
) -> None:
    ours = peers.randomised(AutoencoderKL(config), 0)
    theirs = peers.peer_vae(ours)
    ours = ours.to(memory_format=memory_format)
    image = noise(2, 3, 48, 32).contiguous(memory_format=memory_format)
    mean, logvar = ours.encode(image)
    wanted = theirs.encode(image).latent_dist
    assert peers.relative_error(mean, wanted.mean) <= TOLERANCE
    assert peers.relative_error(logvar, wanted.logvar) <= TOLERANCE
    latents = noise(2, config.latent_channels, 6, 5, seed=2)
    assert peers.relative_error(ours.decode(latents), theirs.decode(latents).sample) <= TOLERANCE


@pytest.mark.parametrize("tokens", [77, 9])
@pytest.mark.parametrize("clip_skip", [1, 2, 4])
@torch.no_grad()
def test_clip_l_equals_transformers_at_every_clip_skip(
    clip_skip: int, tokens: int, peers: ModuleType
) -> None:
    ours = peers.randomised(CLIPText(CLIP_L), 0)
    theirs = peers.peer_text(ours)
    ids = torch.randint(0, 300, (2, tokens), generator=torch.Generator().manual_seed(1))
    states = theirs(ids, output_hidden_states=True)
    norm = getattr(theirs, "text_model", theirs).final_layer_norm
    wanted = states.last_hidden_state if clip_skip == 1 else norm(states.hidden_states[-clip_skip])
    assert peers.relative_error(ours(ids, clip_skip), wanted) <= TOLERANCE


@pytest.mark.parametrize("clip_skip", [1, 2])
@torch.no_grad()
def test_open_clip_equals_the_penultimate_layer_whatever_the_clip_skip(
    clip_skip: int, peers: ModuleType
) -> None:
    ours = peers.randomised(CLIPText(OPEN_CLIP), 0)
    theirs = peers.peer_text(ours, extra_layers=1)
    ids = torch.randint(0, 300, (2, 77), generator=torch.Generator().manual_seed(1))
    states = theirs(ids, output_hidden_states=True)
    norm = getattr(theirs, "text_model", theirs).final_layer_norm
    assert peers.relative_error(ours(ids, clip_skip), norm(states.hidden_states[-2])) <= TOLERANCE
