"""The same networks in diffusers and transformers, with our weights in them.

Peers for parity and for speed; used by the benchmarks and by `tests/parity`.
"""

from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL as DiffusersVAE
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig as TransformersTextConfig
from transformers import CLIPTextModel

from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.weights import keymaps

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def randomised(network: M, seed: int, gain: float = 1.0) -> M:
    """Draw every parameter, those that start at zero too.

    Args:
        network: changed in place.
        seed: of the draw.
        gain: about the size of activations; where it is small the epsilons of norms show.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        parameter.normal_(generator=generator)
        if "embedding" in name:
            parameter.mul_(gain)
        elif parameter.ndim > 1:
            parameter.mul_(gain * parameter[0].numel() ** -0.5)
        else:
            parameter.mul_(0.1 * gain)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return network.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Measure ‖a - b‖ / ‖b‖ in double precision."""
    a, b = ours.double(), theirs.double()
    return float((a - b).norm() / b.norm())


def peer_unet(network: UNet) -> Any:
    """Build diffusers' U-Net of the same configuration on the same storage as ours."""
    config = network.config
    levels = range(len(config.channel_mult))
    attended = [level in config.attention_levels for level in levels]
    # `attention_head_dim` is a number of heads: a historical misnomer that its authors keep.
    heads = tuple(config.heads_of(width) for width in config.widths)
    with torch.device("meta"):
        peer = UNet2DConditionModel(  # type: ignore[no-untyped-call]
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            block_out_channels=config.widths,
            down_block_types=tuple("CrossAttnDownBlock2D" if on else "DownBlock2D" for on in attended),
            up_block_types=tuple("CrossAttnUpBlock2D" if on else "UpBlock2D" for on in reversed(attended)),
            layers_per_block=config.res_blocks,
            attention_head_dim=heads,
            cross_attention_dim=config.context_dim,
            use_linear_projection=config.linear_projection,
            norm_num_groups=config.groups,
            time_embedding_dim=config.time_dim,
        )
    return _filled(peer, keymaps.to_theirs(keymaps.unet_table(config), network.state_dict()))


def peer_vae(network: AutoencoderKL) -> Any:
    """Build diffusers' autoencoder of the same configuration on the same storage as ours."""
    config = network.config
    levels = len(config.channels)
    with torch.device("meta"):
        peer = DiffusersVAE(  # type: ignore[no-untyped-call]
            block_out_channels=config.channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=config.res_blocks,
            latent_channels=config.latent_channels,
            norm_num_groups=config.groups,
            scaling_factor=config.scale_factor,
        )
    return _filled(peer, keymaps.to_theirs(keymaps.vae_table(config), network.state_dict()))


def peer_text(network: CLIPText, *, extra_layers: int = 0) -> Any:
    """Build transformers' text encoder of the same configuration on the same storage as ours.

    Args:
        network: ours.
        extra_layers: further layers of random weights at the end, as the published encoder of SD 2.x has one
            that it does not use.
    """
    config = network.config
    peer = CLIPTextModel(
        TransformersTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers + extra_layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_length,
            hidden_act=config.activation,
        )
    )
    ours = keymaps.to_theirs(keymaps.clip_table(config), network.state_dict())
    names = peer.state_dict()
    if "text_model.final_layer_norm.weight" not in names:  # from 5.6 on
        ours = {name.removeprefix("text_model."): tensor for name, tensor in ours.items()}
    return _filled(peer, {name: tensor for name, tensor in names.items() if name not in ours} | ours)


def final_norm(peer: Any) -> Any:
    """Find the last layer norm of transformers' text encoder, which versions before 5.6 nest deeper."""
    return getattr(peer, "text_model", peer).final_layer_norm


def _filled(peer: Any, tensors: dict[str, Tensor]) -> Any:
    peer.load_state_dict(tensors, strict=True, assign=True)
    return peer.eval()
