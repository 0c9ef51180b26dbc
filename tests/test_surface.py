"""The public surface, frozen: changing it means changing a list here in the same change."""

import dataclasses
import inspect

import sfumato.errors
from sfumato import types
from sfumato.cli import app
from sfumato.cli_options import PROMPT, REQUEST_FLAGS, SOURCE, SOURCE_FLAGS
from sfumato.train.config import TrainConfig
from sfumato.weights.specs import MODELS, ModelSpec


def test_fields_of_a_request() -> None:
    parts = {field.name: field.default_factory for field in dataclasses.fields(types.Request)}
    fields = {name: [f.name for f in dataclasses.fields(part)] for name, part in parts.items()}  # type: ignore[arg-type]
    assert fields == {
        "prompt": ["text", "negative", "clip_skip", "emphasis"],
        "sampling": [
            "sampler",
            "schedule",
            "steps",
            "guidance",
            "guidance_rescale",
            "image_guidance",
            "negative_min_sigma",
            "skip_early_guidance",
        ],
        "solver": [
            "eta",
            "s_churn",
            "s_tmin",
            "s_tmax",
            "s_noise",
            "unipc_variant",
            "unipc_skip",
            "unipc_order",
            "unipc_lower_order_final",
        ],
        "levels": ["sigma_min", "sigma_max", "rho", "beta_alpha", "beta_beta", "discard_penultimate"],
        "canvas": ["width", "height", "seed", "batch_size", "batch_count", "noise_source", "tiling"],
        "variation": ["seed", "strength", "from_width", "from_height", "seed_delta"],
        "model": ["checkpoint", "vae", "prediction"],
        "refiner": ["checkpoint", "switch_at", "passes"],
        "source": [
            "image",
            "resize_mode",
            "denoising_strength",
            "exact_steps",
            "noise_multiplier",
            "extra_noise",
            "color_correction",
            "background",
            "depth",
        ],
        "mask": [
            "image",
            "invert",
            "blur_x",
            "blur_y",
            "area",
            "padding",
            "content",
            "round",
            "conditioning_weight",
            "overlay",
        ],
        "soft": [
            "enabled",
            "schedule_bias",
            "preservation_strength",
            "contrast_boost",
            "mask_influence",
            "difference_threshold",
            "difference_contrast",
        ],
        "outpaint": ["left", "right", "up", "down", "mask_blur", "falloff", "color_variation"],
        "hires": [
            "enabled",
            "scale",
            "width",
            "height",
            "upscaler",
            "steps",
            "denoising_strength",
            "sampler",
            "schedule",
            "checkpoint",
            "prompt",
            "negative",
        ],
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
        "WorkLimitError": "RequestError",
        "PromptError": "SfumatoError",
        "WeightsError": "SfumatoError",
        "UnsafeFileError": "WeightsError",
        "UnknownModelError": "WeightsError",
        "ModelNotFoundError": "SfumatoError",
        "DownloadError": "SfumatoError",
        "OutOfMemoryError": "SfumatoError",
        "OutputError": "SfumatoError",
        "TrainingError": "SfumatoError",
        "QueueFullError": "SfumatoError",
        "ClosingError": "QueueFullError",
        "JobNotFoundError": "SfumatoError",
        "PictureNotFoundError": "SfumatoError",
        "ConflictError": "SfumatoError",
        "QuotaError": "SfumatoError",
        "StorageError": "SfumatoError",
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
    with_prompt = ["outputs", "models", "styles", "wildcards", "device", "dtype", "threads"]
    queue = ["data", "checkpoint", "model_memory", "database_url"]
    queue += ["store", "patience", "attempts", "step_limit", "quota"]
    gallery = ["outputs", "data", "database_url"]
    assert options == {
        "txt2img": [
            *(flag.name for flag in (PROMPT, *REQUEST_FLAGS)),
            "style",
            "size",
            "prompts_file",
            "insert",
            "iterate_seed",
            "same_seed",
            "dynamic",
            "file_format",
            "grid",
            "name_pattern",
            "folder_pattern",
            "as_json",
            "show",
            *with_prompt,
        ],
        "xyz": [
            *(flag.name for flag in (PROMPT, *REQUEST_FLAGS, SOURCE, *SOURCE_FLAGS)),
            "style",
            "x",
            "y",
            "z",
            "legend",
            "cells",
            "sub_grids",
            "keep_random",
            "vary_seeds",
            "margin",
            "size",
            "file_format",
            "as_json",
            "show",
            *with_prompt,
        ],
        "matrix": [
            *(flag.name for flag in (PROMPT, *REQUEST_FLAGS, SOURCE, *SOURCE_FLAGS)),
            "style",
            "at_start",
            "different_seeds",
            "in_negative",
            "separator",
            "cells",
            "margin",
            "size",
            "file_format",
            "as_json",
            "show",
            *with_prompt,
        ],
        "batch": [
            "file",
            "file_format",
            "as_json",
            "show",
            "outputs",
            "models",
            "styles",
            "device",
            "dtype",
            "threads",
        ],
        "loopback": [
            *(flag.name for flag in (SOURCE, PROMPT, *SOURCE_FLAGS, *REQUEST_FLAGS)),
            "style",
            "loops",
            "final_denoise",
            "curve",
            "size",
            "file_format",
            "as_json",
            "show",
            *with_prompt,
        ],
        "sd-upscale": [
            *(flag.name for flag in (SOURCE, PROMPT, *SOURCE_FLAGS, *REQUEST_FLAGS)),
            "style",
            "scale",
            "overlap",
            "upscaler",
            "size",
            "file_format",
            "as_json",
            "show",
            *with_prompt,
        ],
        "interpolate": [
            *(flag.name for flag in (PROMPT, *REQUEST_FLAGS)),
            "style",
            "to_prompt",
            "to_negative",
            "to_seed",
            "frames",
            "fps",
            "back",
            "cells",
            "size",
            "file_format",
            "as_json",
            "show",
            *with_prompt,
        ],
        "info": ["image", "as_json"],
        "replay": [
            "image",
            "source",
            "mask",
            "depth",
            "model",
            "keep",
            "as_json",
            "outputs",
            "models",
            "device",
            "dtype",
            "threads",
        ],
        "doctor": ["as_json", "outputs", "models", "device", "dtype", "threads"],
        "samplers": ["as_json"],
        "schedules": ["as_json"],
        "pull": ["repo", "file", "models"],
        "models folders list": ["as_json", "models"],
        "models folders add": ["path", "name", "look", "as_json", "models"],
        "models folders remove": ["name", "models"],
        "train": ["config", "resume", "models"],
        "img2img": [
            *(flag.name for flag in (SOURCE, PROMPT, *SOURCE_FLAGS, *REQUEST_FLAGS)),
            "style",
            "size",
            "scale",
            "reuse",
            "reuse_from",
            "prompts_file",
            "file_format",
            "grid",
            "name_pattern",
            "folder_pattern",
            "as_json",
            "show",
            *with_prompt,
        ],
        "depth": ["image", "right", "model", "output"],
        "upscale": [
            "pictures",
            "upscaler",
            "scale",
            "size",
            "crop",
            "max_side",
            "upscaler2",
            "upscaler2_visibility",
            "gfpgan",
            "codeformer",
            "codeformer_weight",
            "file_format",
            "listing",
            "outputs",
            "models",
            "device",
            "dtype",
            "threads",
        ],
        "serve": [
            "host",
            "port",
            "grace",
            "json_logs",
            "work",
            "page",
            *with_prompt,
            *queue,
            "queue_limit",
            "job_limit",
            "login",
            "api_auth",
            "token_file",
            "hosts",
            "cors",
            "subpath",
            "tls_cert",
            "tls_key",
            "max_body",
            "rate_limit",
            "max_connections",
            "fetch_urls",
        ],
        "worker": ["grace", *with_prompt, *queue],
        "users list": ["data"],
        "users add": ["name", "admin", "password_stdin", "data"],
        "users token": ["name", "data"],
        "users remove": ["name", "data"],
        "gallery import": ["folder", "owner", *gallery],
        "gallery search": [
            "text",
            "model",
            "sampler",
            "seed",
            "since",
            "until",
            "size",
            "tags",
            "rating",
            "state",
            "limit",
            "as_json",
            *gallery,
        ],
        "gallery similar": ["image", "limit", "as_json", *gallery],
        "gallery tag": ["pictures", "tags", "rating", *gallery],
        "gallery trash": ["pictures", *gallery],
        "gallery restore": ["pictures", *gallery],
        "gallery empty-trash": gallery,
        "gallery check": gallery,
        "gallery export": ["text", "form", *gallery],
        "dataset check": [
            *("pictures", "resolution", "buckets", "upscale", "least_side", "masks", "regularisation"),
            *("batch_size", "sheet", "as_json"),
        ],
        "dataset caption": [
            *("pictures", "model", "threshold", "character_threshold", "leave_out", "prefix", "overwrite"),
            "as_json",
        ],
        "dataset edit": ["pictures", "front", "back", "remove", "replace", "unique", "dry_run", "as_json"],
        "models list": ["as_json", "models"],
        "models info": ["name", "as_json", "models"],
        "models add": ["path", "name", "link", "models"],
        "lora info": ["name", "model", "as_json", "models"],
        "lora merge": ["adapters", "to", "rank", "energy", "model", "layout", "dtype", "models"],
        "lora resize": ["name", "to", "rank", "energy", "model", "layout", "dtype", "models"],
        "lora extract": [
            *("base", "tuned", "to", "rank", "energy", "conv_rank", "text", "least", "layout", "dtype"),
            "models",
        ],
        "lora convert": ["name", "to", "layout", "model", "dtype", "models"],
        "lora bake": ["checkpoint", "adapters", "to", "dtype", "models"],
        "models merge": [
            "a",
            "b",
            "c",
            "method",
            "multiplier",
            "block_weights",
            "vae",
            "dtype",
            "discard",
            "target",
            "models",
        ],
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
