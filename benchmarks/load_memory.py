"""Memory that loading an SD 1.5-size checkpoint adds to a process, against the file's size.

    python -m benchmarks.load_memory    # 2.2 GB of disk, 5 GB of memory; writes results/load_memory.json

The file has random 16-bit weights. Each case runs in a process of its own: resident memory is read after the
imports and again after the load, which touches every page of the weights; the peak is the kernel's. The exit
code is 1 when a case adds more than its limit.
"""

import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.weights.layouts import NETWORKS, build_empty
from sfumato.weights.load import save_checkpoint
from sfumato.weights.specs import MODELS, ModelSpec

LIMIT = 1.2
RESULTS = Path(__file__).parent / "results" / "load_memory.json"
CASES: dict[str, tuple[str, float | None]] = {  # name: dtype asked for, limit
    "as stored": ("None", LIMIT),
    "cast to bfloat16": ("torch.bfloat16", LIMIT),
    "cast to float32": ("torch.float32", None),  # the weights themselves are twice the file
}
CHILD = """
import json, sys
from pathlib import Path
import psutil, torch
from sfumato.weights.load import load_checkpoint
load_checkpoint(Path(sys.argv[2]), device="cpu", dtype=None)  # so that nothing is imported later
before = psutil.Process().memory_info().rss
loaded = load_checkpoint(Path(sys.argv[1]), device="cpu", dtype={dtype})
after = psutil.Process().memory_info().rss
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
print(json.dumps({"before": before, "after": after, "peak": peak}))
"""


def random_weights(network: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(tensor.shape, dtype=torch.float16).uniform_(-0.05, 0.05, generator=generator)
        for name, tensor in network.state_dict().items()
    }


def make_file(path: Path, spec: ModelSpec) -> None:
    unet, vae, text = (random_weights(build_empty(name, spec), n) for n, name in enumerate(NETWORKS))
    save_checkpoint(path, spec=spec, unet=unet, vae=vae, text=text)


def measure(path: Path, small: Path, dtype: str) -> dict[str, int]:
    command = [sys.executable, "-c", CHILD.replace("{dtype}", dtype), str(path), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, int] = json.loads(done.stdout)
    return answer


def small_spec() -> ModelSpec:
    spec = MODELS["sd-1.x"]
    return replace(
        spec,
        unet=replace(spec.unet, model_channels=32, context_dim=8),
        vae=replace(spec.vae, channels=(32, 32, 32, 32)),
        text=replace(spec.text, width=8, heads=2, vocab_size=10),
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "sd15.safetensors", Path(folder) / "small.safetensors"
        make_file(path, MODELS["sd-1.x"])
        make_file(small, small_spec())
        size = path.stat().st_size
        rows = []
        for name, (dtype, limit) in CASES.items():
            found = measure(path, small, dtype)
            added, peak = (found[key] - found["before"] for key in ("after", "peak"))
            rows.append(
                {"case": name, "added_ratio": added / size, "peak_ratio": peak / size, "limit": limit} | found
            )
            print(
                f"{name:20} adds {added / size:.3f}, at the peak {peak / size:.3f} times the file", flush=True
            )
    result = {"file_bytes": size, "torch": torch.__version__, "system": platform.platform(), "cases": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(any(row["limit"] is not None and row["peak_ratio"] > row["limit"] for row in rows))  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
