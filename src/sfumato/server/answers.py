"""From finished jobs to what AUTOMATIC1111's clients expect: pictures in base64, `info` as a JSON string."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import Image

from sfumato import __version__
from sfumato.app.engine import Engine
from sfumato.app.jobs import Job, Made
from sfumato.pipeline import images, metadata
from sfumato.pipeline.infotext import parse
from sfumato.pipeline.source import flatten
from sfumato.server import pictures
from sfumato.server.files import read_inside
from sfumato.types import Request

STANDARD = (
    "Steps",
    "Sampler",
    "CFG scale",
    "Seed",
    "Size-1",
    "Size-2",
    "Model hash",
    "Model",
    "VAE hash",
    "VAE",
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a client wants its pictures."""

    file_format: str = "png"
    send: bool = True
    grid: bool = False  # one of all pictures in front of them


def ordered(jobs: Sequence[Job]) -> tuple[list[Made], list[Made]]:
    """The grids of jobs, that of all first, and their pictures."""
    made = [each for job in jobs for each in job.made]
    grids = [each for each in made if each.index < 0]
    return grids[:1] + grids[:0:-1], [each for each in made if each.index >= 0]


def generation(
    jobs: Sequence[Job], engine: Engine, wanted: Wanted, echo: Mapping[str, Any], styles: Sequence[str]
) -> dict[str, Any]:
    """The answer to a request for pictures.

    Args:
        jobs: that made them, ended.
        engine: that has their files.
        wanted: how they are wanted.
        echo: the request, as it goes back.
        styles: that it named.
    """
    grids, singles = ordered(jobs)
    files = [file_bytes(engine, each, wanted.file_format) for each in (*grids, *singles)]
    infotexts = [each.infotext for each in (*grids, *singles)]
    first = len(grids)
    if wanted.grid and not grids and len(singles) > 1:
        sheet = images.grid([images.open_image(engine.file(each)).convert("RGB") for each in singles])
        files.insert(0, images.encoded(sheet, infotexts[0], wanted.file_format))
        infotexts.insert(0, infotexts[0])
        first = 1
    told = info(jobs, singles, infotexts, first, styles)
    return {
        "images": [pictures.write(each) for each in files] if wanted.send else [],
        "parameters": dict(echo),
        "info": json.dumps(told),
    }


def info(
    jobs: Sequence[Job], singles: Sequence[Made], infotexts: Sequence[str], first: int, styles: Sequence[str]
) -> dict[str, Any]:
    """What was made, by the names of the web UI."""
    requests = [metadata.read(each.infotext) for each in singles] or [jobs[0].request]
    request, made = requests[0], parse(infotexts[-len(singles)] if singles else "")
    seeds = [each.seed for each in singles] or [request.canvas.seed]
    return {
        "prompt": request.prompt.text,
        "all_prompts": [each.prompt.text for each in requests],
        "negative_prompt": request.prompt.negative,
        "all_negative_prompts": [each.prompt.negative for each in requests],
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": request.variation.seed,
        "all_subseeds": [each.variation.seed for each in requests],
        "subseed_strength": request.variation.strength,
        "width": request.canvas.width or (singles[0].width if singles else 0),
        "height": request.canvas.height or (singles[0].height if singles else 0),
        "sampler_name": request.sampling.sampler,
        "cfg_scale": request.sampling.guidance,
        "steps": request.sampling.steps,
        "batch_size": jobs[0].request.canvas.batch_size,
        "restore_faces": made.text("Face restoration") is not None,
        "face_restoration_model": made.text("Face restoration"),
        "sd_model_name": made.text("Model") or "",
        "sd_model_hash": made.text("Model hash") or "",
        "sd_vae_name": made.text("VAE"),
        "sd_vae_hash": made.text("VAE hash"),
        "seed_resize_from_w": request.variation.from_width or -1,
        "seed_resize_from_h": request.variation.from_height or -1,
        "denoising_strength": _strength(jobs[0].request),
        "extra_generation_params": {
            key: value for key, value in made.fields.items() if key not in STANDARD and key != "Version"
        },
        "index_of_first_image": first,
        "infotexts": list(infotexts),
        "styles": list(styles),
        "job_timestamp": timestamp(jobs[0]),
        "clip_skip": request.prompt.clip_skip,
        "is_using_inpainting_conditioning": False,
        "version": f"Sfumato {__version__}",
    }


def timestamp(job: Job) -> str:
    """When a job began, as the web UI writes it."""
    return datetime.fromtimestamp(job.started or job.created).astimezone().strftime("%Y%m%d%H%M%S")


def _strength(request: Request) -> float | None:
    if request.source.image is not None:
        return request.source.denoising_strength
    return request.hires.denoising_strength if request.hires.enabled else None


def file_bytes(engine: Engine, made: Made, file_format: str) -> bytes:
    """The bytes of a finished picture in the format a client wants.

    Raises OutputError: its file is gone or damaged.
    """
    path, infotext = engine.file(made), made.infotext
    if path.suffix == f".{file_format}":
        return read_inside(engine.settings.outputs, made.file)
    image = images.open_image(path)
    shown: Image.Image = flatten(image, "#ffffff") if file_format == "jpg" else image
    return images.encoded(shown, infotext, file_format)
