"""Styles: named texts that are merged into both prompts, in a CSV file that other interfaces read too."""

import csv
import io
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import OutputError, PromptError
from sfumato.text.limits import MAX_CHARACTERS, require

_PLACE = "{prompt}"
_COLUMNS = ("name", "prompt", "negative_prompt")


@dataclass(frozen=True, kw_only=True)
class Style:
    """Texts for both prompts; `{prompt}` is where the user's goes, else the style follows after a comma."""

    name: str
    prompt: str = ""
    negative: str = ""


def apply_style(text: str, style: str) -> str:
    """Merge one text of a style into a prompt.

    Args:
        text: the prompt so far.
        style: `Style.prompt` or `Style.negative`.

    Returns:
        The style with the prompt at every `{prompt}`; or both, trimmed and joined by ", " if not empty.

    Raises:
        PromptError: if the result would have more than MAX_CHARACTERS (limits.py).
    """
    places = style.count(_PLACE)
    length = len(style) + (places or 1) * len(text)
    require(
        length <= MAX_CHARACTERS,
        f"with the style the prompt has some {length:,} characters, at most {MAX_CHARACTERS:,} are read; "
        f"leave out a style",
    )
    if places:
        return style.replace(_PLACE, text)
    return ", ".join(part for part in (text.strip(), style.strip()) if part)


def apply_styles(
    prompt: str, negative: str, names: Iterable[str], styles: Mapping[str, Style]
) -> tuple[str, str]:
    """Merge named styles into both prompts, one after another.

    Args:
        prompt: the positive prompt.
        negative: the negative prompt.
        names: of the styles, in the order in which they apply.
        styles: those there are, by name.

    Returns:
        Both prompts.

    Raises:
        PromptError: if there is no such style, or the result is beyond MAX_CHARACTERS (limits.py).
    """
    for name in names:
        if name not in styles:
            known = ", ".join(sorted(styles)) or "none yet"
            raise PromptError(f"there is no style {name!r}; the styles are: {known}")
        prompt = apply_style(prompt, styles[name].prompt)
        negative = apply_style(negative, styles[name].negative)
    return prompt, negative


def find_applied(prompt: str, negative: str, styles: Mapping[str, Style]) -> tuple[str, str, tuple[str, ...]]:
    """Find the styles that were merged into two prompts, and take them out again.

    A style counts where both of its texts fit: it stands around the prompt, or behind it. Of several that
    fit, the one with the longest texts is taken out first.

    Args:
        prompt: the positive prompt, styles merged.
        negative: the negative prompt.
        styles: those there are, by name.

    Returns:
        Both prompts without them, trimmed, and the names in the order in which they apply; applied again,
        they make the same prompts.
    """
    prompt, negative = prompt.strip(), negative.strip()
    names: list[str] = []
    by_length = sorted(styles.values(), key=lambda each: (-len(each.prompt) - len(each.negative), each.name))
    left = [style for style in by_length if style.prompt.strip() or style.negative.strip()]
    while True:
        for style in left:
            bare, bare_negative = _without(prompt, style.prompt), _without(negative, style.negative)
            if bare is not None and bare_negative is not None:
                break
        else:
            return prompt, negative, tuple(reversed(names))
        prompt, negative = bare, bare_negative
        names.append(style.name)
        left.remove(style)


def _without(text: str, style: str) -> str | None:
    """The text from which `apply_style` makes exactly this one; None = there is none."""
    if style.count(_PLACE) > 1:
        return None
    if _PLACE in style:
        before, after = style.split(_PLACE)
        fits = len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)
        return text[len(before) : len(text) - len(after)] if fits else None
    style = style.strip()
    if text == style:
        return ""
    bare = text.removesuffix(f", {style}") if style else text
    return bare if apply_style(bare, style) == text else None


def read_styles(paths: Iterable[Path]) -> dict[str, Style]:
    """Read style files.

    The first line names the columns: name, prompt, negative_prompt (for prompt, text is read too).
    Rows without a name or with a name that begins with # are left out.

    Args:
        paths: CSV files in UTF-8, with or without byte-order mark; of equal names the last one stands.

    Returns:
        Styles by name, in the files' order.

    Raises:
        OutputError: if a file cannot be read, is no UTF-8 or no CSV, or has no column "name".
    """
    styles = {}
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file, restval="")
                columns = tuple(rows.fieldnames or ())
                for row in rows:
                    name = row.get("name", "")
                    if name and not name.startswith("#"):
                        prompt = row.get("prompt", row.get("text", ""))
                        styles[name] = Style(
                            name=name, prompt=prompt, negative=row.get("negative_prompt", "")
                        )
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise OutputError(f"the styles in {path} cannot be read: {error}") from error
        if "name" not in columns:
            raise OutputError(f"{path} is no style file: its first line must be {','.join(_COLUMNS)}")
    return styles


def find_styles(path: Path) -> dict[str, Style]:
    """The styles of a file, or of several where its name holds a `*`; none where there is no file.

    Raises OutputError: see `read_styles`.
    """
    return read_styles(sorted(path.parent.glob(path.name)))


def write_styles(path: Path, styles: Iterable[Style]) -> None:
    """Write a style file, whole or not at all; an old one is replaced.

    Args:
        path: a CSV file; its folder must exist.
        styles: in the order in which they shall stand.

    Raises:
        OutputError: if the file cannot be written, or a text holds half a character (a lone surrogate).
    """
    _write_rows(path, [_COLUMNS, *((style.name, style.prompt, style.negative) for style in styles)])


def edit_styles(path: Path, *, put: Sequence[Style] = (), remove: Collection[str] = ()) -> None:
    """Change styles of a file; all else of it, notes and columns of other programs too, stays as it is.

    Args:
        path: a CSV file; it is made if it is missing, its folder too.
        put: styles that take the place of those of their names, or come last.
        remove: names; those that are not there are passed over.

    Raises:
        OutputError: the file is no style file, cannot be read, or not be written.
    """
    if path.exists():
        read_styles([path])
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns, *rows = (row for row in csv.reader(file) if row)
    else:
        columns, rows = list(_COLUMNS), []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the styles cannot be written to {path}: {error}") from error
    columns += [
        name for name in _COLUMNS if name not in columns and not (name == "prompt" and "text" in columns)
    ]
    text = "prompt" if "prompt" in columns else "text"
    place = columns.index("name")
    wide = [row + [""] * (len(columns) - len(row)) for row in rows]
    rows = [row for row in wide if row[place] not in remove]
    for style in put:
        values = {"name": style.name, text: style.prompt, "negative_prompt": style.negative}
        same = [row for row in rows if row[place] == style.name]
        if not same:
            same = [[""] * len(columns)]
            rows += same
        for column, value in values.items():
            same[-1][columns.index(column)] = value
    _write_rows(path, [columns, *rows])


def _write_rows(path: Path, rows: Iterable[Iterable[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8-sig", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"the styles cannot be written to {path}: {error}") from error
