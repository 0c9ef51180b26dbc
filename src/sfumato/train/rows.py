"""A row of a table of pictures, whatever its columns are called."""

from collections.abc import Iterable, Mapping

from sfumato.train.entries import Entry, Finding

FILE_KEYS = ("file_name", "file", "image", "path")
CAPTION_KEYS = ("text", "caption", "captions", "prompt", "tags")
MASK_KEYS = ("mask", "mask_file_name")
MAX_REPEATS = 10_000


def row_entry(row: Mapping[str, object], place: str) -> Entry | Finding:
    """Read a row of a table: the file's name, its caption or captions, mask and repeats.

    Args:
        row: by the column's name, of which several are usual.
        place: where the row stands, for the report.
    """
    file = _first(row, FILE_KEYS)
    if not isinstance(file, str) or not file:
        return Finding(name=place, kind="bad row", detail=f"none of {', '.join(FILE_KEYS)} names a file")
    repeats = row.get("repeats", 1)
    if type(repeats) is not int or not 1 <= repeats <= MAX_REPEATS:
        return Finding(name=file, kind="bad row", detail=f"repeats={repeats!r:.40} is not 1 to {MAX_REPEATS}")
    mask, caption = _first(row, MASK_KEYS), _first(row, CAPTION_KEYS)
    if isinstance(caption, list) and all(isinstance(each, str) for each in caption):
        caption = "\n".join(caption)
    if not isinstance(caption, str | None) or not isinstance(mask, str | None):
        return Finding(name=file, kind="bad row", detail="its caption or mask is not text")
    return Entry(name=file, address=file, caption=caption, mask=mask, repeats=repeats)


def _first(row: Mapping[str, object], keys: Iterable[str]) -> object:
    return next((row[key] for key in keys if row.get(key) is not None), None)
