"""Training pictures per second: our loop against a plain diffusers loop on the same networks.

    python -m benchmarks.training            # 2 minutes on two cores; writes results/training.json
    python -m benchmarks.training --small    # a batch of four, nothing written

The U-Net is sfumato-mini's on random latents of 128×128 pixels, batch 64, with the features of 256 captions
cached. Ours is one step of `train.loop.train` whole: bfloat16 weights over float32 masters, min-SNR
weighting, clipping, AdamW, the average, the log. The peer is the loop of diffusers' text-to-image example:
float32 weights under bfloat16 autocast, DDPMScheduler.add_noise, clipping, torch's AdamW, no average; once as
it is and once in channels_last. First the two networks must agree in float32, then the steps run in turn.
Beside each time stands the arithmetic it amounts to, counted by torch's flop counter forwards and backwards,
and as a share of the best bfloat16 matrix product measured on this machine.
"""

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from benchmarks.peers import peer_unet, randomised, relative_error
from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.train.config import DataConfig, DiffusionConfig, OptimiserConfig, TrainConfig
from sfumato.train.data import PictureSet
from sfumato.train.diffusion import CaptionTable, DiffusionTask
from sfumato.train.loop import train
from sfumato.train.state import TrainState

TARGET, TOLERANCE = 1.0, 1e-5
SIDE, PICTURES, CAPTIONS = 16, 1024, 256
RATE = 1e-4
TEXT = CLIPTextConfig(width=128, layers=4, heads=4)
SHAPE = UNetConfig(
    model_channels=32,
    channel_mult=(2, 5, 9),
    res_blocks=1,
    attention_levels=(1, 2),
    head_dim=32,
    groups=16,
    linear_projection=True,
    context_dim=TEXT.width,
)


def our_steps(unet: UNet, batch: int, output: Path) -> tuple[Callable[[], object], DiffusionTask]:
    """Give one step of our loop, and the task it trains: bfloat16, channels_last, cached text features."""
    config = TrainConfig(
        method="diffusion",
        output=output,
        steps=10**6,
        batch_size=batch,
        precision="bfloat16",
        save_every=10**6,
        sample_every=10**6,
        data=DataConfig(folder=output),
        optimiser=OptimiserConfig(matrices="adamw", rate=RATE),
        diffusion=DiffusionConfig(base=output, prediction="eps"),
    )
    pictures = PictureSet(
        pictures=np.zeros((PICTURES, 1, 1, 3), np.uint8),
        captions=[(f"picture {row % CAPTIONS}",) for row in range(PICTURES)],
        weights=np.full(PICTURES, 1 / PICTURES),
    )
    rng = np.random.default_rng(0)
    captions = CaptionTable(pictures, lambda _: rng.integers(TEXT.vocab_size, size=TEXT.max_length).tolist())
    latents = torch.randn(PICTURES, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    unet = unet.to(torch.bfloat16).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    text = randomised(CLIPText(TEXT), 1)
    task = DiffusionTask(config, unet, text, latents, captions, lambda images: images)
    state = TrainState(task.parameters(), config.optimiser, config.ema_decay)
    steps = train(task, config, state, lambda parts: None)
    return lambda: next(steps), task


def their_step(unet: Any, task: DiffusionTask) -> Callable[[], object]:
    """Give one step of a plain diffusers loop over the same cached latents and features."""
    unet.train()
    scheduler: Any = DDPMScheduler(  # type: ignore[no-untyped-call]
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    assert task.features is not None
    latents, features = task.latents, task.features.float()

    def step() -> None:
        rows = torch.randint(len(latents), (task.batch_size,))
        clean, context = latents[rows], features[torch.randint(len(features), (task.batch_size,))]
        noise = torch.randn_like(clean)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (task.batch_size,))
        noisy = scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, timesteps, context, return_dict=False)[0]
        loss = F.mse_loss(predicted.float(), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


@torch.no_grad()
def difference(ours: UNet, theirs: Any) -> float:
    """Measure how far the two networks' outputs are apart in float32."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 4, SIDE, SIDE, generator=generator)
    context, timesteps = torch.randn(2, 77, TEXT.width, generator=generator), torch.tensor([3, 741])
    return relative_error(ours(x, timesteps, context), theirs(x, timesteps, context).sample)


def operations(task: DiffusionTask) -> float:
    """Count the floating-point operations of one picture, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        loss, _ = task.loss(np.random.default_rng(0), 0)
        loss.backward()  # type: ignore[no-untyped-call]
    for parameter in task.parameters().values():
        parameter.grad = None
    return float(counter.get_total_flops()) / task.batch_size


@torch.no_grad()
def best_product(side: int, runs: int = 5) -> float:
    """Measure the rate of a bfloat16 matrix product (side × side): operations a second, best of `runs`."""
    a = torch.randn(side, side).bfloat16()
    b = torch.randn(side, side).bfloat16()

    def seconds() -> float:
        began = time.perf_counter()
        torch.mm(a, b)
        return time.perf_counter() - began

    return 2 * side**3 / min(seconds() for _ in range(runs + 1))


def comparisons(runs: int, batch: int, output: Path, side: int) -> Iterator[timing.Comparison]:
    unet = randomised(UNet(SHAPE), 0)
    plain = peer_unet(unet)
    error = difference(unet, plain)
    assert error <= TOLERANCE, f"the two networks differ by {error:.2e}"
    plain = copy.deepcopy(plain)  # both shared one storage so far
    last: Any = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    mine, task = our_steps(unet, batch, output)
    work, peak = operations(task), best_product(side)
    for name, peer in (("plain diffusers loop", plain), ("the same in channels_last", last)):
        ours, theirs = timing.in_turn(mine, their_step(peer, task), runs, warm_up=2)
        rates = {who: batch / statistics.median(took) for who, took in (("ours", ours), ("theirs", theirs))}
        notes: dict[str, Any] = {"batch": batch, "relative_error": error, "gflop_a_picture": work / 1e9}
        notes |= {f"{who}_pictures_a_second": rate for who, rate in rates.items()}
        notes |= {f"{who}_gflop_a_second": rate * work / 1e9 for who, rate in rates.items()}
        notes |= {"best_product_gflop_a_second": peak / 1e9, "ours_share": rates["ours"] * work / peak}
        notes = {key: round(v, 9 if v < 1e-3 else 3) for key, v in notes.items()}
        yield timing.Comparison(name=name, ours=ours, theirs=theirs, target=TARGET, notes=notes)


def main() -> int:
    chosen = timing.options(__doc__, runs=10).parse_args()
    began = timing.machine()
    torch.manual_seed(0)
    batch, side = (4, 256) if chosen.small else (64, 2048)
    rows = []
    with tempfile.TemporaryDirectory() as output:
        for row in comparisons(chosen.runs, batch, Path(output), side):
            rows.append(timing.show(row))
            print(*(f"    {key}: {value}" for key, value in row.notes.items()), sep="\n")
    if chosen.small:
        return 0
    timing.write("training", began, [row.fields() for row in rows])
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
