"""Draw the README's picture: prompts and what the embedded model makes of them, all on seed 1.

python -m recipes.mini.showcase docs/images/first.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sfumato.pipeline.generate import generate
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Prompt, Request, Result, Sampling

PROMPTS = (
    "a slice of pizza, 3d",
    "a car, 3d",
    "an elephant, 3d",
    "a rocket, 3d, yellow background",
    "smiling face with sunglasses, 3d",
    "a house, 3d",
    "a strawberry, 3d",
    "a guitar, 3d, blue background",
    "a tree, twemoji",
    "a penguin, 3d",
    "a hamburger, flat",
    "a soccer ball, 3d, pink background",
)
COLUMNS, SIDE, LINE, GAP = 6, 160, 34, 8


def draw(shelf: ModelShelf, prompt: str) -> Image.Image:
    """Make one picture."""
    request = Request(prompt=Prompt(text=prompt), sampling=Sampling(guidance=4.0), canvas=Canvas(seed=1))
    (result,) = (event for event in generate(request, shelf) if isinstance(event, Result))
    return result.image


def sheet(pictures: list[Image.Image]) -> Image.Image:
    """Lay the pictures out with their prompts below them."""
    rows = -(-len(pictures) // COLUMNS)
    out = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + LINE + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(12)
    for place, (picture, prompt) in enumerate(zip(pictures, PROMPTS, strict=True)):
        left = GAP + place % COLUMNS * (SIDE + GAP)
        top = GAP + place // COLUMNS * (SIDE + LINE + GAP)
        out.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top))
        pen.multiline_text(
            (left, top + SIDE + 3), prompt.replace(", ", ",\n", 1), fill="black", font=font, spacing=2
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    shelf = ModelShelf(Path("models"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet([draw(shelf, prompt) for prompt in PROMPTS]).save(options.output)


if __name__ == "__main__":
    main()
