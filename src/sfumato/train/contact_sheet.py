"""A data set at a glance: its buckets, in each some pictures as training sees them, with their captions."""

from collections.abc import Mapping

from PIL import Image, ImageDraw

from sfumato.pipeline.scripts.grids import Legend, Line, sheet
from sfumato.train.buckets import Fit, Size
from sfumato.train.catalogue import Picture
from sfumato.train.dataset import Found
from sfumato.train.pictures import solid

COLUMNS, ROWS = 6, 12
_SIDE = 160  # the longer side of a bucket, pixels
_LETTERS = 12
_MARGIN = 14
_CUT_OFF, _UNCOUNTED = (128, 128, 128), (200, 0, 200)
_EDGE = (255, 140, 0)
_VEIL = 0.65  # how much of a colour lies over what training does not see


def contact_sheet(found: Found) -> Image.Image:
    """Draw some pictures of every bucket in use.

    What is cropped away is grey outside an orange frame; where the loss does not count it is purple.

    Args:
        found: pictures that were looked through.
    """
    chosen = _chosen(found)
    cells, labels = [], []
    columns = min(COLUMNS, max(map(len, chosen.values())))
    for size, pictures in chosen.items():
        count, visits = found.catalogue.shapes()[size]
        cells += [_cell(found, picture) for picture in pictures]
        blank = Image.new("RGB", (1, 1), "white")
        cells += [blank] * (-len(pictures) % columns)
        told = [Line(f"{size[0]} x {size[1]}"), Line(f"{counted(count, 'picture')}, {visits} a round")]
        labels += [told] + [[Line("")]] * (-(-len(pictures) // columns) - 1)
    return sheet(cells, columns, Legend(rows=labels), _MARGIN, letters=_LETTERS + 2)


def _chosen(found: Found) -> Mapping[Size, list[Picture]]:
    """Choose the first pictures of each bucket: a row of them, and more where it holds more of the set."""
    shapes = found.catalogue.shapes()
    total = sum(count for count, _ in shapes.values())
    room = {size: COLUMNS * max(1, round(ROWS * count / total)) for size, (count, _) in shapes.items()}
    return {size: found.catalogue.first(size, room[size]) for size in shapes}


def _cell(found: Found, picture: Picture) -> Image.Image:
    """Draw a picture below its caption."""
    fit = found.catalogue.fit(picture)
    scale = _SIDE / max(fit.bucket)
    size = max(1, round(fit.resized[0] * scale)), max(1, round(fit.resized[1] * scale))
    image = solid(found.colours(picture)).resize(size, Image.Resampling.LANCZOS)
    if found.is_masked(picture):
        mask = found.mask(picture).resize(size, Image.Resampling.BOX)
        image = Image.composite(image, _veiled(image, _UNCOUNTED), mask)
    image = _framed(image, fit, scale)
    text = " | ".join(picture.caption.split("\n")) or "(no caption)"
    return sheet([image], 1, Legend(columns=[[Line(text, holds=bool(picture.caption))]]), letters=_LETTERS)


def _framed(image: Image.Image, fit: Fit, scale: float) -> Image.Image:
    if fit.room == (0, 0):
        return image
    left, top = (round(room // 2 * scale) for room in fit.room)
    right, bottom = left + round(fit.bucket[0] * scale), top + round(fit.bucket[1] * scale)
    box = left, top, min(right, image.width), min(bottom, image.height)
    out = _veiled(image, _CUT_OFF)
    out.paste(image.crop(box), box)
    ImageDraw.Draw(out).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=_EDGE, width=2)
    return out


def _veiled(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    return Image.blend(image, Image.new("RGB", image.size, colour), _VEIL)


def counted(number: int, what: str) -> str:
    """Say how many there are."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
