"""One U-Net step, one decoding and one encoding of prompts at SD 1.5 size, ours against diffusers.

    python -m benchmarks.speed             # about 6 GB, 3 minutes on two cores; writes results/speed.json
    python -m benchmarks.speed --small     # tiny networks, nothing written

512×512 pixels, a guidance batch of two, bfloat16, channels_last. Both hold the same random weights, run in
turn in one process without gradients, and must give the same answer up to bfloat16's rounding. The figure is
the median of the pairs' ratios, ours to theirs; the exit code is 1 when one is above its target.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.peers import peer_text, peer_unet, peer_vae, randomised, relative_error
from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import AutoencoderKL, VAEConfig

TARGET = 1.0
ROUNDING = 0.05  # of bfloat16 through a deep network, as a share of the output
DTYPE = torch.bfloat16

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same work done by both."""

    name: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    share: float  # of the pairs asked for; what is quick is repeated more often


def built(kind: Callable[[], M]) -> M:
    """Build a network in bfloat16 and channels_last at once, without passing through float32."""
    with torch.device("meta"):
        network = kind()
    network.to(DTYPE).to_empty(device="cpu")
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    return randomised(network, 0)


def noise(*shape: int) -> Tensor:
    """Draw latents (B,C,H,W) or a context (B,T,E), as the pipeline hands them over."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(DTYPE)
    return drawn.contiguous(memory_format=torch.channels_last) if drawn.ndim == 4 else drawn


def unet_pair(small: bool) -> Pair:
    config = UNetConfig(model_channels=64) if small else UNetConfig()
    side = 16 if small else 64
    ours = built(lambda: UNet(config))
    theirs = peer_unet(ours).to(memory_format=torch.channels_last)
    x, context = noise(2, 4, side, side), noise(2, 77, config.context_dim)
    timesteps = torch.full((2,), 741.0)
    return Pair(
        name="U-Net step, batch of two",
        ours=lambda: ours(x, timesteps, context),
        theirs=lambda: theirs(x, timesteps, encoder_hidden_states=context, return_dict=False)[0],
        share=1,
    )


def vae_pair(small: bool) -> Pair:
    config = VAEConfig(channels=(32, 32, 64, 64)) if small else VAEConfig()
    ours = built(lambda: AutoencoderKL(config))
    theirs = peer_vae(ours).to(memory_format=torch.channels_last)
    latents = noise(1, 4, *[16 if small else 64] * 2)
    return Pair(
        name="decoding, one picture",
        ours=lambda: ours.decode(latents),
        theirs=lambda: theirs.decode(latents, return_dict=False)[0],
        share=0.8,
    )


def text_pair(small: bool) -> Pair:
    config = CLIPTextConfig(width=64, layers=2, heads=2) if small else CLIPTextConfig()
    ours = built(lambda: CLIPText(config))
    theirs = peer_text(ours)
    ids = torch.randint(0, config.vocab_size, (2, 77), generator=torch.Generator().manual_seed(1))
    return Pair(
        name="encoding, two prompts of 77 tokens",
        ours=lambda: ours(ids),
        theirs=lambda: theirs(ids).last_hidden_state,
        share=6,
    )


def comparisons(runs: int, small: bool) -> Iterator[timing.Comparison]:
    for make in (text_pair, vae_pair, unet_pair):
        pair = make(small)
        error = relative_error(pair.ours(), pair.theirs())
        assert error <= ROUNDING, f"{pair.name}: the two differ by {error:.2e}"
        ours, theirs = timing.in_turn(pair.ours, pair.theirs, max(1, round(runs * pair.share)), warm_up=0)
        notes = {"dtype": str(DTYPE).removeprefix("torch."), "relative_error": round(error, 6)}
        yield timing.Comparison(name=pair.name, ours=ours, theirs=theirs, target=TARGET, notes=notes)


@torch.no_grad()
def main() -> int:
    chosen = timing.options(__doc__, runs=5).parse_args()
    began = timing.machine()
    rows = [timing.show(row) for row in comparisons(chosen.runs, chosen.small)]
    if chosen.small:
        return 0
    timing.write("speed", began, [row.fields() for row in rows])
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
