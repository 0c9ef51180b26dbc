"""The first pass of a picture of Hires. fix: what the same request made without it, in the gallery."""

from __future__ import annotations

from pathlib import Path

from sfumato.app.gallery import Gallery
from sfumato.app.gallery_table import Filter
from sfumato.app.jobs import Job, Made


def first_pass(gallery: Gallery, job: Job, made: Made) -> Path | None:
    """Where it is.

    Args:
        gallery: that the picture is in, too.
        job: that made the picture.
        made: the picture.

    Returns:
        None where there is none, and where a refiner makes the first pass alone another picture.
    """
    if not job.request.hires.enabled or job.request.refiner.checkpoint is not None:
        return None
    same = Filter(job=job.id, seed=made.seed)
    own = next((each for each in gallery.pages(same, job.owner) if each.file == made.file), None)
    if own is None or own.request is None:
        return None
    wanted = {part: values for part, values in own.request.items() if part != "hires"}
    for each in gallery.pages(Filter(seed=made.seed, model=own.model), job.owner):
        request = dict(each.request or {})
        if not request.pop("hires", {}).get("enabled") and request == wanted:
            return gallery.path(each)
    return None
