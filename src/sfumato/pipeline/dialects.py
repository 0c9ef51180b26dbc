"""Which program made a picture, from the texts it carries, and what of its parameters is a `Request`.

Sfumato and AUTOMATIC1111's web UI write infotext. ComfyUI, InvokeAI, NovelAI and Fooocus write JSON, which
sd-parsers takes apart; what it finds is put into infotext's keys, so that one reader checks every value.
Nothing in a picture is believed: sizes and nesting are bounded before anything is parsed, and a text that no
parser understands is a text without a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import infotext, legacy, metadata
from sfumato.pipeline.infotext import Infotext
from sfumato.types import Request

if TYPE_CHECKING:
    from sd_parsers.data import PromptInfo

MAX_JSON_CHARS = 4 * 2**20
MAX_NODES = 500  # of a ComfyUI graph
MAX_SAMPLERS = 20

_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)
_SAMPLERS: Mapping[str, str] = MappingProxyType(  # as other programs call them, without "k_" in front
    {
        "euler": "Euler",
        "euler_a": "Euler a",
        "euler_ancestral": "Euler a",
        "heun": "Heun",
        "lms": "LMS",
        "dpm_2": "DPM2",
        "dpm_2_a": "DPM2 a",
        "dpm_2_ancestral": "DPM2 a",
        "dpm_fast": "DPM fast",
        "dpm_adaptive": "DPM adaptive",
        "dpmpp_2m": "DPM++ 2M",
        "dpmpp_sde": "DPM++ SDE",
        "dpmpp_2m_sde": "DPM++ 2M SDE",
        "dpmpp_3m_sde": "DPM++ 3M SDE",
        "dpmpp_2s": "DPM++ 2S a",
        "dpmpp_2s_ancestral": "DPM++ 2S a",
        "ddim": "DDIM",
        "plms": "PLMS",
        "uni_pc": "UniPC",
        "unipc": "UniPC",
        "lcm": "LCM",
    }
)
_SCHEDULES: Mapping[str, str] = MappingProxyType(
    {
        "normal": "Normal",
        "native": "Automatic",
        "karras": "Karras",
        "exponential": "Exponential",
        "polyexponential": "Polyexponential",
        "sgm_uniform": "SGM Uniform",
        "simple": "Simple",
        "ddim_uniform": "DDIM",
        "beta": "Beta",
        "kl_optimal": "KL Optimal",
    }
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a picture says of itself."""

    program: str
    info: Infotext
    text: str  # infotext: as it stands in the picture, or put together from another dialect
    request: Request | None  # None where it cannot be one
    fault: str  # why not
    notes: tuple[str, ...]  # what of the parameters has no counterpart here


def origin(texts: Mapping[str, str]) -> Origin:
    """Say who made a picture, and from what.

    Args:
        texts: of the picture's file, by their keys; see `images.read_texts`.

    Raises:
        OutputError: there is nothing that any of the known programs writes, or too much of it.
    """
    for recognise in (_novelai, _infotext, _invokeai, _comfyui):
        found = recognise(texts)
        if found is not None:
            return found
    raise OutputError("carries no generation parameters")


def _infotext(texts: Mapping[str, str]) -> Origin | None:
    text = texts.get("parameters")
    if text is None:
        return None
    if text.lstrip().startswith("{"):
        return _fooocus(texts)
    try:
        info = infotext.parse(text)
    except RequestError as error:
        raise OutputError(str(error)) from error
    return _origin(_program(info), info, text, legacy.unmet(info))


def _program(info: Infotext) -> str:
    version = (info.text("Version") or "")[:80]
    if info.by_sfumato:
        return version
    if legacy.web_ui_version(info) is not None:
        return f"AUTOMATIC1111's web UI {version}"
    if re.match(r"f\d", version):
        return f"web UI Forge {version}"
    if info.text("App"):
        return f"{info.text('App')} {version}".strip()[:80]
    return version or "a program that writes like AUTOMATIC1111's web UI"


def _fooocus(texts: Mapping[str, str]) -> Origin:
    from sd_parsers.parsers import FooocusParser

    found = _parsed(FooocusParser().parse, "Fooocus", {"parameters": _bounded(texts["parameters"])})
    program = f"Fooocus {found.metadata.get('version', '')}".strip()[:80]
    size = re.findall(r"\d{1,6}", str(found.metadata.get("resolution", ""))[:40])
    return _translated(program, found, size=size[:2], more={"RNG": "CPU"})


def _novelai(texts: Mapping[str, str]) -> Origin | None:
    if texts.get("Software") != "NovelAI" or "Comment" not in texts:
        return None
    from sd_parsers.parsers import NovelAIParser

    given = {"Description": "", "Source": ""} | dict(texts) | {"Comment": _bounded(texts["Comment"])}
    found = _parsed(NovelAIParser().parse, "NovelAI", given)
    return _translated("NovelAI", found, more={"Clip skip": "2", "ENSD": "31337"})


def _invokeai(texts: Mapping[str, str]) -> Origin | None:
    keys = [key for key in ("sd-metadata", "invokeai_metadata", "Dream") if key in texts]
    if not keys:
        return None
    from sd_parsers.parsers import InvokeAIParser

    given = {key: _bounded(texts[key], is_json=key != "Dream") for key in keys}
    found = _parsed(InvokeAIParser().parse, "InvokeAI", given)
    program = f"InvokeAI {found.metadata.get('app_version', '')}".strip()[:80]
    return _translated(program, found, more={"RNG": "CPU"})


def _comfyui(texts: Mapping[str, str]) -> Origin | None:
    if "prompt" not in texts:
        return None
    from sd_parsers.parsers import ComfyUIParser

    try:
        graph = json.loads(_bounded(texts["prompt"]))
    except (ValueError, RecursionError):
        return None
    nodes = {str(key): node for key, node in graph.items()} if isinstance(graph, dict) else {}
    inputs: dict[str, dict[str, Any]] = {
        key: node["inputs"]
        for key, node in nodes.items()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    if not inputs:
        return None
    samplers = sum("sampler_name" in value and "steps" in value for value in inputs.values())
    if len(nodes) > MAX_NODES or samplers > MAX_SAMPLERS:
        raise OutputError(
            f"a ComfyUI graph of {len(nodes)} nodes and {samplers} samplers; "
            f"at most {MAX_NODES} and {MAX_SAMPLERS} are read"
        )
    found = _parsed(
        ComfyUIParser().parse, "ComfyUI", {"prompt": nodes, "workflow": {"links": list(_links(inputs))}}
    )
    sizes = [
        value
        for key, value in inputs.items()
        if nodes[key].get("class_type") in ("EmptyLatentImage", "EmptySD3LatentImage")
    ]
    size = [sizes[0].get("width"), sizes[0].get("height")] if len(sizes) == 1 else []
    return _translated("ComfyUI", found, size=size, more={"RNG": "CPU"})


def _links(inputs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    """The graph's edges, in the form of a workflow's, from the prompt: it is what was really run."""
    for target, values in inputs.items():
        for name, value in values.items():
            if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
                yield 0, str(value[0]), 0, target, 0, "CLIP" if name == "clip" else name


def _bounded(text: str, *, is_json: bool = True) -> str:
    if len(text) > MAX_JSON_CHARS:
        raise OutputError(
            f"generation parameters of {len(text):,} characters; at most {MAX_JSON_CHARS:,} are read"
        )
    if is_json and text.count("[") + text.count("{") > 100 * MAX_NODES:
        raise OutputError("generation parameters of more brackets than any program writes")
    return text


def _parsed(parse: Callable[[dict[str, Any]], PromptInfo], program: str, given: dict[str, Any]) -> PromptInfo:
    from sd_parsers.exceptions import ParserError

    try:
        found = parse(given)
    except (ParserError, *_DAMAGED) as error:
        raise OutputError(f"carries the mark of {program}, but its parameters are damaged") from error
    if not isinstance(found.metadata, dict) or not found.samplers:
        raise OutputError(f"carries the mark of {program}, but no parameters that it writes")
    return found


def _translated(
    program: str, found: PromptInfo, *, size: list[Any] | None = None, more: Mapping[str, str]
) -> Origin:
    """Put what sd-parsers found into infotext's keys. Only text and numbers are taken."""
    sampler = found.samplers[0]
    values: dict[str, Any] = {**found.metadata, **sampler.parameters}
    name, schedule = _names(str(sampler.name), str(values.get("scheduler", "")))
    width, height = size or [values.get("width"), values.get("height")]
    fields = {
        "Steps": values.get("steps"),
        "Sampler": name,
        "Schedule type": schedule,
        "CFG scale": values.get("cfg_scale"),
        "Seed": values.get("seed", values.get("noise_seed")),
        "Size-1": width,
        "Size-2": height,
        "Model hash": sampler.model and sampler.model.hash,
        "Model": sampler.model and sampler.model.name,
        "Clip skip": values.get("clip_skip"),
        **more,
    }
    if program == "ComfyUI" and values.get("denoise") not in (None, 1, 1.0):
        fields["Denoising strength"] = values["denoise"]
    kept = {
        key: str(value)
        for key, value in fields.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value)
    }
    info = Infotext(
        prompt=", ".join(str(prompt.value) for prompt in sampler.prompts),
        negative=", ".join(str(prompt.value) for prompt in sampler.negative_prompts),
        fields=MappingProxyType(kept),
    )
    pairs = [(key.removesuffix("-1"), info.text(key.removesuffix("-1"))) for key in kept if key != "Size-2"]
    notes = [f"made by {program}, which reads prompts and draws noise in its own way"]
    if len(found.samplers) > 1:
        notes.append(f"{len(found.samplers)} samplers; the first is described")
    return _origin(program, info, infotext.layout(info.prompt, info.negative, pairs), notes)


def _names(sampler: str, schedule: str) -> tuple[str, str]:
    """Sampler and schedule as they are called here; an unknown name stays as it is."""
    plain = sampler.casefold().removeprefix("k_").removesuffix("_gpu")
    if plain.endswith(("_k", "_karras")):
        plain, schedule = plain.removesuffix("_karras").removesuffix("_k"), "karras"
    known = _SCHEDULES.get(schedule.casefold(), schedule)
    return _SAMPLERS.get(plain, sampler), known or "Automatic"


def _origin(program: str, info: Infotext, text: str, notes: list[str]) -> Origin:
    try:
        request, fault = metadata.request_of(info), ""
    except RequestError as error:
        request, fault = None, str(error)
    return Origin(program=program, info=info, text=text, request=request, fault=fault, notes=tuple(notes))
