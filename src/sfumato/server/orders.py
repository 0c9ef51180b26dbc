"""From what a client sent to what the engine takes: a `Request`, and a `Script` where one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sfumato.app.jobs import Script
from sfumato.diffusion.samplers import resolve
from sfumato.errors import RequestError
from sfumato.pipeline import metadata
from sfumato.pipeline.infotext import Infotext, parse
from sfumato.pipeline.scripts import fields
from sfumato.server import scripts
from sfumato.server.options import DEFAULTS, checked, values_of
from sfumato.server.schemas import BESIDE, ExtrasBody, GenerationBody, Img2ImgBody, Txt2ImgBody
from sfumato.text.styles import Style
from sfumato.types import MAX_SEED, Request

MAX_SOURCES = 64  # pictures that one request starts from
SAME = ("", "None", "Use same checkpoint", "Use same sampler", "Use same scheduler", "Automatic")
UNSET: tuple[str, ...] = (  # names of which those values mean: not given
    "hr_checkpoint_name",
    "hr_sampler_name",
    "hr_scheduler",
    "hr_upscaler",
    "refiner_checkpoint",
)
_IN_INFOTEXT: Mapping[str, str] = MappingProxyType(  # API defaults that infotext overrules, by its keys
    {
        "steps": "Steps",
        "sampler_index": "Sampler",
        "scheduler": "Schedule type",
        "cfg_scale": "CFG scale",
        "seed": "Seed",
        "width": "Size",
        "height": "Size",
        "denoising_strength": "Denoising strength",
        "inpainting_fill": "Masked content",
        "inpaint_full_res": "Inpaint area",
        "inpaint_full_res_padding": "Masked area padding",
        "hr_scale": "Hires upscale",
    }
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the engine is to be given, a job each."""

    requests: tuple[Request, ...]
    script: Script | None = None


@dataclass(frozen=True, kw_only=True)
class House:
    """What there is beside the request: the owner's settings, the styles, the checkpoints."""

    options: Mapping[str, Any]  # those that are not at their defaults
    styles: Mapping[str, Style]
    restorers: tuple[str, ...]  # of faces
    checkpoint: Callable[[str], str | None]  # the name a shelf knows; raises ModelNotFoundError
    keep: Callable[[str, str], Path]  # a picture from its text and its field's name; see `Desk.keep`


def txt2img(body: Txt2ImgBody, house: House) -> Order:
    """Text to image. Raises RequestError, PromptError, ModelNotFoundError: what is wrong with it."""
    request = _request(body, house, pictures_={})
    return Order(requests=(request,), script=_script(body, request, house, img2img=False))


def img2img(body: Img2ImgBody, house: House) -> Order:
    """Image to image, for each of its pictures. Raises as `txt2img` does, and what `House.keep` does."""
    sources = body.init_images or ()
    if not sources:
        raise RequestError("init_images: empty; expected one picture at least")
    if len(sources) > MAX_SOURCES:
        raise RequestError(f"init_images: {len(sources)} pictures; at most {MAX_SOURCES} at once")
    mask = body.mask or body.latent_mask
    given = {"mask.image": house.keep(mask, "mask")} if mask else {}
    requests = []
    for number, text in enumerate(sources):
        image = house.keep(text, f"init_images[{number}]")
        request = _request(body, house, pictures_={**given, "source.image": image})
        if request.canvas.seed >= 0:
            seed = (request.canvas.seed + number) % (MAX_SEED + 1)
            request = replace(request, canvas=replace(request.canvas, seed=seed))
        requests.append(scripts.outpainted(body, request))
    return Order(requests=tuple(requests), script=_script(body, requests[0], house, img2img=True))


def extras(body: ExtrasBody, image: Path, infotext: str) -> Order:
    """A finished picture made larger. Raises RequestError: a factor or size that makes no sense."""
    to_size = body.resize_mode == 1
    arguments = {
        "upscaler": body.upscaler_1,
        "second_upscaler": body.upscaler_2,
        "second_visibility": body.extras_upscaler_2_visibility,
        "scale": body.upscaling_resize,
        "width": body.upscaling_resize_w if to_size else None,
        "height": body.upscaling_resize_h if to_size else None,
        "crop": body.upscaling_crop,
        "gfpgan_visibility": body.gfpgan_visibility,
        "codeformer_visibility": body.codeformer_visibility,
        "codeformer_weight": body.codeformer_weight,
        "infotext": infotext,
    }
    request = fields.with_values(Request(), {"source.image": image, "canvas.seed": 0})
    return Order(requests=(request,), script=Script(name="extras", arguments=arguments))


def _script(body: GenerationBody, request: Request, house: House, *, img2img: bool) -> Script | None:
    """The script that is named; without one, that which restores faces, if they are to be and it is here."""
    script = scripts.script_of(body, request, img2img=img2img)
    settings = {**DEFAULTS, **house.options, **checked(body.override_settings or {})}
    wanted = settings["face_restoration"] if body.restore_faces is None else body.restore_faces
    restorer = settings["face_restoration_model"]
    if script is None and wanted and restorer in house.restorers:
        weight = settings["code_former_weight"]
        return Script(name="faces", arguments={"restorer": restorer, "weight": weight})
    return script


def _request(body: GenerationBody, house: House, pictures_: Mapping[str, Path]) -> Request:
    info = parse(body.infotext) if body.infotext else None
    base = Request() if info is None else _told(info)
    row = _row(body, info)
    sampler = str(row.get("sampler_name") or row.get("sampler_index") or base.sampling.sampler)
    settings = {**house.options, **checked(body.override_settings or {})}
    if settings.get("sd_model_checkpoint"):
        settings["sd_model_checkpoint"] = house.checkpoint(settings["sd_model_checkpoint"])
    for name in {"refiner_checkpoint", "hr_checkpoint_name"} & set(row):
        row[name] = house.checkpoint(row[name])
    if settings.get("sd_vae") in SAME:
        settings.pop("sd_vae", None)
    base = fields.with_values(base, values_of(settings, sampler))
    request = fields.from_row(base, row, house.styles)
    request = scripts.always_on(body.alwayson_scripts, request, house.checkpoint)
    resolve(request.sampling.sampler, request.sampling.schedule)
    return fields.with_values(request, pictures_)


def _row(body: GenerationBody, info: Infotext | None) -> dict[str, Any]:
    """The fields of a body that are a Request's, as `fields.from_row` takes them."""
    given = body.model_dump(exclude=set(BESIDE) - {"styles"})
    for name in set(given) - body.model_fields_set:
        key = _IN_INFOTEXT.get(name, "")
        if info is not None and (info.text(key) or name not in _IN_INFOTEXT):
            del given[name]
    row = {name: _plain(value) for name, value in given.items() if value is not None}
    for name in UNSET:
        if row.get(name) in SAME:
            row.pop(name, None)
    if row.get("sampler_name"):
        row.pop("sampler_index", None)
    else:
        row.pop("sampler_name", None)
    for name in ("seed", "subseed"):
        if name in row:
            row[name] = max(-1, row[name])
    for name in ("seed_resize_from_w", "seed_resize_from_h"):
        if row.get(name, 0) <= 0:
            row.pop(name, None)
    for name in ("width", "height"):
        if row.get(name, 0) >= 8:
            row[name] = row[name] // 8 * 8
    if row.get("s_tmax") == 0:
        del row["s_tmax"]
    if "inpainting_mask_invert" in row:
        row["inpainting_mask_invert"] = bool(row["inpainting_mask_invert"])
    if not 0 < row.get("refiner_switch_at", 0) < 1:
        row.pop("refiner_switch_at", None)
        row.pop("refiner_checkpoint", None)
    if "mask_blur" in row:
        row.pop("mask_blur_x", None)
        row.pop("mask_blur_y", None)
    if isinstance(body, Txt2ImgBody) and not body.enable_hr and "enable_hr" in row:
        row = {name: value for name, value in row.items() if not name.startswith("hr_")}
        row.pop("denoising_strength", None)
    row.pop("mask", None)  # a picture, and no path
    return row


def _told(info: Infotext) -> Request:
    """The request that infotext describes, without what it may not decide here: which weights."""
    told = metadata.request_of(info)
    default = Request()
    return replace(
        told,
        model=default.model,
        refiner=default.refiner,
        hires=replace(told.hires, checkpoint=None),
        source=replace(told.source, image=None),
    )


def _plain(value: Any) -> Any:
    """A value without half characters, which no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value
