import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sfumato.errors import OutOfMemoryError
from sfumato.nn.tiled_vae import decode_tiled
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.pipeline import memory
from sfumato.weights.specs import MODELS


class Live(TorchDispatchMode):
    """Counts the bytes of all storages made under it that are still alive, and their peak."""

    def __init__(self, *existing: Tensor) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.existing = {tensor.untyped_storage()._cdata for tensor in existing}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive and key not in self.existing:
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key, None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


def measured(network: nn.Module, *inputs: Tensor) -> int:
    with torch.no_grad(), Live(*network.parameters(), *inputs) as live:
        network(*inputs)
    return live.peak


UNETS = {
    "small": UNetConfig(model_channels=64, channel_mult=(1, 2, 3), attention_levels=(1, 2), res_blocks=1),
    "flat": UNetConfig(model_channels=32, channel_mult=(1, 2), attention_levels=(), res_blocks=2),
    "wide": UNetConfig(model_channels=96, channel_mult=(1, 2, 4, 4), context_dim=96),
}


@pytest.mark.parametrize("name", UNETS)
def test_the_unet_is_predicted_within_a_quarter(name: str) -> None:
    config = UNETS[name]
    x, t, context = torch.randn(2, 4, 24, 16), torch.zeros(2), torch.randn(2, 77, config.context_dim)
    peak = measured(UNet(config), x, t, context)
    assert 0.75 < memory.unet_elements(config, 2, 24, 16) * 4 / peak < 1.25


@pytest.mark.parametrize("channels", [(32, 64, 128, 128), (64, 128)])
def test_the_decoder_is_predicted_within_a_quarter(channels: tuple[int, ...]) -> None:
    config = VAEConfig(channels=channels)
    vae = AutoencoderKL(config)
    vae.forward = vae.decode  # type: ignore[method-assign]
    peak = measured(vae, torch.randn(2, 4, 24, 16))
    assert 0.75 < memory.vae_elements(config, 2, 24, 16) * 4 / peak < 1.25


@pytest.mark.parametrize("name", MODELS)
def test_more_pictures_and_pixels_need_more(name: str) -> None:
    spec = MODELS[name]

    def need(side: int, pictures: int, dtype: torch.dtype = torch.float32) -> int:
        return memory.activation_bytes(
            spec.unet, spec.vae, (4, side, side), rows=2 * pictures, pictures=pictures, dtype=dtype
        )

    assert need(64, 1) < need(64, 2) < need(128, 2)
    assert need(64, 1, torch.bfloat16) < need(64, 1)


def test_what_cannot_fit_is_refused_with_the_numbers() -> None:
    memory.require(5, 5, "this", "do that")
    with pytest.raises(OutOfMemoryError, match=r"this needs about 3\.0 GiB, 512 MiB are free; do that"):
        memory.require(3 * 2**30, 2**29, "this", "do that")


def test_some_memory_is_available_here() -> None:
    assert 0 < memory.available_bytes(torch.device("cpu")) < 2**50


def test_weights_are_counted_in_their_own_width() -> None:
    assert memory.weight_bytes(nn.Linear(4, 2), nn.Linear(4, 2).bfloat16()) == 10 * 4 + 10 * 2


@pytest.mark.parametrize("held", [0, 10**9])
@pytest.mark.parametrize("tile", [64, 128])
def test_the_decoder_in_tiles_takes_no_more_than_predicted(tile: int, held: int) -> None:
    config = VAEConfig(channels=(16, 32, 64, 64), groups=16)
    vae = AutoencoderKL(config)
    height, width = 40, 48
    held = min(held, 32 * 64 * height * width)  # the largest map there is
    vae.forward = lambda x: decode_tiled(vae, x, tile=tile, held=held)  # type: ignore[method-assign]
    peak = measured(vae, torch.randn(1, 4, height, width)) / 4
    predicted = memory.tiled_vae_elements(config, 1, height, width, memory.Tiling(tile, held))
    assert 0.4 < peak / predicted < 1.1  # not every map that may be held is as large


def test_tiles_are_for_what_does_not_fit() -> None:
    config = MODELS["sd-1.x"].vae

    def chosen(side: int, gib: float) -> memory.Tiling | None:
        return memory.choose_tiling(
            config, 1, side // 8, side // 8, dtype=torch.float32, available=int(gib * 2**30)
        )

    assert chosen(512, 4) is None
    assert chosen(2048, 30) is None
    assert chosen(4096, 1000) is not None  # more numbers in a map than kernels count
    much, little, least = chosen(2048, 10), chosen(2048, 2.5), chosen(2048, 0.1)
    assert much is not None
    assert little is not None
    assert much.held > little.held
    assert least == memory.Tiling(256, 0)  # does its best; whether it fits was asked before


def test_a_request_too_large_for_one_decoding_still_fits_in_tiles() -> None:
    spec = MODELS["sd-1.x"]
    whole = memory.vae_elements(spec.vae, 1, 256, 256) * 2 * memory.SLACK
    need = memory.activation_bytes(
        spec.unet, spec.vae, (4, 256, 256), rows=1, pictures=1, dtype=torch.bfloat16
    )
    assert need < whole / 2
