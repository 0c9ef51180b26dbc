"""Draw the same picture by every sampler, one row each, in few and in many steps, with the embedded model.

python -m recipes.samplers docs/samplers.png
"""

import argparse
from functools import partial
from pathlib import Path

from sfumato.diffusion.samplers import SAMPLERS
from sfumato.pipeline.generate import generate
from sfumato.pipeline.scripts import xyz
from sfumato.pipeline.scripts.axes import parse_axis
from sfumato.pipeline.scripts.work import Sheet
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Prompt, Request, Sampling

BASE = Request(
    prompt=Prompt(text="a slice of pizza, 3d"),
    sampling=Sampling(guidance=4.0),
    canvas=Canvas(width=128, height=128, seed=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", default="5, 10, 20, 40")
    options = parser.parse_args()
    plot = xyz.Plot(
        x=parse_axis("Steps", options.steps, BASE),
        y=parse_axis("Sampler", ", ".join(SAMPLERS), BASE),
        margin=2,
    )
    make = partial(generate, shelf=ModelShelf(Path("models")))
    *_, sheet = xyz.run(xyz.arrange(plot, BASE), make)
    assert isinstance(sheet, Sheet)
    sheet.image.save(options.output)


if __name__ == "__main__":
    main()
