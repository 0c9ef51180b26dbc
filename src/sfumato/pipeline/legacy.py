"""What older programs wrote into pictures, in today's keys.

DPM++ 2M Karras                        sampler and schedule in one name, until web UI 1.8
Sampler: DPM++ 2M, Version: v1.8.0     without a schedule: the model's own levels, not today's default
First pass size: 512x512               the second pass before 2023: Size was that of its end
Beta scheduler alpha                   a key that the web UI writes in one way and reads in another
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import MappingProxyType

from sfumato.pipeline.infotext import Infotext

SCHEDULES = (  # names and aliases with which a sampler's name may end
    "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "SGMUniform", "KL Optimal",
    "Align Your Steps", "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip
_BY_THE_MODEL = (  # samplers that had the model's own levels until they were given a schedule
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "DPM2",
    "DPM2 a",
)  # fmt: skip
_UNMET = (  # keys of what changes a picture elsewhere and is not done here, as a text begins
    "Face restoration", "FP8 weight", "Token merging ratio", "Hypertile", "SGM noise multiplier",
    "NGMS all steps", "Pad conds", "Noise Schedule", "Old prompt editing timelines", "VAE Encoder",
    "Downcast alphas_cumprod", "Refiner switch by sampling steps", "VAE Decoder", "Lora hashes", "TI hashes",
    "Hypernet", "AddNet", "ControlNet",
)  # fmt: skip
_VERSION = re.compile(r"v(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")


def modernised(info: Infotext) -> Infotext:
    """The same parameters in the keys of today. What is of today stays as it is."""
    fields = dict(info.fields)
    for name in ("alpha", "beta"):
        if f"Beta scheduler {name}" in fields:
            fields.setdefault(f"Beta schedule {name}", fields[f"Beta scheduler {name}"])
    _split_sampler(fields, "Sampler", "Schedule type")
    _split_sampler(fields, "Hires sampler", "Hires schedule type")
    version = web_ui_version(info)
    if version is not None and version < (1, 9, 0) and fields.get("Sampler") in _BY_THE_MODEL:
        fields.setdefault("Schedule type", "Uniform")
    _first_pass(fields)
    return replace(info, fields=MappingProxyType(fields))


def web_ui_version(info: Infotext) -> tuple[int, int, int] | None:
    """Of the web UI that wrote it; None where it is another program or does not say."""
    match = _VERSION.match(info.text("Version") or "")
    return None if match is None else (int(match[1]), int(match[2]), int(match[3] or 0))


def _split_sampler(fields: dict[str, str], sampler: str, schedule: str) -> None:
    name = fields.get(sampler, "")
    for label in sorted(SCHEDULES, key=len, reverse=True):
        stem = name[: -len(label) - 1]
        if stem and schedule not in fields and name.casefold() == f"{stem} {label}".casefold():
            fields[sampler], fields[schedule] = stem, label
            return


def _first_pass(fields: dict[str, str]) -> None:
    """Make `Size` that of the first pass and name the end's size, as since January 2023."""
    old = [fields.pop(f"First pass size-{side}", None) for side in (1, 2)]
    end = [fields.get(f"Size-{side}", "") for side in (1, 2)]
    if None in old or not all(side.isdecimal() and len(side) < 6 for side in end):
        return
    first = [int(str(side)[:6]) for side in old]
    if 0 in first:  # both sides scaled to the area of 512×512, up to the next 64
        scale = math.sqrt(512 * 512 / max(1, int(end[0]) * int(end[1])))
        first = [math.ceil(scale * int(side) / 64) * 64 for side in end]
    fields["Hires resize-1"], fields["Hires resize-2"] = end
    fields["Size-1"], fields["Size-2"] = map(str, first)


def unmet(info: Infotext) -> list[str]:
    """What of these parameters has no counterpart here, one line each; a picture made again will differ."""
    lines = [f"{key}: not done here" for key in info.fields if key.startswith(_UNMET)]
    version = web_ui_version(info)
    if version is not None and version < (1, 6, 0):
        lines.append("before web UI 1.6: prompt editing counted its steps in another way")
    if version is not None and version < (1, 8, 0):
        lines.append("before web UI 1.8: noise levels were rounded to half precision")
    return lines
