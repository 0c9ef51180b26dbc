"""What AUTOMATIC1111's web UI calls Extras: a picture enlarged by one upscaler or two, faces restored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from sfumato.errors import RequestError
from sfumato.pipeline.faces import FaceRestorer, restore_faces
from sfumato.pipeline.infotext import layout
from sfumato.pipeline.upscale import scaled_size, tiles_needed, upscale_image
from sfumato.pipeline.upscale_tiles import TileStep
from sfumato.pipeline.upscalers import Upscaler, UpscalerShelf

MAX_SCALE = 16.0
PARTS = ("second_visibility", "gfpgan_visibility", "codeformer_visibility", "codeformer_weight")


@dataclass(frozen=True, kw_only=True)
class Enlargement:
    """How a finished picture is enlarged: by `scale`, or to `width`×`height` where they are given."""

    upscaler: str = "R-ESRGAN 4x+"  # "None" leaves the picture as it is
    second_upscaler: str = "None"
    second_visibility: float = 0.0  # 0 to 1: how much of the second one's picture is laid over the first's
    scale: float = 4.0
    max_side: int = 0  # pixels that `scale` does not go beyond; 0 = no limit
    width: int | None = None
    height: int | None = None
    crop: bool = True  # cut what stands over width×height; else the picture covers it
    gfpgan_visibility: float = 0.0  # 0 to 1: how much of the faces GFPGAN restored is seen; 0 leaves it out
    codeformer_visibility: float = 0.0
    codeformer_weight: float = 0.0  # 0 to 1: 0 has the strongest effect

    def __post_init__(self) -> None:
        if not 0 < self.scale <= MAX_SCALE:
            raise RequestError(f"scale={self.scale} is not above 0 and up to {MAX_SCALE:g}")
        for part in PARTS:
            if not 0 <= getattr(self, part) <= 1:
                raise RequestError(f"{part}={getattr(self, part)} is not between 0 and 1")
        if self.max_side < 0:
            raise RequestError(f"max_side={self.max_side} is negative; 0 sets no limit")
        if (self.width is None) != (self.height is None):
            raise RequestError(f"width={self.width} and height={self.height}: give both or none")
        if self.width is not None and min(self.width, self.height or 0) < 1:
            raise RequestError(f"{self.width}×{self.height} is no size; both sides have 1 pixel at least")

    @property
    def upscalers(self) -> tuple[str, ...]:
        """Names of those that are used."""
        names = (self.upscaler, *((self.second_upscaler,) if self.second_visibility else ()))
        return () if self.upscaler == "None" else tuple(name for name in names if name != "None")

    @property
    def face_restorers(self) -> dict[str, float]:
        """Those that are used, in order, and how much of each is seen."""
        visible = {"GFPGAN": self.gfpgan_visibility, "CodeFormer": self.codeformer_visibility}
        return {name: visibility for name, visibility in visible.items() if visibility}


@dataclass(frozen=True, kw_only=True, eq=False)
class Enlarged:
    """The picture and what was done to it, by the keys of the infotext."""

    image: Image.Image
    parameters: Mapping[str, str]

    @property
    def infotext(self) -> str:
        """The parameters in one line."""
        return layout("", "", self.parameters.items())


def enlarge_image(
    image: Image.Image, enlargement: Enlargement, shelf: UpscalerShelf
) -> Iterator[TileStep | Enlarged]:
    """Enlarge a picture as Extras does.

    Args:
        image: any mode; transparency is kept.
        enlargement: by how much, with what.
        shelf: where the upscalers are.

    Yields:
        A TileStep after each tile, then the picture. Stop iterating to cancel.

    Raises:
        ModelNotFoundError: an upscaler or a restorer of faces that is not there.
        WeightsError: its file is broken or something else.
        RequestError: a result of too many pixels.
        OutOfMemoryError: not enough memory for it.
    """
    upscalers = [shelf.load(name) for name in enlargement.upscalers]
    restorers = {name: shelf.load_face_restorer(name) for name in enlargement.face_restorers}
    parameters: dict[str, str] = {}
    if upscalers:
        for event in _upscaled(image, enlargement, upscalers):
            if isinstance(event, TileStep):
                yield event
            else:
                image, parameters = event.image, dict(event.parameters)
    for name, restorer in restorers.items():
        visibility = enlargement.face_restorers[name]
        image = _with_faces(image, restorer, visibility, enlargement.codeformer_weight)
        parameters[f"{name} visibility"] = f"{visibility:g}"
        if name == "CodeFormer":
            parameters["CodeFormer weight"] = f"{enlargement.codeformer_weight:g}"
    yield Enlarged(image=image, parameters=parameters)


def _upscaled(
    image: Image.Image, enlargement: Enlargement, upscalers: Sequence[Upscaler]
) -> Iterator[TileStep | Enlarged]:
    size, parameters = plan(image.size, enlargement)
    counts = [tiles_needed(image.size, size, upscaler) for upscaler in upscalers]
    results: list[Image.Image] = []
    for upscaler in upscalers:
        for event in upscale_image(image, *size, upscaler):
            if isinstance(event, Image.Image):
                results.append(event)
            else:
                yield TileStep(done=sum(counts[: len(results)]) + event.done, total=sum(counts))
    out = results[0]
    if len(results) > 1:
        out = Image.blend(results[0], results[1], enlargement.second_visibility)
    keys = ("Postprocess upscaler", "Postprocess upscaler 2")
    parameters |= {key: upscaler.name for key, upscaler in zip(keys, upscalers, strict=False)}
    if "Postprocess crop to" in parameters:
        out = _centre(out, enlargement.width or 0, enlargement.height or 0)
    yield Enlarged(image=out, parameters=parameters)


def _with_faces(image: Image.Image, restorer: FaceRestorer, visibility: float, weight: float) -> Image.Image:
    colours = image.convert("RGB")
    out = Image.blend(colours, restore_faces(colours, restorer, weight), visibility)
    if image.has_transparency_data:
        out.putalpha(image.convert("RGBA").getchannel("A"))
    return out


def plan(size: tuple[int, int], enlargement: Enlargement) -> tuple[tuple[int, int], dict[str, str]]:
    """The size before cropping, and the parameters that describe it.

    A factor rounds each side down to a multiple of 8. A given size is covered: the wider side is rounded down
    to a multiple of 8 where that still covers it.
    """
    wide, high = size
    if enlargement.width is not None and enlargement.height is not None:
        box = enlargement.width, enlargement.height
        scaled = scaled_size(wide, high, max(box[0] / wide, box[1] / high))
        parameters = {"Postprocess upscale to": f"{box[0]}x{box[1]}"}
        if enlargement.crop:
            parameters["Postprocess crop to"] = f"{box[0]}x{box[1]}"
        return (max(scaled[0], box[0]), max(scaled[1], box[1])), parameters
    factor = enlargement.scale
    parameters = {"Postprocess upscale by": f"{factor:g}"}
    if enlargement.max_side and max(size) * factor > enlargement.max_side:
        factor = enlargement.max_side / max(size)
        parameters["Max side length"] = str(enlargement.max_side)
    return scaled_size(wide, high, factor), parameters


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of a picture, pasted by whole pixels as A1111 does."""
    left, top = image.width // 2 - width // 2, image.height // 2 - height // 2
    return image.crop((left, top, left + width, top + height))
