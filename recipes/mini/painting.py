"""Draw what inpainting and outpainting look like: a photograph and a picture of the embedded model, each.

python -m recipes.mini.painting docs/images

Writes inpaint.png and outpaint.png. The photograph is scikit-image's `coffee`, by Rachel Michetti (CC0).
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw
from skimage import data

from sfumato.pipeline.generate import generate
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Mask, Outpaint, Prompt, Request, Result, Sampling, Source

GAP = 8


def make(
    shelf: ModelShelf,
    prompt: str,
    seed: int,
    *,
    guidance: float = 4.0,
    source: Source | None = None,
    mask: Mask | None = None,
    outpaint: Outpaint | None = None,
    side: int | None = None,
) -> Image.Image:
    """Make one picture."""
    request = Request(
        prompt=Prompt(text=prompt),
        sampling=Sampling(guidance=guidance),
        canvas=Canvas(seed=seed, width=side, height=side),
        source=source or Source(),
        mask=mask or Mask(),
        outpaint=outpaint or Outpaint(),
    )
    (result,) = (event for event in generate(request, shelf) if isinstance(event, Result))
    return result.image


def outlined(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with what is masked made paler."""
    return Image.composite(Image.blend(image, Image.new("RGB", image.size, "white"), 0.6), image, mask)


def photograph() -> Image.Image:
    """A cup of coffee, 600×400."""
    return Image.fromarray(data.coffee())  # type: ignore[no-untyped-call]


def inpainted(shelf: ModelShelf) -> list[Image.Image]:
    """The photograph with its mask and repainted; then a face."""
    photo = photograph()
    plate = Image.new("L", photo.size)
    ImageDraw.Draw(plate).ellipse((440, 200, 590, 350), fill=255)
    masked = Mask(image=plate, area="Only masked", padding=12, content="fill")
    started = Source(image=photo, denoising_strength=0.9)
    cookie = make(shelf, "a cookie, 3d", 2, source=started, mask=masked, side=128)
    face = make(shelf, "smiling face, 3d", 1)
    eyes = Image.new("L", face.size)
    ImageDraw.Draw(eyes).rectangle((12, 30, 116, 72), fill=255)
    glasses = make(
        shelf,
        "smiling face with sunglasses, 3d",
        1,
        source=Source(image=face, denoising_strength=0.9),
        mask=Mask(image=eyes),
    )
    return [outlined(photo, plate), cookie, outlined(face, eyes), glasses]


def outpainted(shelf: ModelShelf) -> list[Image.Image]:
    """The photograph and the same with more of the table; a rocket and the same with more sky."""
    photo = photograph().resize((192, 128), Image.Resampling.LANCZOS)
    table = make(
        shelf,
        "",
        60,
        guidance=1,
        source=Source(image=photo, denoising_strength=0.4),
        outpaint=Outpaint(left=32, right=32),
    )
    rocket = make(shelf, "a rocket, 3d, blue background", 1)
    sky = make(
        shelf,
        "blue background",
        30,
        guidance=1,
        source=Source(image=rocket, denoising_strength=0.5),
        outpaint=Outpaint(left=48, right=48),
    )
    return [photo, table, rocket, sky]


def row(pictures: list[Image.Image], height: int) -> Image.Image:
    """Lay pictures side by side at one height."""
    sized = [
        each.resize((round(each.width * height / each.height), height), Image.Resampling.LANCZOS)
        for each in pictures
    ]
    out = Image.new("RGB", (sum(each.width + GAP for each in sized) - GAP, height), "white")
    left = 0
    for each in sized:
        out.paste(each, (left, 0))
        left += each.width + GAP
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shelf = ModelShelf(Path("models"))
    folder.mkdir(parents=True, exist_ok=True)
    row(inpainted(shelf), 240).save(folder / "inpaint.png")
    row(outpainted(shelf), 160).save(folder / "outpaint.png")


if __name__ == "__main__":
    main()
