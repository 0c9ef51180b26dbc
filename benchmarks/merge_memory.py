"""Peak memory of merging checkpoints of SD 1.5's size, against the size of one of them.

    python -m benchmarks.merge_memory          # 11 GB of disk; writes results/merge_memory.json
    python -m benchmarks.merge_memory --small  # tiny checkpoints, nothing written

Random weights, in 16 bits. Each case runs in a process of its own and is measured by the kernel: the highest
resident set of the whole process, interpreter, libraries and whatever is mapped included. The exit code is 1
when a case is above 1.3 times one checkpoint.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.load_memory import make_file, small_spec
from sfumato.weights.specs import MODELS

LIMIT = 1.3
RESULTS = Path(__file__).parent / "results" / "merge_memory.json"
CASES = {  # name: the recipe, how many checkpoints
    "weighted sum": ('method="weighted-sum"', 2),
    "weighted sum by blocks": ('method="weighted-sum", blocks=(0.5,) * 25', 2),
    "add difference": ('method="add-difference"', 3),
    "weighted sum with another VAE": ('method="weighted-sum", vae=inputs[0]', 2),
}
CHILD = """
import sys
from pathlib import Path
import torch
from sfumato.weights.merge import Recipe, merge
torch.set_num_threads(1)
*inputs, target = map(Path, sys.argv[1:])
for step in merge(Recipe({recipe}), tuple(inputs), target):
    pass
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
"""


def measure(recipe: str, inputs: list[Path], target: Path) -> int:
    command = [sys.executable, "-c", CHILD.replace("{recipe}", recipe), *map(str, inputs), str(target)]
    try:
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    finally:
        target.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="tiny checkpoints, nothing written")
    small = parser.parse_args().small
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = [folder / f"{letter}.safetensors" for letter in "abc"]
        for path in inputs:
            make_file(path, small_spec() if small else MODELS["sd-1.x"])
        size = inputs[0].stat().st_size
        for case, (recipe, count) in CASES.items():
            peak = measure(recipe, inputs[:count], folder / "merged.safetensors")
            rows.append(
                {
                    "case": case,
                    "peak_bytes": peak,
                    "peak_ratio": peak / size,
                    "limit": LIMIT,
                    "met": peak <= LIMIT * size,
                }
            )
            print(
                f"{case:32} at the peak {peak / 1e9:.3f} GB, {peak / size:.3f} times one checkpoint",
                flush=True,
            )
    if small:
        return 0
    result = {"file_bytes": size, "torch": torch.__version__, "system": platform.platform(), "cases": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
