"""Peak resident memory of one 512×512 picture at SD 1.5 size in 16 bits, and diffusers' beside it.

    python -m benchmarks.memory            # 4 GB of disk, 2 minutes on two cores; writes results/memory.json
    python -m benchmarks.memory --small    # a tiny checkpoint, nothing written

A checkpoint of random float16 weights, as the published ones are stored, is written once to `--cache`, and
converted into a folder for diffusers. Each picture is made in a process of its own: ours by `ModelShelf` and
`generate`, the peer by benchmarks/minimal_diffusers.py, in the dtype that ours chooses. Two steps suffice:
every step needs the same. What is measured is the highest resident set of the whole process, interpreter,
libraries and mapped files included, 1 GB = 10⁹ bytes; for ours also what stood after each stage. The exit
code is 1 when ours is above the target.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import timing

TARGET = 3.0e9
STEPS = 2
STATUS = Path("/proc/self/status")


def write_checkpoint(path: Path, small: bool) -> None:
    """Write random weights of SD 1.5's size (or tiny ones) in float16; they are drawn in place."""
    from dataclasses import replace

    import torch

    from benchmarks.peers import randomised
    from sfumato.weights.layouts import build_empty
    from sfumato.weights.load import save_checkpoint
    from sfumato.weights.specs import MODELS

    spec = MODELS["sd-1.x"]
    if small:
        spec = replace(spec, family="small", unet=replace(spec.unet, model_channels=32), native_size=64)
    unet, vae, text = (
        randomised(build_empty(name, spec).to(torch.float16).to_empty(device="cpu"), 0)
        for name in ("unet", "vae", "text")
    )
    save_checkpoint(path, spec=spec, unet=unet, vae=vae, text=text)


def resident() -> dict[str, float]:
    """Give this process's highest and present resident set in GB; the present one by kind."""
    if not STATUS.is_file():
        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    lines = dict(line.split(":", 1) for line in STATUS.read_text("utf-8").splitlines())
    kinds = {"peak": "VmHWM", "now": "VmRSS", "own": "RssAnon", "files": "RssFile"}
    return {name: int(lines[key].split()[0]) * 1024 / 1e9 for name, key in kinds.items()}


def ours(path: Path, side: int) -> dict[str, Any]:
    """Make a picture by the product's own function, in this process."""
    import torch

    from sfumato.pipeline.generate import generate
    from sfumato.pipeline.shelf import ModelShelf
    from sfumato.types import Canvas, ModelChoice, Prompt, Request, Sampling

    stages = {"imports": resident()}
    shelf = ModelShelf(path.parent, device="cpu", default=str(path))
    models = shelf.load(ModelChoice())
    stages["loaded"] = resident()
    request = Request(
        prompt=Prompt(text="a slice of pizza, 3d"),
        sampling=Sampling(steps=STEPS),
        canvas=Canvas(width=side, height=side, seed=1),
    )
    for event in generate(request, shelf):
        stages[f"step {event.step}" if hasattr(event, "step") else "picture"] = resident()
    return {"dtype": str(models.dtype).removeprefix("torch."), "threads": torch.get_num_threads()} | {
        "stages": stages
    }


def theirs(folder: Path, side: int, dtype: str) -> dict[str, Any]:
    """Make a picture by diffusers, in this process."""
    from benchmarks import minimal_diffusers

    minimal_diffusers.main(str(folder), str(folder.with_suffix(".png")), STEPS, side, dtype)
    return {}


def child(*arguments: str) -> dict[str, Any]:
    """Run one of the functions above in a process of its own, and give what it says."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def run_child(what: str, path: Path, *rest: str) -> None:
    answer: dict[str, Any] = {}
    if what == "write":
        write_checkpoint(path, rest[0] == "small")
    elif what == "convert":
        from sfumato.weights.convert import convert

        convert(path, Path(rest[0]))
    elif what == "ours":
        answer = ours(path, int(rest[0]))
    else:
        answer = theirs(path, int(rest[0]), rest[1])
    print(json.dumps(answer | resident()))


def checkpoints(cache: Path, small: bool) -> tuple[Path, Path]:
    """Give the file of random weights and the folder for diffusers, written into `cache` on first use."""
    cache.mkdir(parents=True, exist_ok=True)
    size = "small" if small else "sd15"
    path, folder = cache / f"{size}-float16.safetensors", cache / f"{size}-float16"
    if not path.is_file():
        child("write", str(path), size)
    if not folder.is_dir():
        child("convert", str(path), str(folder))
    return path, folder


def measure(cache: Path, small: bool) -> list[dict[str, Any]]:
    path, folder = checkpoints(cache, small)
    side = "64" if small else "512"
    mine = child("ours", str(path), side)
    peer = child("theirs", str(folder), side, mine["dtype"])
    for name, row in (("ours", mine), ("diffusers", peer)):
        print(f"{name:12} peak {row['peak']:.3f} GB")
    for stage, values in mine["stages"].items():
        print(f"  ours, {stage:10}", *(f"{kind} {value:.3f}" for kind, value in values.items()))
    common = {"pixels": f"{side}x{side}", "steps": STEPS, "file_gb": path.stat().st_size / 1e9}
    return [
        {"name": "ours", "target_gb": TARGET / 1e9, "met": mine["peak"] * 1e9 <= TARGET} | mine | common,
        {"name": "diffusers", "dtype": mine["dtype"]} | peer | common,
    ]


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sfumato-benchmarks")
    parser.add_argument("--small", action="store_true", help="a tiny checkpoint, nothing written")
    chosen = parser.parse_args()
    began = timing.machine()
    rows = measure(chosen.cache, chosen.small)
    if chosen.small:
        return 0
    timing.write("memory", began, rows)
    return int(not rows[0]["met"])


if __name__ == "__main__":
    sys.exit(main())
