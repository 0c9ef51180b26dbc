"""Peak resident memory of `sfumato upscale`, 512×512 to 2048×2048, by each network that is installed along.

    python -m benchmarks.upscale_memory            # minutes; writes results/upscale_memory.json
    python -m benchmarks.upscale_memory --small    # 64×64 by the smallest network, nothing written

Each runs in a process of its own, the whole command: interpreter, libraries, weights, picture in and PNG out.
1 GB = 10⁹ bytes. The exit code is 1 when one is above the target.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import memory, timing

TARGET = 2.0e9
SMALLEST = "R-ESRGAN AnimeVideo"
UPSCALERS = (SMALLEST, "R-ESRGAN 4x+ Anime6B", "R-ESRGAN 4x+")


def child(path: str, output: str, upscaler: str) -> dict[str, float]:
    """Run the command in this process, and say what it took."""
    from sfumato.cli import run

    code = run(["upscale", path, "--upscaler", upscaler, "--output", output])
    assert code == 0, f"the command ended with {code}"
    return memory.resident()


def measure(upscaler: str, side: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        command = [sys.executable, "-m", "benchmarks.upscale_memory", "--child"]
        done = subprocess.run(
            [*command, str(path), folder, upscaler], stdout=subprocess.PIPE, text=True, check=True
        )
        with Image.open(Path(folder) / "00001-picture.png") as image:
            pixels_out = f"{image.width}x{image.height}"
    peak = float(json.loads(done.stdout.splitlines()[-1])["peak"])
    print(f"{upscaler:24} {side}x{side} to {pixels_out}: peak {peak:.3f} GB", flush=True)
    sizes = {"pixels_in": f"{side}x{side}", "pixels_out": pixels_out}
    return {"name": upscaler, **sizes, "peak": peak, "target_gb": TARGET / 1e9, "met": peak * 1e9 <= TARGET}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(*sys.argv[2:])))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a small picture, nothing written")
    if parser.parse_args().small:
        measure(SMALLEST, 64)
        return 0
    began = timing.machine()
    rows = [measure(upscaler, 512) for upscaler in UPSCALERS]
    timing.write("upscale_memory", began, rows)
    return int(not all(row["met"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
