"""`sfumato lora …`: what an adapter is, and from adapters to adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.cli_groups import JsonFlag
from sfumato.cli_options import Options, with_settings
from sfumato.errors import RequestError

if TYPE_CHECKING:
    from sfumato.weights.adapters.read import Adapter
    from sfumato.weights.adapters.tools import Output
    from sfumato.weights.files import TensorStep

Name = Annotated[str, typer.Argument(help="An adapter's name from the models folder, or a path.")]
Weighted = Annotated[list[str], typer.Argument(help="NAME:WEIGHT, several with spaces between.")]
Target = Annotated[Path, typer.Option("--to", help="The new file, .safetensors.")]
Model = Annotated[
    str | None, typer.Option(help="A checkpoint it is for, where its keys do not tell SD 1.x from others.")
]
Rank = Annotated[int | None, typer.Option(help="Ranks a module at most.")]
Energy = Annotated[float, typer.Option(help="Share of the squared singular values to keep, 0 to 1.")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; unset = as it is stored.")]
Layout = Annotated[str, typer.Option(help="kohya or peft.")]


@dataclass(frozen=True, kw_only=True)
class Written:
    """How a new LoRA is written."""

    layout: Layout = "kohya"
    dtype: DType = None

    def output(self, path: Path) -> Output:
        """Where and how, for the tools.

        Raises:
            RequestError: no such layout or dtype.
            OutputError: something is there, or it is no safetensors file.
        """
        from sfumato.pipeline.models import stored_dtype
        from sfumato.weights.adapters.tools import Output

        layout: Any = self.layout  # it refuses others
        return Output(path=path, layout=layout, dtype=stored_dtype(self.dtype))


def add_commands(app: typer.Typer) -> None:
    """Register this file's commands."""
    group = typer.Typer(no_args_is_help=True, help="LoRA and its kin: look into, merge, extract, bake …")
    for name, command in (
        ("info", info),
        ("merge", merge),
        ("resize", resize),
        ("extract", extract),
        ("convert", convert),
        ("bake", bake),
    ):
        group.command(name)(with_settings("models")(command))
    app.add_typer(group, name="lora")


def info(options: Options, name: Name, model: Model = None, as_json: JsonFlag = False) -> None:
    """Say what an adapter changes, and what of it fits a checkpoint."""
    from collections import Counter

    from sfumato.cli_terminal import printable
    from sfumato.weights.adapters import tools

    adapter = _adapter(options, name)
    fitted = tools.fit_to(adapter, tools.spec_of(adapter, _checkpoint(options, model)))
    pieces = [piece for part in fitted.parts.values() for piece in part.values()]
    said = {
        "name": adapter.name,
        "family": adapter.family,
        "hash": adapter.digest,
        "modules": {network: len(part) for network, part in fitted.parts.items()},
        "kinds": dict(Counter(piece.kind for piece in pieces)),
        "ranks": dict(Counter(str(piece.rank) for piece in pieces if piece.rank is not None)),
        "embeddings": list(adapter.embeddings),
        "unmatched": list(fitted.unmatched),
        "metadata": dict(adapter.metadata),
    }
    if as_json:
        typer.echo(json.dumps(said))
        return
    for key, value in said.items():
        if value:
            typer.echo(printable(f"{key}: {value if isinstance(value, str) else json.dumps(value)}"))


def merge(
    options: Options,
    *,
    adapters: Weighted,
    to: Target,
    rank: Rank = None,
    energy: Energy = 1.0,
    model: Model = None,
    written: Written,
) -> None:
    """Merge adapters into one LoRA; without --rank and --energy nothing is lost."""
    from sfumato.weights.adapters import tools
    from sfumato.weights.adapters.spectrum import Cut

    output = written.output(to)
    read = [(_adapter(options, name), weights[0]) for name, *weights in map(_weighted, adapters)]
    spec = tools.spec_of(read[0][0], _checkpoint(options, model))
    cut = None if rank is None and energy == 1 else Cut(rank=rank, energy=energy)
    _walk(tools.merge(read, spec, cut, output), to)


def resize(
    options: Options,
    *,
    name: Name,
    to: Target,
    rank: Rank = None,
    energy: Energy = 1.0,
    model: Model = None,
    written: Written,
) -> None:
    """Write an adapter with fewer ranks, or whatever kind it is as a LoRA."""
    from sfumato.weights.adapters import tools
    from sfumato.weights.adapters.spectrum import Cut

    output = written.output(to)
    adapter = _adapter(options, name)
    spec = tools.spec_of(adapter, _checkpoint(options, model))
    _walk(tools.resize(adapter, spec, Cut(rank=rank, energy=energy), output), to)


def extract(
    options: Options,
    *,
    base: Annotated[str, typer.Argument(help="The checkpoint it will be used with.")],
    tuned: Annotated[str, typer.Argument(help="The checkpoint it is to lead to.")],
    to: Target,
    rank: Rank = 32,
    energy: Energy = 1.0,
    conv_rank: Annotated[
        int | None, typer.Option(help="Ranks of wider convolutions; unset leaves these out.")
    ] = None,
    text: Annotated[bool, typer.Option("--text/--no-text", help="The text encoder, too.")] = True,
    least: Annotated[float, typer.Option(help="Leave out modules that differ by no more.")] = 0.0,
    written: Written,
) -> None:
    """Make a LoRA of the difference between two checkpoints."""
    from sfumato.weights.adapters import tools
    from sfumato.weights.adapters.spectrum import Cut

    output = written.output(to)
    what = tools.Extraction(
        linear=Cut(rank=rank, energy=energy),
        kernels=None if conv_rank is None else Cut(rank=conv_rank, energy=energy),
        text=text,
        least=least,
    )
    first, second = _checkpoint(options, base), _checkpoint(options, tuned)
    assert first is not None
    assert second is not None
    _walk(tools.extract(first, second, what, output), to)


def convert(
    options: Options,
    name: Name,
    to: Target,
    layout: Layout = "kohya",
    model: Model = None,
    dtype: DType = None,
) -> None:
    """Write a LoRA in the other layout."""
    from sfumato.weights.adapters import tools

    output = Written(layout=layout, dtype=dtype).output(to)
    adapter = _adapter(options, name)
    tools.convert(adapter, tools.spec_of(adapter, _checkpoint(options, model)), output)
    typer.echo(str(to))


def bake(
    options: Options,
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint.")],
    adapters: Weighted,
    to: Target,
    dtype: DType = None,
) -> None:
    """Write a checkpoint with adapters merged into it; NAME:TEXT:UNET gives each part its weight."""
    from sfumato.pipeline.models import stored_dtype
    from sfumato.weights.adapters import tools

    path = _checkpoint(options, checkpoint)
    assert path is not None
    read = [(_adapter(options, name), text, unet) for name, text, unet in map(_weighted, adapters)]
    _walk(tools.bake(path, read, to, stored_dtype(dtype)), to)


def _walk(steps: Iterator[TensorStep], target: Path) -> None:
    from sfumato.cli_terminal import ProgressBar

    with ProgressBar(None) as bar:
        for step in steps:
            bar.update(step.done, step.name, total=step.total)
    typer.echo(str(target))


def _adapter(options: Options, name: str) -> Adapter:
    from sfumato.pipeline.adapters import AdapterShelf
    from sfumato.weights.adapters.read import read_adapter

    return read_adapter(AdapterShelf(options.settings().models).find(name))


def _checkpoint(options: Options, name: str | None) -> Path | None:
    from sfumato.pipeline.models import find_checkpoint

    return None if name is None else find_checkpoint(name, options.settings().models)


def _weighted(text: str) -> tuple[str, float, float]:
    """NAME, NAME:WEIGHT or NAME:TEXT:UNET."""
    name, *given = text.split(":")
    try:
        weights = [float(each) for each in given[-2:]]
    except ValueError:
        weights = []
    if len(weights) != len(given) or not name:
        raise RequestError(f"{text!r} is not NAME:WEIGHT or NAME:TEXT:UNET") from None
    return name, (weights or [1.0])[0], (weights or [1.0])[-1]
