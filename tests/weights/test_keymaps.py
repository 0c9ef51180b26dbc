"""Tables of names, against what diffusers' and transformers' own classes and converters say."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as oracle
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from sfumato.weights import keymaps

UNETS = {
    "SD shape": SimpleNamespace(channel_mult=(1, 2, 4, 4), res_blocks=2, attention_levels=(0, 1, 2)),
    "mini shape": SimpleNamespace(channel_mult=(1, 3, 5), res_blocks=1, attention_levels=(1, 2)),
}
VAES = {
    "SD shape": SimpleNamespace(channels=(32, 64, 96, 96), res_blocks=2),
    "mini shape": SimpleNamespace(channels=(32, 64), res_blocks=1),
}


def diffusers_unet(config: SimpleNamespace) -> UNet2DConditionModel:
    levels = len(config.channel_mult)
    kinds = [level in config.attention_levels for level in range(levels)]
    return UNet2DConditionModel(
        block_out_channels=tuple(32 * m for m in config.channel_mult),
        layers_per_block=config.res_blocks,
        down_block_types=tuple("CrossAttnDownBlock2D" if kind else "DownBlock2D" for kind in kinds),
        up_block_types=tuple("CrossAttnUpBlock2D" if kind else "UpBlock2D" for kind in reversed(kinds)),
        cross_attention_dim=16,
        attention_head_dim=2,
    )


def diffusers_vae(config: SimpleNamespace) -> AutoencoderKL:
    levels = len(config.channels)
    return AutoencoderKL(
        block_out_channels=config.channels,
        layers_per_block=config.res_blocks,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
    )


def text_model(layers: int = 2) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=50,
        bos_token_id=48,
        eos_token_id=49,
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
    )
    return CLIPTextModel(config)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", UNETS)
def test_the_unet_table_names_every_tensor_of_diffusers_and_goes_both_ways_bit_exactly(name: str) -> None:
    table = keymaps.unet_table(UNETS[name])
    theirs = diffusers_unet(UNETS[name]).state_dict()
    ours = keymaps.to_ours(table, theirs)
    assert set(ours) <= {row.ours for row in table}
    assert same(keymaps.to_theirs(table, ours), theirs)


def test_the_unet_table_says_what_diffusers_own_converter_says() -> None:
    config = UNETS["SD shape"]
    table = keymaps.unet_table(config)
    theirs = diffusers_unet(config).state_dict()
    ours = keymaps.to_ours(table, theirs)
    single_file = {f"model.diffusion_model.{k}": v for k, v in ours.items()}
    settings = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None}
    assert same(oracle.convert_ldm_unet_checkpoint(single_file, settings), theirs)


@pytest.mark.parametrize("name", VAES)
def test_the_vae_table_names_every_tensor_of_diffusers_and_goes_both_ways_bit_exactly(name: str) -> None:
    table = keymaps.vae_table(VAES[name])
    theirs = diffusers_vae(VAES[name]).state_dict()
    ours = keymaps.to_ours(table, theirs)
    assert set(ours) <= {row.ours for row in table}
    assert ours["encoder.mid.attn_1.q.weight"].ndim == 4
    assert same(keymaps.to_theirs(table, ours), theirs)


def test_the_vae_table_says_what_diffusers_own_converter_says() -> None:
    config = VAES["SD shape"]
    theirs = diffusers_vae(config).state_dict()
    ours = keymaps.to_ours(keymaps.vae_table(config), theirs)
    single_file = {f"first_stage_model.{k}": v for k, v in ours.items()}
    settings = {"down_block_types": (None,) * 4, "up_block_types": (None,) * 4}
    assert same(oracle.convert_ldm_vae_checkpoint(single_file, settings), theirs)


def test_old_names_of_the_vaes_attention_are_read() -> None:
    config = VAES["mini shape"]
    theirs = diffusers_vae(config).state_dict()
    spelling = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in theirs.items():
        for new, before in spelling.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        old[name] = tensor
    table = keymaps.vae_table(config)
    assert old.keys() != theirs.keys()
    assert same(keymaps.to_ours(table, old), keymaps.to_ours(table, theirs))


def test_the_clip_table_reads_both_spellings_of_transformers() -> None:
    table = keymaps.clip_table(SimpleNamespace(layers=2))
    bare = {k.removeprefix("text_model."): v for k, v in text_model().state_dict().items()}
    long = {f"text_model.{k}": v for k, v in bare.items()}
    assert {row.ours for row in table} == long.keys()
    assert same(keymaps.to_ours(table, bare), long)
    assert same(keymaps.to_ours(table, long), long)
    assert same(keymaps.to_theirs(table, long), long)


def test_the_open_clip_table_goes_both_ways_bit_exactly_and_agrees_with_diffusers() -> None:
    table = keymaps.open_clip_table(SimpleNamespace(layers=2))
    model = text_model()
    bare = {k.removeprefix("text_model."): torch.randn_like(v) for k, v in model.state_dict().items()}
    ours = {f"text_model.{k}": v for k, v in bare.items()}
    theirs = keymaps.to_theirs(table, ours)
    assert theirs["transformer.resblocks.1.attn.in_proj_weight"].shape == (36, 12)
    assert same(keymaps.to_ours(table, theirs), ours)
    single_file = {f"cond_stage_model.model.{k}": v for k, v in theirs.items()}
    holder = SimpleNamespace(config=SimpleNamespace(hidden_size=12))
    converted = oracle.convert_open_clip_checkpoint(holder, single_file)
    assert same({f"text_model.{k.removeprefix('text_model.')}": v for k, v in converted.items()}, ours)


def test_unknown_names_stay_so_that_a_strict_load_can_name_them() -> None:
    table = keymaps.vae_table(VAES["mini shape"])
    stray = {"no.such.weight": torch.zeros(1)}
    assert keymaps.to_ours(table, stray) == stray
    assert keymaps.to_theirs(table, stray) == stray


@pytest.mark.parametrize(
    "table",
    [keymaps.unet_table(UNETS["SD shape"]), keymaps.vae_table(VAES["SD shape"])],
    ids=["unet", "vae"],
)
def test_no_name_stands_in_a_table_twice(table: keymaps.Table) -> None:
    assert len({row.ours for row in table}) == len(table) == len({row.theirs for row in table})
