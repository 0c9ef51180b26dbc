"""Loading takes the memory of the weights, once."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.weights.layouts import build_empty
from sfumato.weights.load import save_checkpoint
from sfumato.weights.specs import MODELS

CHILD = """
import json, sys
from pathlib import Path
import psutil, torch
from sfumato.weights.load import load_checkpoint
load_checkpoint(Path(sys.argv[2]), device="cpu", dtype=None)  # so that nothing is imported later
before = psutil.Process().memory_info().rss
loaded = load_checkpoint(Path(sys.argv[1]), device="cpu", dtype=getattr(torch, sys.argv[3], None))
after = psutil.Process().memory_info().rss
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
print(json.dumps([before, after, peak]))
"""


def save(path: Path, channels: int) -> None:
    """Write a checkpoint in 16 bits; the U-Net has `channels` at its first level."""
    spec = MODELS["sd-1.x"]
    spec = replace(
        spec,
        unet=replace(spec.unet, model_channels=channels, context_dim=64),
        vae=replace(spec.vae, channels=(32, 32, 32, 32)),
        text=replace(spec.text, width=64, heads=2, vocab_size=10),
    )
    unet, vae, text = (
        {
            name: torch.empty(tensor.shape, dtype=torch.float16).uniform_(-0.05, 0.05)
            for name, tensor in build_empty(network, spec).state_dict().items()
        }
        for network in ("unet", "vae", "text")
    )
    save_checkpoint(path, spec=spec, unet=unet, vae=vae, text=text)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is counted differently")
@pytest.mark.parametrize("dtype", ["as stored", "bfloat16"])
def test_loading_adds_at_most_a_fifth_more_than_the_file(dtype: str, tmp_path: Path) -> None:
    big, small = tmp_path / "big.safetensors", tmp_path / "small.safetensors"
    save(big, 128)
    save(small, 32)
    size = big.stat().st_size
    assert size > 2 * 10**8
    command = [sys.executable, "-c", CHILD, str(big), str(small), dtype]
    before, after, peak = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (after - before) / size < 1.2
    assert (peak - before) / size < 1.2
