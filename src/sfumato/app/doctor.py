"""What this machine offers for making pictures, one finding after another, each with what to do about it."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import psutil
import torch

from sfumato import __version__
from sfumato.app.settings import Settings, config_file
from sfumato.errors import SfumatoError
from sfumato.pipeline import images, memory
from sfumato.pipeline.generate import generate
from sfumato.pipeline.models import (
    choose_device,
    choose_dtype,
    cpu_has_bfloat16,
    devices,
    find_checkpoint,
)
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Prompt, Request, Result, Sampling
from sfumato.weights import store

if TYPE_CHECKING:
    from PIL.Image import Image

State = Literal["good", "fair", "missing"]
MARKS: Mapping[State, str] = MappingProxyType({"good": "✓", "fair": "!", "missing": "✗"})

TEST = Request(prompt=Prompt(text="a slice of pizza, 3d"), sampling=Sampling(steps=8), canvas=Canvas(seed=1))
TIGHT_DISK = 2**30
TIGHT_MEMORY = 2 * 2**30


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """One thing looked at."""

    what: str = ""
    found: str
    state: State = "good"  # fair: pictures are made, but slower or fewer; missing: they are not
    remedy: str = ""
    image: Image | None = None

    @property
    def mark(self) -> str:
        """The state as one character."""
        return MARKS[self.state]


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, the quick things first, the test picture last; what is wrong becomes a finding."""
    for what, look in LOOKS.items():
        try:
            yield replace(look(settings), what=what)
        except SfumatoError as error:
            yield Finding(what=what, found=str(error), state="missing")


def _software(settings: Settings) -> Finding:
    return Finding(
        found=f"sfumato {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.system()} {platform.machine()}",
    )


def _configuration(settings: Settings) -> Finding:
    path = config_file()
    return Finding(found=f"{path}{'' if path.is_file() else ' (none; defaults are used)'}")


def _data(settings: Settings) -> Finding:
    there = settings.data.is_dir()
    return Finding(found=f"{settings.data}{'' if there else ' (none yet; a server makes it)'}")


def _device(settings: Settings) -> Finding:
    device = choose_device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    finding = Finding(found=f"{device} ({name}); there are {', '.join(devices())}")
    if device.type != "cpu":
        return finding
    remedy = (
        "a GPU makes pictures of large checkpoints in seconds instead of minutes; torch must be built for it"
    )
    return replace(finding, state="fair", remedy=remedy)


def _numbers(settings: Settings) -> Finding:
    device = choose_device(settings.device)
    dtype = str(choose_dtype(device, settings.dtype)).removeprefix("torch.")
    if device.type == "cpu" and not cpu_has_bfloat16():
        return Finding(
            found=f"{dtype}; this CPU has no bfloat16 arithmetic",
            state="fair",
            remedy="nothing to do: float32 is right here, at twice the memory",
        )
    return Finding(found=dtype)


def _threads(settings: Settings) -> Finding:
    cores, used = psutil.cpu_count(logical=False) or 1, settings.threads or torch.get_num_threads()
    finding = Finding(found=f"{used} of {cores} cores")
    if used >= cores:
        return finding
    remedy = "set threads in the settings, or unset OMP_NUM_THREADS, if the others are free"
    return replace(finding, state="fair", remedy=remedy)


def _memory(settings: Settings) -> Finding:
    device = choose_device(settings.device)
    free = memory.available_bytes(device)
    finding = Finding(found=f"{memory.gib(free)} free of {memory.gib(psutil.virtual_memory().total)}")
    if free >= TIGHT_MEMORY:
        return finding
    return replace(finding, state="fair", remedy="close other programs before you load a large checkpoint")


def _outputs(settings: Settings) -> Finding:
    folder = settings.outputs.absolute()
    images.check_folder(folder)
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(existing).free
    finding = Finding(found=f"{folder}, {memory.gib(free)} free")
    return finding if free >= TIGHT_DISK else replace(finding, state="fair", remedy="free some space")


def _embedded(settings: Settings) -> Finding:
    return Finding(found=str(find_checkpoint(None, settings.models)))


def _models(settings: Settings) -> Finding:
    count = len(store.scan(settings.models))
    finding = Finding(found=f"{count} in {settings.models}")
    return (
        finding if count else replace(finding, remedy="sfumato pull and sfumato models add bring in others")
    )


def _picture(settings: Settings) -> Finding:
    began = time.perf_counter()
    shelf = ModelShelf(settings.models, device=settings.device, dtype=settings.dtype)
    (result,) = (event for event in generate(TEST, shelf) if isinstance(event, Result))
    seconds = time.perf_counter() - began
    low, high = result.image.convert("L").getextrema()
    if low == high:
        remedy = "try --dtype float32; if that helps, the driver or the processor computes wrongly"
        return Finding(found="a single shade", state="missing", remedy=remedy, image=result.image)
    found = f"{result.image.width}×{result.image.height} in {seconds:.1f} s, loading included"
    return Finding(found=found, image=result.image)


def _cpu_name() -> str:
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "unknown")


LOOKS: Mapping[str, Callable[[Settings], Finding]] = MappingProxyType(
    {
        "software": _software,
        "settings": _configuration,
        "data": _data,
        "device": _device,
        "numbers": _numbers,
        "threads": _threads,
        "memory": _memory,
        "outputs": _outputs,
        "embedded model": _embedded,
        "models": _models,
        "test picture": _picture,
    }
)
