"""The maker without a network, for every test here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from PIL import Image

from sfumato.pipeline import metadata
from sfumato.types import Request, Result, StepInfo


@dataclass
class Maker:
    """Pictures of one colour that follows from the seed, one event a step; remembers what was asked."""

    asked: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Iterator[StepInfo | Result]:
        self.asked.append(request)
        canvas = request.canvas
        width, height = canvas.width or 64, canvas.height or 64
        for index in range(canvas.batch_size * canvas.batch_count):
            for step in range(1, request.sampling.steps + 1):
                yield StepInfo(
                    step=step,
                    steps=request.sampling.steps,
                    batch=index // canvas.batch_size + 1,
                    batches=canvas.batch_count,
                    pass_=1,
                    passes=1,
                    latents=torch.zeros(1, 4, 8, 8),
                )
            seed = max(canvas.seed, 0) + index
            own = replace(canvas, seed=seed, width=width, height=height, batch_size=1, batch_count=1)
            yield Result(
                image=Image.new("RGB", (width, height), (seed * 67 % 256, seed * 31 % 256, 128)),
                request=replace(request, canvas=own),
                infotext=metadata.write(replace(request, canvas=own)),
                index=index,
                seconds=0.0,
            )


@pytest.fixture
def maker() -> Maker:
    return Maker()
