"""What is said of a picture: read from bytes, and varied at each visit.

A caption of several lines is several captions, of which one is drawn at each visit. A line is one sentence
or a list of tags with commas between.
"""

import codecs
from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

MAX_CAPTION_BYTES = 64 * 1024
MOST_TAGS = 1000  # that are counted in the end

_MARKS = (  # longest first: the mark of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class CaptionConfig(BaseModel):
    """How captions vary from visit to visit, in the order of the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = ""
    suffix: str = ""
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the whole caption
    separator: Annotated[str, Field(min_length=1)] = ","  # between tags
    keep_separator: str = ""  # tags before this stay as they are, `|||` for example
    keep_tokens: Annotated[int, Field(ge=0)] = 0  # so many of the first tags stay as they are
    shuffle: bool = False  # the other tags
    tag_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0  # of each other tag
    templates: tuple[str, ...] = ()  # one is drawn; {} in it is the caption

    def is_fixed(self) -> bool:
        """Say that a caption of one line reads the same at every visit."""
        return not (self.dropout or self.shuffle or self.tag_dropout or len(self.templates) > 1)


def decode_caption(data: bytes) -> str:
    """Read a caption file: UTF-8, or UTF-16 and UTF-32 that say so in their first bytes.

    Raises:
        ValueError: it is neither, is no text, or too long; the message says which.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise ValueError(f"{len(data):,} bytes of caption, {MAX_CAPTION_BYTES:,} are read")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return clean_caption(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise ValueError(f"not {encoding.removesuffix('-sig').upper()} at byte {error.start}") from error


def clean_caption(text: str) -> str:
    """Drop empty lines and blanks around the others.

    Raises:
        ValueError: there are characters in it that no text has, or too many.
    """
    if len(text) > MAX_CAPTION_BYTES:
        raise ValueError(f"{len(text):,} characters of caption, {MAX_CAPTION_BYTES:,} are read")
    if any("\ud800" <= char <= "\udfff" or char == "\0" for char in text):
        raise ValueError("zero bytes or half characters in the caption")
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def vary_caption(text: str, config: CaptionConfig, rng: np.random.Generator) -> str:
    """Give the prompt for one visit.

    Args:
        text: the caption, a variant a line.
        config: what may happen to it.
        rng: of this visit; how often it is asked depends on the configuration and the caption alone.
    """
    lines = text.split("\n")
    line = _surrounded(lines[int(rng.integers(len(lines)))] if len(lines) > 1 else text, config)
    if config.dropout and rng.random() < config.dropout:
        return ""
    line = _vary_tags(line, config, rng)
    if config.templates:
        chosen = config.templates[int(rng.integers(len(config.templates)))]
        return chosen.replace("{}", line)
    return line


def longest_prompts(text: str, config: CaptionConfig) -> Iterator[str]:
    """Give the prompts of a caption with nothing dropped, one for each of its lines and each template."""
    for line in text.split("\n"):
        for template in config.templates or ("{}",):
            yield template.replace("{}", _surrounded(line, config))


def _surrounded(line: str, config: CaptionConfig) -> str:
    return " ".join(part for part in (config.prefix, line, config.suffix) if part)


def _vary_tags(line: str, config: CaptionConfig, rng: np.random.Generator) -> str:
    kept_part, mark, rest = line.partition(config.keep_separator) if config.keep_separator else ("", "", line)
    if not (mark or config.shuffle or config.tag_dropout):
        return line
    if not mark:
        kept_part, rest = "", line
    kept, tags = list(split_tags(kept_part, config.separator)), list(split_tags(rest, config.separator))
    first = max(0, config.keep_tokens - len(kept))
    kept, tags = kept + tags[:first], tags[first:]
    if config.shuffle:
        tags = [tags[place] for place in rng.permutation(len(tags))]
    if config.tag_dropout:
        tags = [tag for tag in tags if rng.random() >= config.tag_dropout]
    return f"{config.separator} ".join(kept + tags)


def split_tags(line: str, separator: str) -> Iterator[str]:
    """Give the tags of a line, without blanks around them."""
    return (tag.strip() for tag in line.split(separator) if tag.strip())


def tag_counts(captions: Iterator[tuple[str, int]], separator: str) -> Mapping[str, int]:
    """Count how often each tag is seen in a round, from captions and their repeats.

    Returns:
        The commonest `MOST_TAGS`, commonest first. Where hardly any tag comes twice, as among sentences, rare
        ones are forgotten on the way.
    """
    counts: dict[str, int] = {}
    for text, repeats in captions:
        for line in text.split("\n"):
            for tag in split_tags(line, separator):
                counts[tag] = counts.get(tag, 0) + repeats
        if len(counts) > 100 * MOST_TAGS:
            counts = _commonest(counts, 50 * MOST_TAGS)
    return _commonest(counts, MOST_TAGS)


def _commonest(counts: Mapping[str, int], most: int) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda row: (-row[1], row[0]))[:most])
