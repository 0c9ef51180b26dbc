"""The public surface, frozen: changing it means changing a list here in the same change."""

import dataclasses
import inspect

import sfumato.errors
from sfumato import types
from sfumato.cli import app
from sfumato.train.config import TrainConfig
from sfumato.weights.specs import MODELS, ModelSpec


def test_fields_of_a_request() -> None:
    parts = {field.name: field.default_factory for field in dataclasses.fields(types.Request)}
    fields = {name: [f.name for f in dataclasses.fields(part)] for name, part in parts.items()}  # type: ignore[arg-type]
    assert fields == {
        "prompt": ["text", "negative", "clip_skip", "emphasis"],
        "sampling": ["sampler", "schedule", "steps", "guidance", "guidance_rescale", "eta"],
        "canvas": ["width", "height", "seed", "batch_size", "batch_count", "noise_source"],
        "model": ["checkpoint", "vae", "prediction"],
    }
    assert all(len(names) <= 15 for names in fields.values())


def test_names_of_errors() -> None:
    tree = {
        name: error.__bases__[0].__name__
        for name, error in vars(sfumato.errors).items()
        if inspect.isclass(error) and name != "SfumatoError"
    }
    assert tree == {
        "RequestError": "SfumatoError",
        "PromptError": "SfumatoError",
        "WeightsError": "SfumatoError",
        "UnsafeFileError": "WeightsError",
        "UnknownModelError": "WeightsError",
        "ModelNotFoundError": "SfumatoError",
        "DownloadError": "SfumatoError",
        "OutOfMemoryError": "SfumatoError",
        "OutputError": "SfumatoError",
        "TrainingError": "SfumatoError",
    }
    drawn = sfumato.errors.__doc__ or ""
    assert all(name in drawn for name in tree)


def test_commands_and_their_options() -> None:
    import typer.main

    group = typer.main.get_command(app)
    options: dict[str, list[str]] = {}

    def visit(command: object, path: str) -> None:
        children = getattr(command, "commands", None)
        if children:
            for name, child in children.items():
                visit(child, f"{path} {name}".strip())
        else:
            options[path] = [parameter.name for parameter in command.params]  # type: ignore[attr-defined]

    visit(group, "")
    assert options == {
        "txt2img": [
            "prompt_text",
            "prompt_negative",
            "sampling_steps",
            "sampling_sampler",
            "sampling_schedule",
            "sampling_guidance",
            "sampling_guidance_rescale",
            "sampling_eta",
            "canvas_seed",
            "canvas_width",
            "canvas_height",
            "canvas_batch_size",
            "canvas_batch_count",
            "canvas_noise_source",
            "prompt_clip_skip",
            "prompt_emphasis",
            "model_checkpoint",
            "model_vae",
            "model_prediction",
            "size",
            "prompts_file",
            "file_format",
            "grid",
            "as_json",
            "show",
            "outputs",
            "models",
            "device",
            "dtype",
            "threads",
        ],
        "info": ["image", "as_json"],
        "doctor": ["as_json", "outputs", "models", "device", "dtype", "threads"],
        "pull": ["repo", "file", "models"],
        "train": ["config", "resume"],
        "models list": ["as_json", "models"],
        "models info": ["name", "as_json", "models"],
        "models add": ["path", "link", "models"],
        "models convert": ["name", "target", "dtype", "prediction", "models"],
    }


def test_families_of_checkpoints() -> None:
    assert list(MODELS) == [
        "sd-1.x",
        "sd-1.x-inpainting",
        "sd-1.x-edit",
        "sd-2.x-base",
        "sd-2.x",
        "sd-2-inpainting",
        "sd-2-depth",
    ]
    assert [field.name for field in dataclasses.fields(ModelSpec)] == [
        "family",
        "unet",
        "vae",
        "text",
        "prediction",
        "native_size",
        "text_layout",
        "pad_token",
        "zero_terminal_snr",
        "source",
    ]


def test_fields_of_a_training_run() -> None:
    assert list(TrainConfig.model_fields) == [
        "method",
        "output",
        "steps",
        "batch_size",
        "seed",
        "precision",
        "threads",
        "ema_decay",
        "save_every",
        "sample_every",
        "provenance",
        "data",
        "optimiser",
        "autoencoder",
        "diffusion",
        "text",
    ]
