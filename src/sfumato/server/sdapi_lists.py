"""The routes that tell what there is, and the settings: /sdapi/v1/samplers, sd-models, options and so on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch
from fastapi import APIRouter, HTTPException

from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import SCHEDULES
from sfumato.pipeline.embeddings import fits
from sfumato.pipeline.enlarge import LATENT_UPSCALERS
from sfumato.pipeline.upscalers import PUBLISHED, upscalers
from sfumato.server.desk import Here, Owner
from sfumato.server.scripts import ALWAYS_ON, TITLES, Argument
from sfumato.types import ModelChoice

router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])
Rows = list[dict[str, Any]]
SECRET = ("token", "password", "secret", "auth", "key", "cert", "url")  # in a setting's name: kept here
_RHO = {"Karras": 7.0, "Polyexponential": 1.0}


@router.get("/samplers")
def samplers() -> Rows:
    """Every sampler."""
    return [
        {
            "name": spec.name,
            "aliases": list(spec.aliases),
            "options": {"scheduler": spec.default_schedule.lower()} if not spec.own_levels else {},
        }
        for spec in SAMPLERS.values()
    ]


@router.get("/schedulers")
def schedulers() -> Rows:
    """Every schedule."""
    return [
        {
            "name": name.lower().replace(" ", "_"),
            "label": name,
            "aliases": list(spec.aliases) or None,
            "default_rho": _RHO.get(name, -1),
            "need_inner_model": spec.trained_only,
        }
        for name, spec in SCHEDULES.items()
    ]


@router.get("/upscalers")
def list_upscalers(desk: Here) -> Rows:
    """Every upscaler of pictures."""
    return [
        {
            "name": row.name,
            "model_name": row.path.stem if row.path else None,
            "model_path": row.path.name if row.path else None,
            "model_url": None,
            "scale": 4.0,
        }
        for row in upscalers(desk.engine.settings.models)
    ]


@router.get("/latent-upscale-modes")
def latent_upscale_modes() -> Rows:
    """Every upscaler of latents."""
    return [{"name": name} for name in LATENT_UPSCALERS]


@router.get("/realesrgan-models")
def realesrgan_models(desk: Here) -> Rows:
    """The upscalers of Real-ESRGAN's authors that are here."""
    return [
        {"name": row.name, "path": row.path.name, "scale": 4}
        for row in upscalers(desk.engine.settings.models)
        if row.path and row.name in PUBLISHED
    ]


@router.get("/face-restorers")
def face_restorers(desk: Here) -> Rows:
    """What restores faces, as far as it is here."""
    return [{"name": name, "cmd_dir": None} for name in desk.restorers()]


@router.get("/sd-models")
def sd_models(desk: Here) -> Rows:
    """Every checkpoint."""
    return list(desk.catalogue.checkpoints())


@router.get("/sd-vae")
def sd_vae(desk: Here) -> Rows:
    """Every autoencoder that can take the place of a checkpoint's own."""
    return [{"model_name": each.path.name, "filename": each.name} for each in desk.catalogue.models("VAE")]


@router.get("/hypernetworks")
def hypernetworks(desk: Here) -> Rows:
    """Every hypernetwork."""
    return [
        {"name": Path(each.name).name, "path": each.name + each.path.suffix}
        for each in desk.catalogue.hypernetworks()
    ]


@router.get("/prompt-styles")
def prompt_styles(desk: Here) -> Rows:
    """Every style."""
    return [
        {"name": each.name, "prompt": each.prompt, "negative_prompt": each.negative}
        for each in desk.styles().values()
    ]


@router.get("/embeddings")
def embeddings(desk: Here, owner: Owner) -> dict[str, dict[str, Any]]:
    """Every embedding: those that the caller's checkpoint can read, and the others."""
    width = desk.engine.shelf.text_width(desk.options.values(owner)["sd_model_checkpoint"])
    told: dict[str, dict[str, Any]] = {"loaded": {}, "skipped": {}}
    for each in desk.engine.shelf.adapters.embeddings.all():
        count, own = each.vectors.shape
        part = "loaded" if width is None or fits(each, width) else "skipped"
        told[part][each.name] = {
            "step": each.step,
            "sd_checkpoint": each.checkpoint_hash,
            "sd_checkpoint_name": each.checkpoint,
            "shape": own,
            "vectors": count,
        }
    return told


@router.get("/loras")
def loras(desk: Here) -> Rows:
    """Every LoRA file."""
    return [
        {
            "name": Path(each.name).name,
            "alias": each.metadata.get("ss_output_name", Path(each.name).name),
            "path": each.name + each.path.suffix,
            "metadata": dict(each.metadata),
        }
        for each in desk.catalogue.models("LoRA")
    ]


@router.post("/refresh-checkpoints")
@router.post("/refresh-vae")
@router.post("/refresh-loras")
@router.post("/refresh-embeddings")
def refresh() -> None:
    """Nothing to do: every list is read from the folder."""


@router.get("/options")
def options(desk: Here, owner: Owner) -> dict[str, Any]:
    """The caller's settings."""
    values = desk.options.values(owner)
    title = desk.catalogue.title(values["sd_model_checkpoint"])
    return values | {"sd_model_checkpoint": title, "sd_checkpoint_hash": title.partition(" [")[2].rstrip("]")}


@router.post("/options")
def set_options(body: dict[str, Any], desk: Here, owner: Owner) -> None:
    """Change some of the caller's settings."""
    given = dict(body)
    if given.get("sd_model_checkpoint"):
        given["sd_model_checkpoint"] = desk.catalogue.name(str(given["sd_model_checkpoint"]))
    desk.options.change(owner, given)


@router.get("/cmd-flags")
def cmd_flags(desk: Here) -> dict[str, Any]:
    """How the server was started; secrets and places stay here."""
    flags: dict[str, Any] = {"api": True}
    for name, value in desk.engine.settings.model_dump().items():
        if any(part in name for part in SECRET):
            flags[name] = None if value is None else "(not told)"
        else:
            flags[name] = value.name if isinstance(value, Path) else value
    return flags


@router.get("/memory")
def memory() -> dict[str, dict[str, Any]]:
    """What memory there is."""
    ram, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    told: dict[str, Any] = {"free": ram.total - own, "used": own, "total": ram.total}
    if not torch.cuda.is_available():
        return {"ram": told, "cuda": {"error": "no CUDA device"}}
    free, total = torch.cuda.mem_get_info()
    stats = torch.cuda.memory_stats()
    parts = {
        part: {
            "current": stats.get(f"{key}.all.current", 0),
            "peak": stats.get(f"{key}.all.peak", 0),
        }
        for part, key in (
            ("active", "active_bytes"),
            ("allocated", "allocated_bytes"),
            ("reserved", "reserved_bytes"),
            ("inactive", "inactive_split_bytes"),
        )
    }
    events = {"retries": stats.get("num_alloc_retries", 0), "oom": stats.get("num_ooms", 0)}
    system = {"free": free, "used": total - free, "total": total}
    return {"ram": told, "cuda": {"system": system, **parts, "events": events}}


@router.post("/unload-checkpoint")
def unload_checkpoint(desk: Here) -> dict[str, str]:
    """Put the models away until they are needed."""
    desk.engine.shelf.clear()
    return {}


@router.post("/reload-checkpoint")
def reload_checkpoint(desk: Here, owner: Owner) -> dict[str, str]:
    """Load the caller's checkpoint."""
    desk.engine.shelf.load(ModelChoice(checkpoint=desk.options.values(owner)["sd_model_checkpoint"]))
    return {}


@router.get("/scripts")
def scripts() -> dict[str, list[str]]:
    """Titles of scripts."""
    return {
        "txt2img": [*ALWAYS_ON, *(name for name, title in TITLES.items() if title.txt2img)],
        "img2img": [*ALWAYS_ON, *(name for name, title in TITLES.items() if title.img2img)],
    }


@router.get("/script-info")
def script_info() -> Rows:
    """Scripts with their arguments, in the order in which they are sent."""
    rows = []
    for img2img in (False, True):
        for name, arguments in ALWAYS_ON.items():
            rows.append(_script(name, arguments, always=True, img2img=img2img))
        for name, title in TITLES.items():
            if title.img2img if img2img else title.txt2img:
                rows.append(_script(name, title.arguments, always=False, img2img=img2img))
    return rows


@router.get("/extensions")
def extensions() -> Rows:
    """None: code of others is not run."""
    return []


@router.post("/create/embedding")
@router.post("/create/hypernetwork")
@router.post("/train/embedding")
@router.post("/train/hypernetwork")
def train() -> dict[str, str]:
    """Not over this API."""
    raise HTTPException(
        404, "embeddings and hypernetworks are not made over this API yet; `sfumato train` trains models"
    )


def _script(name: str, arguments: tuple[Argument, ...], *, always: bool, img2img: bool) -> dict[str, Any]:
    return {
        "name": name,
        "is_alwayson": always,
        "is_img2img": img2img,
        "args": [
            {
                "label": each.label,
                "value": each.value,
                "minimum": each.minimum,
                "maximum": each.maximum,
                "step": each.step,
                "choices": None if each.choices is None else list(each.choices),
            }
            for each in arguments
        ],
    }
