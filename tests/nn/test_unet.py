import dataclasses

import pytest
import torch
from torch import Tensor

from sfumato.nn.unet import UNet, UNetConfig

TINY = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_levels=(1,),
    head_dim=16,
    context_dim=24,
    groups=16,
)


def network(seed: int = 0, config: UNetConfig = TINY) -> UNet:
    """A network whose every branch does something; fresh ones predict zero."""
    unet = UNet(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05, generator=generator)
    return unet


def inputs(batch: int = 2, side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, side, side, generator=generator)
    context = torch.randn(batch, 7, 24, generator=generator)
    return x, torch.linspace(0, 999, batch), context


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (UNetConfig(), 859_520_964),
        (UNetConfig(context_dim=1024, head_dim=64, linear_projection=True), 865_910_724),
    ],
    ids=["SD 1.5", "SD 2.1"],
)
def test_parameters_are_as_many_as_in_the_published_networks(config: UNetConfig, count: int) -> None:
    with torch.device("meta"):
        unet = UNet(config)
    assert sum(parameter.numel() for parameter in unet.parameters()) == count
    assert not list(unet.buffers())


def test_modules_carry_the_names_of_published_checkpoints() -> None:
    with torch.device("meta"):
        names = UNet(UNetConfig()).state_dict()
    assert len(names) == 686
    assert {
        "time_embed.2.bias",
        "input_blocks.0.0.weight",
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.bias",
        "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight",
        "input_blocks.3.0.op.weight",
        "input_blocks.4.0.skip_connection.weight",
        "middle_block.1.proj_out.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.weight",
        "output_blocks.11.0.out_layers.3.weight",
        "out.2.weight",
    } <= names.keys()


def test_a_fresh_network_predicts_zero_and_learns_from_the_first_step() -> None:
    unet = UNet(TINY)
    out = unet(*inputs())
    assert not out.any()
    (out - 1).square().mean().backward()
    gradient = unet.out[2].weight.grad
    assert gradient is not None
    assert gradient.any()


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other() -> None:
    unet, (x, timesteps, context) = network(), inputs(batch=3)
    together = unet(x, timesteps, context)
    for row in range(3):
        part = slice(row, row + 1)
        alone = unet(x[part], timesteps[part], context[part])
        torch.testing.assert_close(
            together[part], alone, rtol=1e-4, atol=1e-5
        )  # kernels differ with the batch


@torch.no_grad()
def test_time_text_and_control_matter() -> None:
    unet, (x, timesteps, context) = network(), inputs()
    plain = unet(x, timesteps, context)
    control = tuple(torch.ones(1, 1, 1, 1) for _ in range(len(unet.input_blocks) + 1))
    for other in (
        unet(x, timesteps + 0.5, context),
        unet(x, timesteps, context + 1),
        unet(x, timesteps, context, control),
    ):
        assert not torch.allclose(other, plain, atol=1e-4)


@torch.no_grad()
def test_control_of_zeros_changes_nothing() -> None:
    unet, (x, timesteps, context) = network(), inputs()
    control = tuple(torch.zeros(1, 1, 1, 1) for _ in range(len(unet.input_blocks) + 1))
    assert torch.equal(unet(x, timesteps, context, control), unet(x, timesteps, context))


def test_checkpointing_gives_the_same_gradients() -> None:
    unet = network()
    gradients = []
    for checkpointing in (False, True):
        unet.checkpointing = checkpointing
        unet.zero_grad()
        unet(*inputs()).square().mean().backward()
        gradients.append([parameter.grad for parameter in unet.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("side", [8, 7])
@torch.no_grad()
def test_channels_last_gives_the_same_numbers_and_stays_channels_last(side: int) -> None:
    unet, (x, timesteps, context) = network(), inputs(side=side)
    plain = unet(x, timesteps, context)
    unet = unet.to(memory_format=torch.channels_last)
    out = unet(x.contiguous(memory_format=torch.channels_last), timesteps, context)
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)], ids=str)
@torch.no_grad()
def test_16_bit_weights_give_nearly_the_same(dtype: torch.dtype, tolerance: float) -> None:
    """Twenty roundings of half a last place: 2^-9 each in bfloat16, 2^-12 in float16."""
    unet, (x, timesteps, context) = network(), inputs()
    wanted = unet(x, timesteps, context)
    out = unet.to(dtype)(x.to(dtype), timesteps, context.to(dtype))
    assert out.dtype == dtype
    assert (out.float() - wanted).norm() / wanted.norm() < tolerance


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"in_channels": 0}, "in_channels=0"),
        ({"model_channels": 33}, "model_channels=33"),
        ({"groups": 24}, "groups=24"),
        ({"channel_mult": ()}, "one width a level"),
        ({"channel_mult": (1, 0)}, "0 channels"),
        ({"attention_levels": (2,)}, r"attention_levels=\(2,\)"),
        ({"attention_levels": (1, 1)}, r"attention_levels=\(1, 1\)"),
        ({"head_dim": 24}, "head_dim=24"),
        ({"head_dim": None, "heads": 5}, "heads=5"),
        ({"head_dim": 0}, "head_dim=0"),
    ],
    ids=str,
)
def test_configurations_that_make_no_network_are_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(TINY, **change)
