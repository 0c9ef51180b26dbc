"""The benchmarks compare the same networks."""

import torch

from benchmarks.peers import peer_unet, randomised, relative_error
from sfumato.nn.unet import UNet, UNetConfig


def test_a_time_code_narrower_than_the_first_level_has_its_peer() -> None:
    shape = UNetConfig(
        model_channels=8, channel_mult=(2, 3), res_blocks=1, attention_levels=(1,), context_dim=16, groups=4
    )
    ours = randomised(UNet(shape), 0)
    theirs = peer_unet(ours)
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    timesteps = torch.tensor([3, 741])
    with torch.no_grad():
        difference = relative_error(ours(x, timesteps, context), theirs(x, timesteps, context).sample)
    assert difference <= 1e-5  # float32 sums in another order
