"""Captions of a folder changed all at once: words put before or behind, tags taken out or exchanged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sfumato.errors import TrainingError
from sfumato.train.captions import decode_caption, split_tags
from sfumato.train.entries import Entry
from sfumato.train.sources import CAPTION_SUFFIXES, open_folder
from sfumato.weights.atomic import atomic_file


@dataclass(frozen=True, kw_only=True)
class CaptionEdit:
    """What is changed of every caption, in the order of the fields; each line of it is a caption."""

    exchange: Mapping[str, str] = field(default_factory=dict)  # a tag by another; by "" = taken out
    front: str = ""  # put before, where the caption does not begin so
    back: str = ""  # put behind, where the caption does not end so
    unique: bool = False  # a tag stays at its first place alone

    def apply(self, caption: str) -> str:
        """Give the changed caption. What is not asked for stays as it is, blanks included."""
        return "\n".join(filter(None, map(self._line, caption.split("\n"))))

    def _line(self, line: str) -> str:
        tags = list(split_tags(line, ","))
        changed = [self.exchange.get(tag, tag) for tag in tags]
        if changed != tags:
            line = ", ".join(filter(None, changed))
            tags = list(split_tags(line, ","))
        front, back = (list(split_tags(text, ",")) for text in (self.front, self.back))
        before = self.front if tags[: len(front)] != front else ""
        behind = self.back if tags[len(tags) - len(back) :] != back else ""
        line = ", ".join(filter(None, (before, line, behind)))
        tags = list(split_tags(line, ","))
        if self.unique and len(set(tags)) < len(tags):
            return ", ".join(dict.fromkeys(tags))
        return line


@dataclass(frozen=True, kw_only=True)
class Edited:
    """A caption that changes."""

    name: str
    before: str
    after: str


def edit_captions(folder: Path, edit: CaptionEdit, *, write: bool) -> Iterator[Edited]:
    """Change the captions beside the pictures of a folder; pictures without one have an empty one.

    Args:
        folder: of pictures, or of folders `NUMBER_name`.
        edit: what is changed.
        write: False = only tell.

    Yields:
        Each caption that changes, when it is written, whole or not at all; stop iterating to stop.

    Raises:
        TrainingError: no folder, or a caption that cannot be read. OutputError: one cannot be written.
    """
    for entry in open_folder(folder).entries():
        if not isinstance(entry, Entry):
            continue
        try:
            before = decode_caption(entry.caption) if isinstance(entry.caption, bytes) else ""
        except ValueError as error:
            raise TrainingError(f"the caption of {entry.name} cannot be read: {error}") from error
        after = edit.apply(before)
        if after == before:
            continue
        if write:
            with atomic_file(_caption_path(folder / PurePosixPath(entry.address))) as file:
                file.write(after.encode())
        yield Edited(name=entry.name, before=before, after=after)


def _caption_path(picture: Path) -> Path:
    """Give the file that holds the caption, or will."""
    paths = [picture.with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
    return next((path for path in paths if path.exists()), paths[0])
