"""File and folder names from patterns: `[seed]-[prompt_spaces]`, with the tokens of AUTOMATIC1111's web UI.

What a token stands for comes from prompts and other people's texts, so every name is made safe for every
system: no separators, control or direction characters, no names that Windows keeps for devices, no dots at
the ends, and no more bytes than a file system takes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sfumato.errors import RequestError
from sfumato.pipeline import infotext
from sfumato.types import Request, Result

MAX_PATTERN = 1000  # characters
MAX_FOLDERS = 8
MAX_BYTES = 200  # of a name without its number and ending; file systems take 255
MAX_CHARS = 128  # of what one token stands for
WORDS = 8  # of a prompt in [prompt_words]

_TOKEN = re.compile(r"\[([a-z_]+)((?:<[^<>]*>)*)\]")
_ARGUMENT = re.compile(r"<([^<>]*)>")
_FORBIDDEN = frozenset('#<>:"/\\|?*')
_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE | re.DOTALL
)


class _Skip:
    """What a token gives that takes the text before it away."""


_SKIP = _Skip()


@dataclass(frozen=True, kw_only=True)
class Made:
    """A picture to be named."""

    result: Result
    whole: Request | None = None  # the request of which it is one picture; None = it is the only one
    began: datetime  # the run
    now: datetime

    @property
    def request(self) -> Request:
        """The picture's own."""
        return self.result.request

    @property
    def pictures(self) -> tuple[int, int]:
        """At once, and batches."""
        canvas = (self.whole or self.request).canvas
        return canvas.batch_size, canvas.batch_count


Value = str | int | float | None | _Skip
Token = Callable[[Made, list[str]], Value]


def _prompt_hash(text: Callable[[Request], str]) -> Token:
    def token(made: Made, arguments: list[str]) -> str:
        return _digest(text(made.request).encode("utf-8", "surrogatepass"), arguments)

    return token


def _digest(data: bytes, arguments: list[str]) -> str:
    digits = int(arguments[0]) if arguments and arguments[0].isdecimal() else 8
    return hashlib.sha256(data).hexdigest()[: max(1, min(64, digits))]


def _words(made: Made, arguments: list[str]) -> str:
    found = re.findall(r"[^\W_]+", made.request.prompt.text[:10_000])
    return " ".join(found[:WORDS])


def _datetime(made: Made, arguments: list[str]) -> str:
    layout, zone = (*arguments, "", "")[:2]
    when = made.now
    if zone:
        when = when.astimezone(_zone(zone))
    try:
        return when.strftime(layout or "%Y%m%d%H%M%S")
    except ValueError as error:  # what a layout may hold differs between systems
        raise RequestError(f"[datetime<{layout[:40]!r}>]: {error}") from None


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RequestError(
            f"[datetime<…><{name[:40]}>]: no such time zone; give one like Europe/Paris"
        ) from None


def _hasprompt(made: Made, arguments: list[str]) -> str:
    prompt = made.request.prompt.text.casefold()
    parts = (argument.partition("|") for argument in arguments)
    return "".join(word if word.casefold() in prompt else default for word, _, default in parts)


def _seed_last(made: Made, arguments: list[str]) -> Value:
    size, count = made.pictures
    return _SKIP if size == 1 else _first_seed(made) + (0 if _mixed(made) else size * count - 1)


def _first_seed(made: Made) -> int:
    return made.request.canvas.seed - (0 if _mixed(made) else made.result.index)


def _mixed(made: Made) -> bool:
    return made.request.variation.strength > 0  # then the other seed counts up


def _batch_number(made: Made, arguments: list[str]) -> Value:
    size, _ = made.pictures
    return _SKIP if size == 1 else made.result.index % size + 1


def _generation_number(made: Made, arguments: list[str]) -> Value:
    return _SKIP if made.pictures == (1, 1) else made.result.index + 1


def _denoising(made: Made, arguments: list[str]) -> Value:
    request = made.request
    if request.source.image is not None:
        return request.source.denoising_strength
    return request.hires.denoising_strength if request.hires.enabled else None


def _basename(made: Made, arguments: list[str]) -> str:
    source = made.request.source.image
    return source.stem if isinstance(source, Path) else ""


def _sampler_scheduler(made: Made, arguments: list[str]) -> str:
    sampling = made.request.sampling
    return " ".join((sampling.sampler, *([sampling.schedule] if sampling.schedule != "Automatic" else [])))


def _model_hash(made: Made, arguments: list[str]) -> str:
    return infotext.parse(made.result.infotext).text("Model hash") or ""


TOKENS: Mapping[str, Token] = MappingProxyType(
    {
        "seed": lambda made, _: made.request.canvas.seed,
        "seed_first": lambda made, _: _first_seed(made),
        "seed_last": _seed_last,
        "steps": lambda made, _: made.request.sampling.steps,
        "cfg": lambda made, _: made.request.sampling.guidance,
        "width": lambda made, _: made.result.image.width,
        "height": lambda made, _: made.result.image.height,
        "styles": lambda made, _: "None",  # they are in the prompt by now
        "sampler": lambda made, _: made.request.sampling.sampler,
        "sampler_scheduler": _sampler_scheduler,
        "scheduler": lambda made, _: made.request.sampling.schedule,
        "model_hash": _model_hash,
        "model_name": lambda made, _: made.request.model.checkpoint,
        "date": lambda made, _: made.now.strftime("%Y-%m-%d"),
        "datetime": _datetime,
        "job_timestamp": lambda made, _: made.began.strftime("%Y%m%d%H%M%S"),
        "prompt": lambda made, _: made.request.prompt.text.replace(" ", "_"),
        "prompt_no_styles": lambda made, _: made.request.prompt.text.replace(" ", "_"),
        "prompt_spaces": lambda made, _: made.request.prompt.text,
        "prompt_words": _words,
        "prompt_hash": _prompt_hash(lambda request: request.prompt.text),
        "negative_prompt_hash": _prompt_hash(lambda request: request.prompt.negative),
        "full_prompt_hash": _prompt_hash(lambda request: f"{request.prompt.text} {request.prompt.negative}"),
        "image_hash": lambda made, arguments: _digest(made.result.image.tobytes(), arguments),
        "batch_number": _batch_number,
        "batch_size": lambda made, _: made.pictures[0],
        "generation_number": _generation_number,
        "hasprompt": _hasprompt,
        "clip_skip": lambda made, _: made.request.prompt.clip_skip,
        "denoising": _denoising,
        "user": lambda made, _: None,  # nobody logs in
        "vae_filename": lambda made, _: made.request.model.vae or "NoneType",
        "basename": _basename,
        "none": lambda made, _: None,
    }
)


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How pictures are named: nothing said is `00001-SEED.png` in the outputs themselves."""

    file: str = "[seed]"
    folder: str = ""
    began: datetime

    def __post_init__(self) -> None:
        check_pattern(self.file)
        check_pattern(self.folder)

    def place(self, result: Result, whole: Request | None = None) -> tuple[Path, str]:
        """The folder of a picture, relative to the outputs, and its label; see `Made`."""
        made = Made(
            result=result,
            whole=whole,
            began=self.began,
            now=datetime.now().astimezone(),
        )
        return folder(self.folder, made), file_label(self.file, made)


def check_pattern(pattern: str) -> None:
    """Refuse, before any work, a pattern with an unknown token or time zone, or beyond the limits."""
    if len(pattern) > MAX_PATTERN:
        raise RequestError(f"a pattern of {len(pattern)} characters; at most {MAX_PATTERN} are accepted")
    for match in _TOKEN.finditer(pattern):
        if match[1] not in TOKENS:
            raise RequestError(f"[{match[1][:40]}] is no token; there are {', '.join(TOKENS)}")
        arguments = _ARGUMENT.findall(match[2])
        if match[1] == "datetime" and len(arguments) > 1 and arguments[1]:
            _zone(arguments[1])
    if (folders := len(re.split(r"[/\\]", _TOKEN.sub("", pattern)))) > MAX_FOLDERS:
        raise RequestError(f"a pattern of {folders} folders; at most {MAX_FOLDERS} are accepted")


def file_label(pattern: str, made: Made) -> str:
    """What follows the number in a file's name. May be empty.

    Raises RequestError: see `check_pattern`.
    """
    return safe_name("".join(_expanded(pattern, made)))


def folder(pattern: str, made: Made) -> Path:
    """The folder below the outputs, relative; never outside them. "." for an empty pattern.

    Raises RequestError: see `check_pattern`.
    """
    check_pattern(pattern)
    whole = "".join(_expanded(pattern, made))
    parts = (safe_name(part) for part in re.split(r"[/\\]", whole))
    return Path(*(part for part in parts if part))


def safe_name(text: str, max_bytes: int = MAX_BYTES) -> str:
    """`text` as a part of a path that every system takes, of at most `max_bytes` in UTF-8; may be empty."""
    plain = "".join(_safe_char(char) for char in unicodedata.normalize("NFC", text[: 4 * max_bytes]))
    plain = plain.encode("utf-8")[:max_bytes].decode("utf-8", "ignore").strip(" .\u200d")
    if plain.startswith(("-", "~")) or _DEVICES.fullmatch(plain):
        plain = f"_{plain}"
    return plain


def _safe_char(char: str) -> str:
    """Control, direction and private characters and lone surrogates go; the joiner of emoji stays."""
    if char in _FORBIDDEN or (
        unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and char != "\u200d"
    ):
        return "_"
    return " " if unicodedata.category(char) == "Zs" else char


def _expanded(pattern: str, made: Made) -> Iterator[str]:
    """The pattern's own text, and its tokens without separators. A token may take the text before it away."""
    check_pattern(pattern)
    end = 0
    for match in _TOKEN.finditer(pattern):
        before = pattern[end : match.start()]
        end = match.end()
        value = TOKENS[match[1]](made, _ARGUMENT.findall(match[2]))
        if isinstance(value, _Skip):
            continue
        yield before
        yield safe_name(_text(value)[:MAX_CHARS])
    yield pattern[end:]


def _text(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)
