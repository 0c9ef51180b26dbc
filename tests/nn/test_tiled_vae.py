"""The tiled autoencoder is the autoencoder: on a photograph, in every way of cutting it up."""

import pytest
import torch
from skimage import data
from torch import Tensor

from sfumato.nn.seamless import seamless
from sfumato.nn.tiled_vae import decode_tiled, encode_tiled
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.pipeline.models import embedded_model
from sfumato.weights.load import load_checkpoint

SHADE = 2 / 255  # of brightness from -1 to 1: one 8-bit step
EVERY, ONLY_SMALL = 10**9, 0  # numbers in a map that is held


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return load_checkpoint(embedded_model(), device=torch.device("cpu"), dtype=torch.float32).vae


def photograph(name: str) -> Tensor:
    pixels = torch.from_numpy(getattr(data, name)()[40:168, 120:296].copy())
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize("held", [EVERY, 128 * 176 * 16, ONLY_SMALL])
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@torch.no_grad()
def test_tiles_of_a_photograph_have_no_seam(vae: AutoencoderKL, name: str, held: int) -> None:
    """The bound asked for is 2/255; a tenth of it leaves room for other pictures."""
    image = photograph(name)
    mean, logvar = vae.encode(image)
    tiled_mean, tiled_logvar = encode_tiled(vae, image, tile=64, held=held)
    assert (tiled_mean - mean).abs().max() < 1e-3 * mean.std()  # sums of float32 in another order
    assert (tiled_logvar - logvar).abs().max() < 1e-3
    decoded = decode_tiled(vae, mean, tile=64, held=held)
    assert (decoded - vae.decode(mean)).abs().max() < 2 * SHADE / 10


CONFIGS = {
    "SD": VAEConfig(channels=(8, 16, 16, 24), groups=4),
    "deep": VAEConfig(channels=(8, 8, 8, 16, 16), groups=4, res_blocks=1, latent_channels=3),
    "shallow": VAEConfig(channels=(8, 16), groups=4),
    "flat": VAEConfig(channels=(8,), groups=4, res_blocks=1),
}


@pytest.mark.parametrize("held", [EVERY, ONLY_SMALL])
@pytest.mark.parametrize("tile", [16, 24, 1000])
@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_every_size_of_tile_gives_the_same(config: VAEConfig, wraps: bool, tile: int, held: int) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(config).double().eval()  # in double precision the order of sums does not show
    image = torch.rand(2, 3, 48, 64, dtype=torch.float64) * 2 - 1
    image[:, :, :24] /= 10  # no tile has the statistics of the whole
    with seamless(vae, wraps):
        mean, logvar = vae.encode(image)
        torch.testing.assert_close(
            encode_tiled(vae, image, tile=tile, held=held), (mean, logvar), atol=1e-6, rtol=1e-6
        )
        torch.testing.assert_close(
            decode_tiled(vae, mean, tile=tile, held=held), vae.decode(mean), atol=1e-6, rtol=1e-6
        )


@torch.no_grad()
def test_no_layer_sees_more_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = AutoencoderKL(CONFIGS["SD"])
    sides: list[int] = []
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, x: Tensor) -> Tensor:
        sides.append(max(x.shape[2:]))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    decode_tiled(vae, torch.randn(1, 4, 16, 16), tile=32, held=ONLY_SMALL)
    assert max(sides) <= 32 + 2 * 6 * 4  # the last part's margin is six units of four pixels


def test_windows_of_a_map_cover_it_once() -> None:
    from sfumato.nn.tiled_vae import _tiles

    for height, width, side in ((1, 1, 1), (7, 5, 3), (64, 96, 32), (65, 97, 32)):
        seen = torch.zeros(1, 1, height, width)
        for tile in _tiles(height, width, side):
            tile.of(seen, height).add_(1)
            assert tile.bottom - tile.top <= side
        assert seen.eq(1).all()
