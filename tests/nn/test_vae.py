import dataclasses
import weakref

import pytest
import torch

from sfumato.nn.vae import LOGVAR_RANGE, AutoencoderKL, VAEConfig

TINY = VAEConfig(channels=(16, 32, 32, 48), res_blocks=1, groups=16)


def network() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(TINY).eval()


def picture(*size: int) -> torch.Tensor:
    return torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_parameters_are_as_many_as_in_the_published_network() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(VAEConfig())
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863
    assert not list(vae.buffers())


def test_modules_carry_the_names_of_published_checkpoints() -> None:
    with torch.device("meta"):
        names = AutoencoderKL(VAEConfig()).state_dict()
    assert len(names) == 248
    assert {
        "encoder.down.0.block.1.norm2.weight",
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down.2.downsample.conv.weight",
        "encoder.mid.attn_1.proj_out.weight",
        "decoder.mid.block_2.conv1.bias",
        "decoder.up.0.block.2.conv2.weight",
        "decoder.up.3.upsample.conv.weight",
        "decoder.norm_out.bias",
        "quant_conv.weight",
        "post_quant_conv.weight",
    } <= names.keys()


@torch.no_grad()
def test_pictures_shrink_by_the_reduction_and_come_back_at_their_size() -> None:
    vae = network()
    mean, logvar = vae.encode(picture(40, 24))
    assert TINY.reduction == 8
    assert mean.shape == logvar.shape == (2, 4, 5, 3)
    assert vae.decode(mean).shape == (2, 3, 40, 24)


@torch.no_grad()
def test_the_variance_stays_finite() -> None:
    vae = network()
    for sign, bound in zip((-1, 1), LOGVAR_RANGE, strict=True):
        vae.quant_conv.bias[4:] = sign * 1e4
        assert vae.encode(picture(16, 16))[1].unique().item() == bound


@torch.no_grad()
def test_channels_last_gives_the_same_numbers_and_stays_channels_last() -> None:
    vae, x = network(), picture(32, 32)
    mean, _ = vae.encode(x)
    image = vae.decode(mean)
    vae = vae.to(memory_format=torch.channels_last)
    torch.testing.assert_close(vae.encode(x)[0], mean, rtol=1e-4, atol=1e-5)
    out = vae.decode(mean)
    torch.testing.assert_close(out, image, rtol=1e-4, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)], ids=str)
@torch.no_grad()
def test_16_bit_weights_give_nearly_the_same(dtype: torch.dtype, tolerance: float) -> None:
    """Twenty roundings of half a last place: 2^-9 each in bfloat16, 2^-12 in float16."""
    vae, x = network(), picture(32, 32)
    mean, _ = vae.encode(x)
    image = vae.decode(mean)
    vae = vae.to(dtype)
    for out, wanted in ((vae.encode(x.to(dtype))[0], mean), (vae.decode(mean.to(dtype)), image)):
        assert out.dtype == dtype
        assert (out.float() - wanted).norm() / wanted.norm() < tolerance


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"channels": ()}, "one width a level"),
        ({"groups": 32}, "groups=32"),
        ({"res_blocks": 0}, "res_blocks=0"),
        ({"latent_channels": -1}, "latent_channels=-1"),
        ({"scale_factor": 0.0}, r"scale_factor=0\.0"),
    ],
    ids=str,
)
def test_configurations_that_make_no_network_are_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(TINY, **change)


@torch.no_grad()
def test_decoding_holds_no_map_of_an_earlier_block() -> None:
    vae = network()
    held: list[weakref.ref[torch.Tensor]] = []

    def look(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert not any(reference() is not None for reference in held)
        held.append(weakref.ref(given[0]))

    blocks = [block for level in reversed(vae.decoder.up) for block in level.block]
    for block in blocks:
        block.register_forward_pre_hook(look)
    vae.decode(torch.randn(1, TINY.latent_channels, 4, 4))
    assert len(held) == len(blocks)
