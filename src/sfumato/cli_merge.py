"""`sfumato models merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli_options import Options, with_settings
from sfumato.errors import RequestError

Given = Annotated[str, typer.Argument(help="A name from the models folder, or a path.")]
Optional = Annotated[str | None, typer.Argument(help="The same.")]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The checkpoints."""

    a: Given
    b: Optional = None
    c: Optional = None


def add_commands(models_app: typer.Typer) -> None:
    """Register this file's command."""
    models_app.command("merge")(with_settings("models")(merge))


def merge(
    options: Options,
    *,
    inputs: Inputs,
    method: Annotated[
        str, typer.Option(help="weighted-sum: A (1-m) + B m; add-difference: A + (B-C) m; no-interpolation.")
    ] = "weighted-sum",
    multiplier: Annotated[float, typer.Option("--multiplier", "-m", help="m, 0 to 1.")] = 0.3,
    block_weights: Annotated[
        str, typer.Option(help="m for each of the U-Net's 25 blocks, IN00 to OUT11: 0.1,0.2,…")
    ] = "",
    vae: Annotated[str | None, typer.Option(help="An autoencoder to put into the result.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; unset = as in A.")] = None,
    discard: Annotated[str, typer.Option(help="Leave out tensors whose name matches this expression.")] = "",
    target: Annotated[
        Path | None,
        typer.Option("--to", help="The new file; unset = in the models folder, named by the formula."),
    ] = None,
) -> None:
    """Merge checkpoints into a new one and print its path."""
    from sfumato.cli_terminal import ProgressBar
    from sfumato.pipeline.models import find_checkpoint, stored_dtype
    from sfumato.weights import merge as merging
    from sfumato.weights import store

    numbers, folder = stored_dtype(dtype), options.settings().models
    paths = tuple(
        find_checkpoint(name, folder) for name in (inputs.a, inputs.b, inputs.c) if name is not None
    )
    recipe = merging.Recipe(
        method=method,  # type: ignore[arg-type]  # it refuses anything else
        multiplier=multiplier,
        blocks=_numbers(block_weights),
        vae=None if vae is None else store.find(folder, vae),
        dtype=numbers,
        discard=discard,
    )
    path = target or folder / merging.default_name(recipe, paths)
    with ProgressBar(None) as bar:
        for step in merging.merge(recipe, paths, path):
            bar.update(step.done, "tensors", total=step.total)
    typer.echo(str(path))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise RequestError(f"block weights {text[:80]!r} are not numbers with commas between") from None
