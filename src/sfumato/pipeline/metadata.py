"""The generation parameters as text, in the layout the field reads ("infotext"), and back into a `Request`.

    a photo of a cat, (fluffy:1.2)
    Negative prompt: blurry
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512, Model: …

`write` and `read` are inverse for every resolved request, whatever its prompts hold: where the plain
layout cannot carry a text (leading blanks, control characters, a line that begins like the negative prompt),
the exact strings follow as two more parameters that other readers pass over. Knows no torch, no pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType

from sfumato.errors import RequestError
from sfumato.types import Canvas, EmphasisMode, ModelChoice, NoiseSource, Prompt, Request, Sampling, Solver

MAX_CHARS = 16 * 2**20  # longer text is refused unread

# Where each field of a Request stands. Pictures are written one by one, so the batch fields have no place.
KEYS: Mapping[str, str | None] = MappingProxyType(
    {
        "prompt.text": "first lines",
        "prompt.negative": "Negative prompt",
        "sampling.steps": "Steps",
        "sampling.sampler": "Sampler",
        "sampling.schedule": "Schedule type",
        "sampling.guidance": "CFG scale",
        "canvas.seed": "Seed",
        "canvas.width": "Size",
        "canvas.height": "Size",
        "model.checkpoint": "Model",
        "model.vae": "VAE",
        "model.prediction": "Prediction type",
        "prompt.clip_skip": "Clip skip",
        "canvas.noise_source": "RNG",
        "solver.eta": "Eta",  # "Eta DDIM" for DDIM
        "sampling.guidance_rescale": "CFG rescale",
        "prompt.emphasis": "Emphasis",
        "canvas.batch_size": None,
        "canvas.batch_count": None,
    }
)
EXACT_PROMPT, EXACT_NEGATIVE = "Exact prompt", "Exact negative prompt"

_NEGATIVE = "Negative prompt:"
_RNG: Mapping[str, NoiseSource] = MappingProxyType({"NV": "philox", "CPU": "cpu", "GPU": "philox"})
_QUOTED = re.compile(r'"(?:\\.|[^\\"])++"(?=,|\Z)')
_SIZE = re.compile(r"(\d+)x(\d+)")
_NEEDS_QUOTES = re.compile(r'[,:\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|^[\s"]|\s$')


@dataclass(frozen=True, kw_only=True)
class Infotext:
    """Parsed parameters, before anything is believed of them."""

    prompt: str
    negative: str
    fields: Mapping[str, str]  # keys as written; a size WxH stands as two entries Key-1 and Key-2

    def text(self, key: str) -> str | None:
        """The value of `key` as written (a name like 8x8 joined again), None if absent or empty."""
        if f"{key}-1" in self.fields and f"{key}-2" in self.fields:
            return f"{self.fields[f'{key}-1']}x{self.fields[f'{key}-2']}"
        return self.fields.get(key) or None


def write(request: Request, *, model_hash: str | None = None, vae_hash: str | None = None) -> str:
    """The infotext of one picture.

    `request` is resolved: its seed, size, schedule and checkpoint are those of this very picture.
    `model_hash` and `vae_hash` are hexadecimal SHA-256 digests of the files, of which ten digits are written.
    """
    prompt, sampling, canvas, model = request.prompt, request.sampling, request.canvas, request.model
    sized = canvas.width is not None and canvas.height is not None
    rng = next(name for name, source in _RNG.items() if source == canvas.noise_source)
    parameters: list[tuple[str, object]] = [
        ("Steps", sampling.steps),
        ("Sampler", sampling.sampler),
        ("Schedule type", sampling.schedule),
        ("CFG scale", _number(sampling.guidance)),
        ("Seed", canvas.seed),
        ("Size", f"{canvas.width}x{canvas.height}" if sized else None),
        ("Model hash", model_hash and model_hash[:10]),
        ("Model", model.checkpoint),
        ("VAE hash", vae_hash and vae_hash[:10]),
        ("VAE", model.vae),
        ("Clip skip", prompt.clip_skip if prompt.clip_skip > 1 else None),
        ("RNG", rng),
        (_eta_key(sampling.sampler), _number(request.solver.eta)),
        ("CFG rescale", _number(sampling.guidance_rescale) if sampling.guidance_rescale else None),
        ("Prediction type", model.prediction),
        ("Emphasis", prompt.emphasis if prompt.emphasis != "Original" else None),
        *_exact(prompt.text, prompt.negative),
        ("Version", f"Sfumato {version('sfumato')}"),
    ]
    return layout(prompt.text, prompt.negative, parameters)


def layout(prompt: str, negative: str, parameters: Iterable[tuple[str, object]]) -> str:
    """The three blocks as one trimmed string; a parameter of value None is left out."""
    line = ", ".join(f"{key}: {_quote(str(value))}" for key, value in parameters if value is not None)
    negative_line = f"\n{_NEGATIVE} {_encodable(negative)}" if negative else ""
    return f"{_encodable(prompt)}{negative_line}\n{line}".strip()


def parse(text: str) -> Infotext:
    """Split infotext into prompt, negative prompt and parameters, in time linear in the length.

    The last line holds the parameters if at least three `Key: value` stand in it; otherwise it is prompt.
    No content makes it fail. Raises RequestError only for text beyond `MAX_CHARS`.
    """
    if len(text) > MAX_CHARS:
        raise RequestError(
            f"generation parameters of {len(text):,} characters; at most {MAX_CHARS:,} are read"
        )
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt, negative = _split_prompts(lines)
    fields: dict[str, str] = {}
    for key, raw in pairs:
        value = _unquote(raw)
        size = _SIZE.fullmatch(value)
        fields |= {f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: value}
    return Infotext(prompt=prompt, negative=negative, fields=MappingProxyType(fields))


def read(text: str) -> Request:
    """The request that infotext describes. Absent keys take their defaults, unknown keys are passed over.

    Raises RequestError, naming key and value, for numbers that are none or out of range.
    """
    info = parse(text)
    prompt, negative = _exact_or_plain(info)
    sampling = Sampling()
    width, height = info.fields.get("Size-1"), info.fields.get("Size-2")
    eta = info.text("Eta") or info.text("Eta DDIM")
    return Request(
        prompt=Prompt(
            text=prompt,
            negative=negative,
            clip_skip=_int("Clip skip", info.text("Clip skip") or "1"),
            emphasis=_emphasis(info.text("Emphasis")),
        ),
        sampling=Sampling(
            sampler=info.text("Sampler") or sampling.sampler,
            schedule=info.text("Schedule type") or sampling.schedule,
            steps=_int("Steps", info.text("Steps") or str(sampling.steps)),
            guidance=_float("CFG scale", info.text("CFG scale") or str(sampling.guidance)),
            guidance_rescale=_float("CFG rescale", info.text("CFG rescale") or "0"),
        ),
        solver=Solver(eta=None if eta is None else _float("Eta", eta)),
        canvas=Canvas(
            width=None if width is None else _int("Size", width),
            height=None if height is None else _int("Size", height),
            seed=_int("Seed", info.text("Seed") or "-1"),
            noise_source=_RNG.get(info.text("RNG") or "GPU", "philox"),
        ),
        model=ModelChoice(
            checkpoint=info.text("Model"),
            vae=info.text("VAE"),
            prediction=info.text("Prediction type"),  # type: ignore[arg-type]  # refuses anything else
        ),
    )


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Every `key: value` of the parameter line, from left to right.

    A key is a word character and one or more of word characters, blanks, `-` and `/`, up to a colon. Walking
    back from each colon keeps this linear where a search for keys would start again at every character.
    """
    position = 0
    while (colon := line.find(":", position)) >= 0:
        start = colon
        while start > position and _is_key_char(line[start - 1]):
            start -= 1
        while start < colon and line[start] in " -/":  # a key begins with a word character
            start += 1
        if colon - start < 2:
            position = colon + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin].isspace():
            begin += 1
        quoted = _QUOTED.match(line, begin)
        comma = line.find(",", begin)
        end = quoted.end() if quoted else (len(line) if comma < 0 else comma)
        yield line[start:colon], line[begin:end]
        position = end + 1


def _is_key_char(char: str) -> bool:
    return char.isalnum() or char in "_ -/"


def _split_prompts(lines: Iterable[str]) -> tuple[str, str]:
    """Prompt and negative prompt: from the first line that begins so, all that follows is negative."""
    texts: tuple[list[str], list[str]] = ([], [])
    block = 0
    for raw in lines:
        line = raw.strip()
        if line.startswith(_NEGATIVE):
            block, line = 1, line[len(_NEGATIVE) :].strip()
        if line or texts[block]:  # empty lines at the start of a block are dropped
            texts[block].append(line)
    return "\n".join(texts[0]), "\n".join(texts[1])


def _exact(prompt: str, negative: str) -> Iterator[tuple[str, object]]:
    """Two more parameters, if the plain layout would not give these texts back."""
    if _split_prompts(layout(prompt, negative, [("Steps", 1)]).split("\n")[:-1]) != (prompt, negative):
        yield EXACT_PROMPT, prompt or None
        yield EXACT_NEGATIVE, negative or None


def _exact_or_plain(info: Infotext) -> tuple[str, str]:
    """The exact texts, unless somebody has edited the plain ones since."""
    exact = info.text(EXACT_PROMPT) or "", info.text(EXACT_NEGATIVE) or ""
    plain = info.prompt, info.negative
    if exact == ("", ""):
        return plain
    as_read = _split_prompts(layout(*exact, [("Steps", 1)]).split("\n")[:-1])
    return exact if as_read == plain else plain


def _quote(value: str) -> str:
    """As a JSON string where the plain value would not be read back: commas, colons, control characters …"""
    if not _NEEDS_QUOTES.search(value):
        return value
    return json.dumps(value, ensure_ascii=_encodable(value) != value)


def _unquote(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        decoded = json.loads(value)
    except ValueError:
        return value
    return decoded if isinstance(decoded, str) else value


def _encodable(text: str) -> str:
    """`text` with what neither UTF-8 nor a PNG text chunk can hold replaced by U+FFFD."""
    return re.sub("[\x00\ud800-\udfff]", "�", text)


def _number(value: float | None) -> str | None:
    """As Python prints it, whole numbers without the point."""
    if value is None:
        return None
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _int(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise RequestError(f"{key}: {value[:40]!r} is not a whole number") from None


def _float(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RequestError(f"{key}: {value[:40]!r} is not a number") from None


def _eta_key(sampler: str) -> str:
    return "Eta DDIM" if sampler.casefold().startswith("ddim") else "Eta"


def _emphasis(value: str | None) -> EmphasisMode:
    return value or "Original"  # type: ignore[return-value]  # Prompt refuses anything else
