"""Options that belong together, as dataclasses: who takes one has an option for each of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from sfumato.cli_pictures import Desk
    from sfumato.pipeline.filenames import Naming


def image_format(text: str) -> str:
    """Spell a file format as the tables of formats do."""
    return text.lower().replace("jpeg", "jpg")


ImageFormat = Annotated[
    str, typer.Option("--format", parser=image_format, metavar="TEXT", help="png, jpg or webp.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Answer in JSON, one object a line.")]
Show = Annotated[bool, typer.Option(help="Show pictures in the terminal, where it can.")]
NamePattern = Annotated[
    str | None, typer.Option(help="Of a file behind its number: [seed], [prompt_words], [model_name] …")
]
FolderPattern = Annotated[str, typer.Option(help="Of a folder in the outputs: [date]/[model_name] …")]


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How pictures are written and told of."""

    file_format: ImageFormat = "png"
    as_json: JsonFlag = False
    show: Show = True

    def desk(self, folder: Path, naming: Naming | None = None) -> Desk:
        """What saves them.

        Args:
            folder: where they go.
            naming: how they are called; None = by their seed.
        """
        from sfumato.cli_pictures import Desk

        return Desk(
            folder=folder, file_format=self.file_format, as_json=self.as_json, show=self.show, naming=naming
        )


@dataclass(frozen=True, kw_only=True)
class QuietSaving(Saving):
    """The same, shown only where that is asked for."""

    show: Show = False


@dataclass(frozen=True, kw_only=True)
class NamedSaving:
    """The same, and how files are called."""

    file_format: ImageFormat = "png"
    grid: Annotated[bool, typer.Option("--grid", help="Also one picture of all pictures of a prompt.")] = (
        False
    )
    name_pattern: NamePattern = None
    folder_pattern: FolderPattern = ""
    as_json: JsonFlag = False
    show: Show = True

    def desk(self, folder: Path, usual: str = "[seed]") -> Desk:
        """What saves them.

        Args:
            folder: where they go.
            usual: the pattern of names where none is given.
        """
        from sfumato.cli_pictures import naming

        plain = Saving(file_format=self.file_format, as_json=self.as_json, show=self.show)
        return plain.desk(folder, naming(self.name_pattern, self.folder_pattern, usual))


def spread(parameters: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    """A command's own parameters, keyword-only, with the fields of each group in its place."""
    return [each for parameter in parameters for each in _options_of(parameter)]


def gather(parameters: Iterable[inspect.Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command's own parameters, from the values of those that `spread` gave."""
    return {each.name: _argument(each.annotation, each.name, values) for each in parameters}


def _argument(kind: Any, name: str, values: Mapping[str, Any]) -> Any:
    if not is_dataclass(kind):
        return values[name]
    group: Any = kind
    return group(**{field.name: values[field.name] for field in fields(kind)})


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=keyword)]
    kinds = get_type_hints(parameter.annotation, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            keyword,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=kinds[field.name],
        )
        for field in fields(parameter.annotation)
    ]
