"""Draw the README's picture of upscaling: small pictures and the middles of what each upscaler makes of them.

python -m recipes.upscalers docs/images/upscalers.png
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from recipes.mini.showcase import draw
from sfumato.pipeline.shelf import ModelShelf
from sfumato.pipeline.upscale import upscale_image
from sfumato.pipeline.upscalers import Upscaler, load

UPSCALERS = ("Nearest", "Lanczos", "R-ESRGAN 4x+ Anime6B", "R-ESRGAN 4x+")
SMALL, SCALE = 128, 4
SIDE, LINE, GAP = 216, 18, 6


def small_pictures() -> list[Image.Image]:
    """One of the embedded model's, and photographs (public domain; CC0) at the size it works at."""
    shelf = ModelShelf(Path("models"))
    crops = ((data.chelsea, (100, 20, 356, 276)), (data.astronaut, (100, 0, 356, 256)))
    photographs = [
        Image.fromarray(load_photo())  # type: ignore[no-untyped-call]
        .crop(box)
        .resize((SMALL, SMALL), Image.Resampling.LANCZOS)
        for load_photo, box in crops
    ]
    return [draw(shelf, "smiling face with sunglasses, 3d"), *photographs]


def enlarged(image: Image.Image, upscaler: Upscaler) -> Image.Image:
    """The middle of the picture, four times larger."""
    size = SCALE * SMALL
    *_, out = upscale_image(image, size, size, upscaler)
    assert isinstance(out, Image.Image)
    start = (size - SIDE) // 2
    return out.crop((start, start, start + SIDE, start + SIDE))


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """A row a picture, a column an upscaler."""
    width, height = len(UPSCALERS) * (SIDE + GAP) - GAP, len(rows) * (SIDE + GAP) + LINE
    out = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(13)
    for column, name in enumerate(UPSCALERS):
        pen.text((column * (SIDE + GAP), 0), name, fill="black", font=font)
        for row, pictures in enumerate(rows):
            out.paste(pictures[column], (column * (SIDE + GAP), LINE + GAP + row * (SIDE + GAP)))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    upscalers = [load(name, Path("models"), device=torch.device("cpu")) for name in UPSCALERS]
    rows = [[enlarged(image, upscaler) for upscaler in upscalers] for image in small_pictures()]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
