"""A thousand pictures in one process, with changing sizes, samplers and checkpoints: does memory grow?

    python -m benchmarks.soak            # about ten minutes on two cores; writes results/soak.json
    python -m benchmarks.soak --small    # sixty pictures, nothing written

Text to image, image to image, inpainting and second passes in turn, over every sampler, five sizes and two
checkpoints that push one another off the shelf. The figure is the resident memory after the last picture over
that after the fiftieth; the exit code is 1 when it is above 1.05.
"""

import gc
import itertools
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from benchmarks import timing
from sfumato.diffusion.samplers import SAMPLERS
from sfumato.pipeline.generate import generate
from sfumato.pipeline.models import embedded_model
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Hires, Mask, ModelChoice, Prompt, Request, Sampling, Source

COUNT, SETTLED, GROWTH = 1000, 50, 1.05
SIZES = ((64, 64), (128, 128), (96, 160), (192, 64), (128, 96))
EVERY = 50


def requests(names: list[str]) -> Any:
    """Requests without end, no two neighbours alike."""
    kinds = itertools.cycle(("text", "source", "mask", "hires", "text"))
    turns = zip(
        itertools.count(), kinds, itertools.cycle(SAMPLERS), itertools.cycle(SIZES), itertools.cycle(names)
    )
    for number, kind, sampler, (width, height), name in turns:
        image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        mask = Image.linear_gradient("L").rotate(90).resize((width, height))
        changes = kind in ("source", "mask")
        yield Request(
            prompt=Prompt(text=f"a red apple number {number}, 3d"),
            sampling=Sampling(sampler=sampler, steps=2),
            canvas=Canvas(width=width, height=height, seed=number),
            model=ModelChoice(checkpoint=name),
            source=Source(image=image) if changes else Source(),
            mask=Mask(image=mask) if kind == "mask" else Mask(),
            hires=Hires(enabled=kind == "hires", scale=1.5),
        )


def resident() -> int:
    """Bytes that this process holds, after what is let go of is gone."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def soak(count: int) -> list[int]:
    """Make the pictures; the resident memory after every fiftieth."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = ["one", "other"]
        for each in names:
            shutil.copy(embedded_model(), folder / f"{each}.safetensors")
        shelf = ModelShelf(folder, device="cpu", limit=1)  # one checkpoint at a time
        seen: list[int] = []
        for number, request in enumerate(itertools.islice(requests(names), count), 1):
            for _ in generate(request, shelf):
                pass
            if number % EVERY == 0:
                seen.append(resident())
                print(f"{number:5} pictures, {seen[-1] / 1e6:.0f} MB", flush=True)
    return seen


def main() -> int:
    chosen = timing.options(__doc__, runs=COUNT).parse_args()
    began = timing.machine()
    count = 60 if chosen.small else chosen.runs
    torch.manual_seed(0)
    seen = soak(count)
    growth = seen[-1] / seen[SETTLED // EVERY - 1]
    print(f"growth after {count} pictures: {growth:.3f}, target {GROWTH}")
    if chosen.small:
        return 0
    row = {
        "name": "resident memory after the last picture over that after the fiftieth",
        "pictures": count,
        "megabytes": [round(value / 1e6) for value in seen],
        "growth": round(growth, 4),
        "target": GROWTH,
        "met": growth <= GROWTH,
    }
    timing.write("soak", began, [row])
    return int(not row["met"])


if __name__ == "__main__":
    sys.exit(main())
