"""Changing adapters on networks of SD 1.5's size: how long, and what of memory stays.

    python -m benchmarks.adapters          # some 6 GB of memory; writes results/adapters.json
    python -m benchmarks.adapters --small  # tiny networks, nothing written

Two LoRA of rank 32 on all attention of U-Net and text encoder, random weights. Measured is what a request
waits for: networks that wear one adapter wear the other, or none. A file that was not read before is read,
hashed and held against the checkpoint as well. Then one step of the U-Net right after a change beside steps
later on, and the memory of the process after many changes beside that after the first.

The exit code is 1 when a limit is missed.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from benchmarks.load_memory import random_weights, small_spec
from benchmarks.timing import Comparison, machine, options, show, write
from sfumato.weights.adapters.apply import Adapted, Part, Use
from sfumato.weights.adapters.names import kohya_names
from sfumato.weights.adapters.read import Fitted, fit, read_adapter
from sfumato.weights.files import write_safetensors
from sfumato.weights.layouts import build_empty
from sfumato.weights.specs import MODELS, ModelSpec

RANK = 32
SECONDS = 1.0  # for a change, at most
GROWTH = 1.02  # memory after many changes over that after the first
STEP = 1.05  # the first step after a change over later ones
_TARGETS = ("proj_in", "proj_out", "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
_TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def make_adapter(path: Path, spec: ModelSpec, seed: int) -> None:
    """Write a LoRA as kohya's trainer does, in float16."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    made = {name: build_empty(name, spec) for name in ("unet", "text")}
    for (network, module), name in kohya_names(spec).items():
        if module.endswith(_TARGETS if network == "unet" else _TEXT_TARGETS):
            weight = made[network].get_submodule(module).weight
            assert isinstance(weight, torch.Tensor)
            out, inside, *kernel = weight.shape
            ones = [1] * len(kernel)
            tensors[f"{name}.lora_down.weight"] = torch.randn(RANK, inside, *kernel, generator=draw) * 0.02
            tensors[f"{name}.lora_up.weight"] = torch.randn(out, RANK, *ones, generator=draw) * 0.02
            tensors[f"{name}.alpha"] = torch.tensor(16.0)
    write_safetensors(path, tensors, dtype=torch.float16)


def build(spec: ModelSpec, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Make U-Net and text encoder of random weights."""
    made = {}
    for number, name in enumerate(("unet", "text")):
        network = build_empty(name, spec)
        network.load_state_dict(random_weights(network, number), assign=True)
        made[name] = network.to(dtype).requires_grad_(False).eval()
    made["unet"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    return made


class Bench:
    """Networks, and what they wear."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, files: list[Path]) -> None:
        self.spec, self.networks, self.files = spec, build(spec, dtype), files
        self.adapted = {name: Adapted(network) for name, network in self.networks.items()}
        self.fitted = [self.read(path) for path in files]
        draw = torch.Generator().manual_seed(0)
        config, size = spec.unet, spec.native_size // spec.vae.reduction
        self.x = torch.randn(2, config.in_channels, size, size, generator=draw).to(dtype)
        self.x = self.x.to(memory_format=torch.channels_last)
        self.context = torch.randn(2, 77, config.context_dim, generator=draw).to(dtype)

    def read(self, path: Path) -> Fitted:
        """Read a file and hold it against the checkpoint."""
        return fit(read_adapter(path), self.spec, self.networks)

    def wear(self, *fitted: Fitted, on_the_fly: bool = False) -> None:
        """Have both networks wear adapters."""
        for name, adapted in self.adapted.items():
            parts = [Part(digest=each.adapter.digest, pieces=each.parts[name]) for each in fitted]
            adapted.use(tuple(Use(part=part, strength=0.8) for part in parts), on_the_fly=on_the_fly)

    def step(self) -> None:
        """One call of the U-Net, as guidance makes it."""
        self.networks["unet"](self.x, torch.tensor([500.0, 500.0]), self.context)


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def changes(bench: Bench, runs: int) -> dict[str, list[float]]:
    """Seconds of each kind of change, run by run."""
    first, second = bench.fitted
    seconds: dict[str, list[float]] = {}
    for _ in range(runs + 1):
        bench.wear()
        for name, change in (
            ("put on, the file not read before", lambda: bench.wear(bench.read(bench.files[0]))),
            ("exchanged", lambda: bench.wear(second)),
            ("taken off", bench.wear),
            ("both put on", lambda: bench.wear(first, second)),
            ("exchanged for one on the fly", lambda: bench.wear(first, on_the_fly=True)),
        ):
            seconds.setdefault(name, []).append(timed(change))
    return {name: each[1:] for name, each in seconds.items()}


def memory_growth(bench: Bench, times: int) -> tuple[int, int]:
    """Resident bytes after the first change and after many, the same adapter on both times."""
    process, sizes = psutil.Process(), []
    for number in range(times):
        for fitted in (*bench.fitted, bench.fitted[0]):
            bench.wear(fitted)
        if number in (0, times - 1):
            sizes.append(process.memory_info().rss)
        bench.wear()
    return sizes[0], sizes[-1]


def main() -> int:
    """Measure, print and write."""
    arguments = options(__doc__, runs=5).parse_args()
    began, rows = machine(), list[dict[str, Any]]()
    spec = small_spec() if arguments.small else MODELS["sd-1.x"]
    for dtype in (torch.bfloat16, torch.float32):
        numbers = str(dtype).removeprefix("torch.")
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            files = [Path(folder) / f"{name}.safetensors" for name in "ab"]
            for seed, path in enumerate(files):
                make_adapter(path, spec, seed)
            bench = Bench(spec, dtype, files)
            for name, seconds in changes(bench, arguments.runs).items():
                median = statistics.median(seconds)
                rows.append({"name": f"{numbers}: {name}", "seconds": [round(s, 4) for s in seconds]})
                rows[-1] |= {"median": round(median, 4), "limit": SECONDS, "met": median <= SECONDS}
                print(f"{rows[-1]['name']:60} {median:8.3f} s, at most {SECONDS:.0f} s", flush=True)
            before, after = memory_growth(bench, 10)
            rows.append({"name": f"{numbers}: memory", "before": before, "after": after, "limit": GROWTH})
            rows[-1] |= {"ratio": round(after / before, 4), "met": after <= GROWTH * before}
            print(f"{rows[-1]['name']:60} {after / before:8.3f} times, at most {GROWTH}", flush=True)
            bench.step()
            fresh, later = list[float](), list[float]()
            for number in range(arguments.runs):
                bench.wear(bench.fitted[number % 2])
                fresh.append(timed(bench.step))
                later.append(timed(bench.step))
            steps = Comparison(
                name=f"{numbers}: a step after a change, beside the next",
                ours=fresh,
                theirs=later,
                target=STEP,
                notes={},
            )
            rows.append(show(steps).fields())
    if not arguments.small:
        write("adapters", began, rows)
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
