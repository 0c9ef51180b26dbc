"""The same request gives the same bytes in another process, and with more threads the same picture."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from sfumato.pipeline.generate import generate
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Prompt, Request, Result, Sampling
torch.set_num_threads(int(sys.argv[2]))
path = Path(sys.argv[1])
shelf = ModelShelf(path.parent, device="cpu", dtype="float32", default=str(path))
pictures = {}
for sampler in json.loads(sys.argv[3]):
    request = Request(
        prompt=Prompt(text="a cat"),
        sampling=Sampling(sampler=sampler, steps=3),
        canvas=Canvas(seed=5, width=64, height=64, batch_size=2),
    )
    made = [each for each in generate(request, shelf) if isinstance(each, Result)]
    pictures[sampler] = [list(each.image.tobytes()) for each in made]
print(json.dumps(pictures))
"""
SAMPLERS = ["DPM++ 2M", "Euler a", "DPM++ SDE", "DDIM"]  # one of each kind of noise and of arithmetic


def pictures(checkpoint: Path, threads: int) -> dict[str, list[list[int]]]:
    command = [sys.executable, "-c", PROGRAM, str(checkpoint), str(threads), json.dumps(SAMPLERS)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    answer: dict[str, list[list[int]]] = json.loads(done.stdout)
    return answer


@pytest.mark.slow
def test_another_process_gives_the_same_bytes_and_two_threads_the_same_picture(tiny_checkpoint: Path) -> None:
    """With another number of threads torch's matrix products add up in another order: 1/255 in float32."""
    first = pictures(tiny_checkpoint, 1)
    assert pictures(tiny_checkpoint, 1) == first
    assert len({str(each) for pair in first.values() for each in pair}) == 2 * len(SAMPLERS)
    both = zip(first.values(), pictures(tiny_checkpoint, 2).values(), strict=True)
    assert max(np.abs(np.subtract(one, two)).max() for one, two in both) <= 1
