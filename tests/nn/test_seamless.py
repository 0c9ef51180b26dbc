import pytest
import torch
from tests.conftest import TINY
from torch import nn

from sfumato.nn.seamless import seamless
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL


def state(network: nn.Module) -> list[object]:
    modes = [each.padding_mode for each in network.modules() if isinstance(each, nn.Conv2d)]
    return [*modes, *(value.clone() for value in network.state_dict().values())]


@pytest.mark.parametrize("shift", [(0, 8), (16, 0), (24, -8)])
@torch.no_grad()
def test_a_shifted_picture_gives_shifted_latents_and_back(shift: tuple[int, int]) -> None:
    """Equivariance under every shift by a latent is what having no edge means."""
    torch.manual_seed(0)
    vae = AutoencoderKL(TINY.vae).double().eval()
    image = torch.rand(1, 3, 48, 64, dtype=torch.float64)
    by_latents = [pixels // 8 for pixels in shift]
    with seamless(vae):
        mean, _ = vae.encode(image)
        moved, _ = vae.encode(image.roll(shift, (2, 3)))
        torch.testing.assert_close(moved, mean.roll(by_latents, (2, 3)))
        decoded = vae.decode(mean.roll(by_latents, (2, 3)))
        torch.testing.assert_close(decoded, vae.decode(mean).roll(shift, (2, 3)))
    moved, _ = vae.encode(image.roll(shift, (2, 3)))
    assert (moved - mean.roll(by_latents, (2, 3))).abs().max() > 1e-3  # with edges it is not so


@torch.no_grad()
def test_a_network_that_predicts_noise_knows_no_edge_either() -> None:
    torch.manual_seed(0)
    unet = UNet(TINY.unet).double().eval()
    nn.init.normal_(unet.out[2].weight)  # zero before training
    x, context = torch.randn(1, 4, 12, 8).double(), torch.randn(1, 77, 16).double()
    with seamless(unet):
        predicted = unet(x, torch.tensor([500.0]), context)
        moved = unet(x.roll((2, 4), (2, 3)), torch.tensor([500.0]), context)
    torch.testing.assert_close(moved, predicted.roll((2, 4), (2, 3)))


@pytest.mark.parametrize("fails", [False, True])
def test_it_comes_off_again(fails: bool) -> None:
    vae = AutoencoderKL(TINY.vae)
    vae.encoder.conv_in.padding_mode = "reflect"  # somebody's own choice
    before = state(vae)
    try:
        with seamless(vae):
            assert {each.padding_mode for each in vae.modules() if isinstance(each, nn.Conv2d)} == {
                "circular"
            }
            if fails:
                raise KeyError
    except KeyError:
        pass
    with seamless(vae, wanted=False):
        after = state(vae)
    assert all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(before, after, strict=True)
    )
