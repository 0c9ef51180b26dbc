"""Image to image, inpainting and a second pass at SD 1.5 size: time and peak memory, ours and diffusers'.

    python -m benchmarks.pictures            # 4 GB of disk, ten minutes on two cores; results/pictures.json
    python -m benchmarks.pictures --small    # a tiny checkpoint, nothing written

The same random weights, Euler, two steps a pass, 512×512 (the second pass: 256×256 to 512×512). Each picture
is made in a process of its own, ours and diffusers' in turn. The time is that of the finished call, without
imports, loading and the checkpoint's hash; the memory is the highest resident set of the process. The figure
is the median of the pairs' ratios; the exit code is 1 when one is above 1.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import memory, timing

STEPS, STRENGTH, GUIDANCE = 2, 0.5, 7.0
PROMPT = "a slice of pizza, 3d"
TASKS = ("image to image", "inpainting", "second pass")


def drawing(side: int) -> tuple[Any, Any]:
    """A source and a mask over its right half."""
    import numpy as np
    from PIL import Image

    ramp = np.linspace(0, 255, side * side * 3).reshape(side, side, 3).astype(np.uint8)
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (side // 2, 0, side, side))
    return Image.fromarray(ramp), mask


def ours(task: str, path: Path, side: int) -> Callable[[], object]:
    """Load our pipeline, ready to make the picture."""
    from sfumato.pipeline.generate import generate
    from sfumato.pipeline.shelf import ModelShelf
    from sfumato.types import Canvas, Hires, Mask, ModelChoice, Prompt, Request, Sampling, Source

    shelf = ModelShelf(path.parent, device="cpu", default=str(path))
    assert shelf.load(ModelChoice()).sha256  # computed once a checkpoint, like loading
    image, mask = drawing(side)
    source = Source(image=image, denoising_strength=STRENGTH, exact_steps=True)
    first = side // 2 if task == "second pass" else side
    request = Request(
        prompt=Prompt(text=PROMPT),
        sampling=Sampling(sampler="Euler", schedule="Uniform", steps=STEPS, guidance=GUIDANCE),
        canvas=Canvas(width=first, height=first, seed=1),
        source=Source() if task == "second pass" else source,
        mask=Mask(image=mask) if task == "inpainting" else Mask(),
        hires=Hires(enabled=task == "second pass", denoising_strength=STRENGTH),
    )
    return lambda: list(generate(request, shelf))


def theirs(task: str, folder: Path, side: int) -> Callable[[], object]:
    """Load diffusers' pipeline for the same picture, in our dtype."""
    import diffusers
    import torch

    from sfumato.pipeline.models import choose_dtype

    kinds = {
        "image to image": diffusers.StableDiffusionImg2ImgPipeline,
        "inpainting": diffusers.StableDiffusionInpaintPipeline,
        "second pass": diffusers.StableDiffusionPipeline,
    }
    dtype = choose_dtype(torch.device("cpu"), "auto")
    pipe: Any = kinds[task].from_pretrained(folder, torch_dtype=dtype, safety_checker=None)
    euler: Any = diffusers.EulerDiscreteScheduler  # its package does not say its types
    pipe.scheduler = euler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    image, mask = drawing(side)
    common: dict[str, Any] = {"prompt": PROMPT, "guidance_scale": GUIDANCE}
    changing = common | {"strength": STRENGTH, "num_inference_steps": round(STEPS / STRENGTH)}
    if task == "image to image":
        return lambda: pipe(image=image, **changing)
    if task == "inpainting":
        return lambda: pipe(image=image, mask_image=mask, width=side, height=side, **changing)
    changing_pipe: Any = diffusers.StableDiffusionImg2ImgPipeline
    again = changing_pipe(**pipe.components)
    again.set_progress_bar_config(disable=True)

    def both() -> None:
        half = {"width": side // 2, "height": side // 2}
        latents = pipe(num_inference_steps=STEPS, output_type="latent", **half, **common).images
        large = torch.nn.functional.interpolate(latents, scale_factor=2, mode="bilinear")
        again(image=large, **changing)

    return both


def run_child(who: str, task: str, path: Path, side: int) -> None:
    """Make the picture once in this process and say what it took."""
    import torch

    with torch.no_grad():
        make = (ours if who == "ours" else theirs)(task, path, side)
        began = time.perf_counter()
        make()
    print(json.dumps({"seconds": time.perf_counter() - began} | memory.resident()))


def child(who: str, task: str, path: Path, side: int) -> dict[str, float]:
    """Run `run_child` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pictures", "--child", who, task, str(path), str(side)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(task: str, path: Path, folder: Path, side: int, runs: int) -> list[dict[str, Any]]:
    """One row for the time, one for the memory."""
    pairs = [(child("ours", task, path, side), child("theirs", task, folder, side)) for _ in range(runs)]
    row = timing.show(
        timing.Comparison(
            name=task,
            ours=[mine["seconds"] for mine, _ in pairs],
            theirs=[peer["seconds"] for _, peer in pairs],
            target=1.0,
            notes={"pixels": f"{side}x{side}", "steps": STEPS},
        )
    )
    peaks = [statistics.median(each[place]["peak"] for each in pairs) for place in (0, 1)]
    ratio = peaks[0] / peaks[1]
    print(f"{'':44} {peaks[0]:9.3f} GB {peaks[1]:8.3f} GB  ratio {ratio:.3f}", flush=True)
    return [
        row.fields(),
        {
            "name": f"{task}, peak memory",
            "ours_gb": round(peaks[0], 3),
            "theirs_gb": round(peaks[1], 3),
            "ratio_median": round(ratio, 3),
            "target": 1.0,
            "met": ratio <= 1,
        },
    ]


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]))
        return 0
    parser = timing.options(__doc__, runs=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sfumato-benchmarks")
    chosen = parser.parse_args()
    began = timing.machine()
    single, folder = memory.checkpoints(chosen.cache, chosen.small)
    side, runs = (64, 1) if chosen.small else (512, chosen.runs)
    rows = [row for task in TASKS for row in measure(task, single, folder, side, runs)]
    if chosen.small:
        return 0
    timing.write("pictures", began, rows)
    return int(not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
