"""The command line. Each command hands its options to a function and shows what comes back.

Pictures, paths and answers go to standard output, progress and errors to standard error. Exit codes: 0 all is
well, 1 a part of it is not (a picture of a folder, a thing that `doctor` misses), 2 refused in one line (a
`SfumatoError`), 130 Ctrl-C, within one step, 143 SIGTERM. Nothing heavier than the argument parser is
imported before a command runs.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sfumato import (
    __version__,
    cli_dataset,
    cli_files,
    cli_folders,
    cli_gallery,
    cli_lora,
    cli_merge,
    cli_scripts,
    cli_users,
)
from sfumato.cli_depth import depth
from sfumato.cli_groups import JsonFlag, NamedSaving
from sfumato.cli_img2img import img2img
from sfumato.cli_options import Options, with_request, with_settings
from sfumato.cli_serve import serve
from sfumato.cli_upscale import upscale
from sfumato.cli_worker import worker
from sfumato.errors import SfumatoError, WeightsError

app = typer.Typer(
    name="sfumato",
    help="A complete, local Stable Diffusion system: from smoke to image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(no_args_is_help=True, help="The models folder: what is in it, and what goes in.")
app.add_typer(models_app, name="models")
cli_files.add_commands(app)
app.command()(img2img)
app.command()(upscale)
app.command()(serve)
app.command()(worker)
app.command()(depth)
cli_scripts.add_commands(app)
cli_merge.add_commands(models_app)
cli_lora.add_commands(app)
cli_folders.add_commands(models_app)
cli_users.add_commands(app)
cli_gallery.add_commands(app)
cli_dataset.add_commands(app)

STOPPED = 130  # exit code after Ctrl-C
ModelName = Annotated[str, typer.Argument(help="A name from the models folder, or a path.", metavar="NAME")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sfumato {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Say the version.", callback=_version)] = False,
) -> None:
    pass


@app.command()
@with_request
def txt2img(
    options: Options,
    *,
    size: Annotated[str | None, typer.Option(help="Width and height at once: 512x768.")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Prompts or options, a job a line.")] = None,
    insert: Annotated[
        str, typer.Option(help="With a file, where PROMPT goes: replace, start or end.")
    ] = "replace",
    iterate_seed: Annotated[
        bool, typer.Option("--iterate-seed", help="Each line counts the seed up.")
    ] = False,
    same_seed: Annotated[bool, typer.Option("--same-seed", help="One drawn seed for all lines.")] = False,
    dynamic: Annotated[
        str | None, typer.Option(help="Draw {a|b} and __names__: random, or all combinations.")
    ] = None,
    saving: NamedSaving,
) -> None:
    """Make pictures from a prompt and print their paths."""
    from sfumato.pipeline.scripts.prompts_file import Reading

    reading = Reading(insert=insert, iterate_seed=iterate_seed)  # type: ignore[arg-type]  # it refuses others
    settings = options.settings()
    requests = options.requests(
        size=size, prompts_file=prompts_file, reading=reading, same_seed=same_seed, dynamic=dynamic
    )
    from sfumato.cli_pictures import make, open_shelf

    desk = saving.desk(settings.outputs)
    shelf = open_shelf(settings)
    desk.check(requests, shelf)
    make(requests, shelf, desk, grid=saving.grid)


@app.command()
@with_settings()
def doctor(options: Options, as_json: JsonFlag = False) -> None:
    """Say what was found, make a test picture, and what to do about each thing missing."""
    from sfumato.app.doctor import examine
    from sfumato.cli_terminal import show_picture
    from sfumato.pipeline import images

    broken, settings = False, options.settings()
    for finding in examine(settings):
        broken = broken or finding.state == "missing"
        answer = {name: getattr(finding, name) for name in ("state", "what", "found", "remedy")}
        if finding.image is not None:
            answer["path"] = str(images.save(finding.image, settings.outputs, "doctor", ""))
        if as_json:
            typer.echo(json.dumps(answer))
            continue
        typer.echo(f"{finding.mark} {finding.what}: {finding.found}")
        for line in (finding.remedy, answer.get("path")):
            if line:
                typer.echo(f"  → {line}")
        if finding.image is not None:
            show_picture(finding.image)
    raise typer.Exit(1 if broken else 0)


@app.command()
def samplers(as_json: JsonFlag = False) -> None:
    """List the samplers, their other names, and what the schedule Automatic means for each."""
    from sfumato.diffusion.samplers import SAMPLERS

    for spec in SAMPLERS.values():
        if as_json:
            row = {"name": spec.name, "aliases": spec.aliases, "default_schedule": spec.default_schedule}
            typer.echo(json.dumps(row))
        else:
            typer.echo(f"{', '.join((spec.name, *spec.aliases))}: {spec.default_schedule}")


@app.command()
def schedules(as_json: JsonFlag = False) -> None:
    """List the schedules and their other names."""
    from sfumato.diffusion.schedules import SCHEDULES

    for spec in SCHEDULES.values():
        row = {"name": spec.name, "aliases": spec.aliases}
        typer.echo(json.dumps(row) if as_json else ", ".join((spec.name, *spec.aliases)))


@models_app.command("list")
@with_settings("models")
def models_list(options: Options, as_json: JsonFlag = False) -> None:
    """List the model that comes with Sfumato, and the models folder."""
    from sfumato.pipeline.models import embedded_model
    from sfumato.weights import store
    from sfumato.weights.info import describe

    embedded = describe(embedded_model(), name=store.EMBEDDED)
    for model in (embedded, *store.scan(options.settings().models)):
        typer.echo(json.dumps(model.to_dict()) if as_json else model.line())


@models_app.command("info")
@with_settings("models")
def models_info(options: Options, name: ModelName, as_json: JsonFlag = False) -> None:
    """Say what a model is, from its header alone."""
    from sfumato.cli_terminal import printable
    from sfumato.pipeline.models import find_checkpoint
    from sfumato.weights.info import describe

    model = describe(find_checkpoint(name, options.settings().models))
    if model.fault:
        raise WeightsError(model.fault)
    typer.echo(json.dumps(model.to_dict()) if as_json else printable(model.text()))


@models_app.command("add")
@with_settings("models")
def models_add(
    options: Options,
    path: Annotated[Path, typer.Argument(help="A file, or a folder in diffusers' layout.")],
    name: Annotated[str | None, typer.Option(help="What to call it; unset = as it is.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Make a symbolic link instead of a copy.")] = False,
) -> None:
    """Bring a model into the models folder: checked, copied, compared."""
    from sfumato.weights import store

    typer.echo(store.add(options.settings().models, path, name=name, link=link).line())


@models_app.command("convert")
@with_settings("models")
def models_convert(
    options: Options,
    name: ModelName,
    target: Annotated[Path, typer.Argument(help="A file.safetensors, or a folder in diffusers' layout.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; unset = as it is.")] = None,
    prediction: Annotated[str | None, typer.Option(help="eps or v, where it does not say.")] = None,
) -> None:
    """Write a checkpoint in another layout, or a pickle as safetensors."""
    from sfumato.pipeline.models import find_checkpoint, stored_dtype
    from sfumato.types import ModelChoice
    from sfumato.weights.convert import convert

    numbers = stored_dtype(dtype)
    choice = ModelChoice(prediction=prediction)  # type: ignore[arg-type]  # it refuses anything else
    source = find_checkpoint(name, options.settings().models)
    convert(source, target, dtype=numbers, prediction=choice.prediction)
    typer.echo(str(target))


@app.command()
@with_settings("models")
def pull(
    options: Options,
    repo: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    file: Annotated[str | None, typer.Argument(help="One file of it; unset = the best checkpoint.")] = None,
) -> None:
    """Download a model, verify it, and put it into the models folder."""
    from sfumato.cli_terminal import ProgressBar
    from sfumato.weights import hub

    with ProgressBar(None, unit="bytes") as bar:
        for step in hub.pull(repo, file, folder=options.settings().models):
            bar.update(step.done, step.file, total=step.total)
    typer.echo(str(step.path))


@app.command()
@with_settings("models")
def train(
    options: Options,
    config: Annotated[Path, typer.Argument(help="A training configuration, TOML.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last save.")] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="Write a configuration to begin with and stop: lora, embedding, dreambooth, finetune, "
            "hypernetwork."
        ),
    ] = None,
) -> None:
    """Train a model as configured: a LoRA, an embedding, a whole checkpoint …"""
    from sfumato.cli_terminal import ProgressBar
    from sfumato.train.catalogue import Scanned
    from sfumato.train.config import read_config
    from sfumato.train.run import run as train_steps
    from sfumato.train.templates import begin
    from sfumato.weights.store import EMBEDDED

    if init is not None:
        begin(init, config, EMBEDDED)
        typer.echo(str(config))
        return
    run = read_config(config)
    with ProgressBar(run.steps) as bar:
        for step in train_steps(run, models=options.settings().models, resume=resume):
            if isinstance(step, Scanned):
                bar.update(0, step.name)
            else:
                bar.update(step.step, f"loss {step.parts['loss']:.4f}")
    typer.echo(str(run.output))


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for stream in (sys.stdout, sys.stderr):  # a character that a terminal does not know is no reason to stop
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. Errors are said on standard error, in one line."""
    command = typer.main.get_command(app)
    try:
        code = int(command.main(arguments, prog_name="sfumato", standalone_mode=False) or 0)
        if code == STOPPED:
            typer.echo("stopped", err=True)
        return code
    except SfumatoError as error:
        message = str(error)
    except typer.Abort:  # Ctrl-C at a question
        typer.echo("stopped", err=True)
        return STOPPED
    except typer.TyperException as error:
        message = error.format_message()
        if message.startswith("Usage:"):  # the help of a group that was given no command
            typer.echo(message, err=True)
            return 2
    except OSError as error:
        message = f"{error.filename or 'system'}: {error.strerror or error}"
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


if __name__ == "__main__":
    main()
