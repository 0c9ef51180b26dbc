"""Draw the documentation's X/Y/Z plot with the embedded model.

python -m recipes.scripts docs/images/xyz.png
"""

import argparse
from functools import partial
from pathlib import Path

from sfumato.pipeline.generate import generate
from sfumato.pipeline.scripts import xyz
from sfumato.pipeline.scripts.axes import parse_axis
from sfumato.pipeline.scripts.work import Sheet
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Prompt, Request, Sampling

BASE = Request(
    prompt=Prompt(text="a house, 3d"),
    sampling=Sampling(guidance=4.0),
    canvas=Canvas(width=128, height=128, seed=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    plot = xyz.Plot(
        x=parse_axis("Prompt S/R", "house, rocket, strawberry, guitar", BASE),
        y=parse_axis("CFG Scale", "1-7 (+2)", BASE),
        margin=2,
    )
    make = partial(generate, shelf=ModelShelf(Path("models")))
    *_, sheet = xyz.run(xyz.arrange(plot, BASE), make)
    assert isinstance(sheet, Sheet)
    sheet.image.save(options.output)


if __name__ == "__main__":
    main()
