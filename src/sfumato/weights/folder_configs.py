"""Configurations of diffusers and transformers, translated to ours and back by tables.

A setting that our networks do not have is refused by name; one that nobody here has heard of must be off.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sfumato.errors import WeightsError
from sfumato.nn.clip_text import CLIPTextConfig
from sfumato.nn.unet import UNetConfig
from sfumato.nn.vae import VAEConfig
from sfumato.types import Prediction
from sfumato.weights.prediction import SPELLINGS
from sfumato.weights.specs import ModelSpec

Settings = Mapping[str, Any]
Fields = Mapping[str, tuple[str, Callable[[Any], Any]]]
Fixed = Mapping[str, tuple[Any, ...]]


_FREE = frozenset(  # settings that say nothing about what the networks compute
    (
        "addition_embed_type_num_heads",
        "sample_size", "upcast_attention", "force_upcast", "architectures", "model_type", "torch_dtype",
        "dtype", "transformers_version",
        "bos_token_id", "eos_token_id", "pad_token_id", "initializer_factor", "initializer_range",
        "projection_dim", "attention_dropout", "dropout", "use_cache", "gradient_checkpointing",
    )
)  # fmt: skip
_UNET_FIXED: Fixed = {
    "act_fn": ("silu",),
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "attention_type": ("default",),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "norm_eps": (1e-5,),
    "resnet_out_scale_factor": (1.0,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "transformer_layers_per_block": (1,),
    "projection_class_embeddings_input_dim": (None,),
}
_VAE_FIXED: Fixed = {
    "act_fn": ("silu",),
    "in_channels": (3,),
    "out_channels": (3,),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "mid_block_add_attention": (True,),
}
_TEXT_FIXED: Fixed = {"layer_norm_eps": (1e-5,)}
_SCHEDULER_FIXED: Fixed = {
    "beta_start": (0.00085,),
    "beta_end": (0.012,),
    "beta_schedule": ("scaled_linear",),
    "num_train_timesteps": (1000,),
    "trained_betas": (None, []),
}


def _check(settings: Settings, fixed: Fixed, used: set[str], path: Path) -> None:
    for key, value in settings.items():
        if key in fixed and value not in fixed[key]:
            raise WeightsError(f"{path} has {key}={str(value)[:60]}, only {fixed[key][0]} is supported")
        known = key in fixed or key in used or key in _FREE or key.startswith("_")
        if not known and value not in (None, False, 0, "", []):
            raise WeightsError(f"{path} has the setting {key[:60]}={str(value)[:60]}, which is not supported")


def _translate(settings: Settings, table: Fields, path: Path) -> dict[str, Any]:
    """Rename and convert the settings that the table knows; one that is absent keeps our default."""
    fields = {}
    for theirs, (ours, convert) in table.items():
        if settings.get(theirs) is not None:
            try:
                fields[ours] = convert(settings[theirs])
            except (TypeError, ValueError) as error:
                raise WeightsError(f"{path} has an unusable {theirs}={str(settings[theirs])[:60]}") from error
    return fields


def _build(kind: Callable[..., Any], fields: Mapping[str, Any], path: Path) -> Any:
    try:
        return kind(**fields)
    except ValueError as error:
        raise WeightsError(f"{path} describes no network that can be built: {error}") from error


def _count(value: Any) -> int:
    if type(value) is not int or not 0 < value <= 2**20:
        raise ValueError(value)
    return value


def _counts(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= 8:
        raise ValueError(value)
    return tuple(_count(item) for item in value)


_UNET_FIELDS: Fields = {
    "in_channels": ("in_channels", _count),
    "out_channels": ("out_channels", _count),
    "layers_per_block": ("res_blocks", _count),
    "cross_attention_dim": ("context_dim", _count),
    "use_linear_projection": ("linear_projection", bool),
    "norm_num_groups": ("groups", _count),
}
_VAE_FIELDS: Fields = {
    "block_out_channels": ("channels", _counts),
    "layers_per_block": ("res_blocks", _count),
    "latent_channels": ("latent_channels", _count),
    "norm_num_groups": ("groups", _count),
    "scaling_factor": ("scale_factor", float),
}
_TEXT_FIELDS: Fields = {
    "vocab_size": ("vocab_size", _count),
    "hidden_size": ("width", _count),
    "num_hidden_layers": ("layers", _count),
    "num_attention_heads": ("heads", _count),
    "max_position_embeddings": ("max_length", _count),
    "hidden_act": ("activation", str),
}


_ATTENDING, _PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def read_unet(settings: Settings, path: Path) -> UNetConfig:
    """Translate the configuration of a UNet2DConditionModel.

    Raises:
        WeightsError: a setting that our U-Net does not have.
    """
    fields = _translate(settings, _UNET_FIELDS, path)
    layout = {"block_out_channels", "down_block_types", "up_block_types", "attention_head_dim"}
    layout |= {"num_attention_heads", "only_cross_attention"}
    _check(settings, _UNET_FIXED, layout | set(_UNET_FIELDS), path)
    shape = _translate(settings, {"block_out_channels": ("widths", _counts)}, path)
    widths: tuple[int, ...] = shape.get("widths", (320, 640, 1280, 1280))
    kinds = settings.get("down_block_types", (*[_ATTENDING[0]] * 3, _PLAIN[0]))
    ways_up = settings.get("up_block_types", (_PLAIN[1], *[_ATTENDING[1]] * 3))
    levels = tuple(level for level, kind in enumerate(kinds) if kind == _ATTENDING[0])
    mirrored = [_ATTENDING[1] if level in levels else _PLAIN[1] for level in reversed(range(len(widths)))]
    if list(ways_up) != mirrored or len(kinds) != len(widths) or set(kinds) - {_ATTENDING[0], _PLAIN[0]}:
        raise WeightsError(
            f"{path} has the blocks {kinds} and {ways_up}, which are not a U-Net of SD 1.x or 2.x"
        )
    if any(width % widths[0] for width in widths):
        raise WeightsError(f"{path} has block_out_channels={list(widths)}, not multiples of the first")
    fields |= {"model_channels": widths[0], "channel_mult": tuple(width // widths[0] for width in widths)}
    fields |= {"attention_levels": levels} | _read_heads(settings, widths, path)
    config = _build(UNetConfig, fields, path)
    assert isinstance(config, UNetConfig)
    return config


def _read_heads(settings: Settings, widths: tuple[int, ...], path: Path) -> dict[str, Any]:
    """Read the number of heads, which diffusers calls `attention_head_dim`, given once or for each level."""
    given = settings.get("num_attention_heads") or settings.get("attention_head_dim") or 8
    counts = given if isinstance(given, list | tuple) else [given] * len(widths)
    if len(counts) == len(widths) and all(type(count) is int and count > 0 for count in counts):
        if len(set(counts)) == 1:
            return {"heads": counts[0], "head_dim": None}
        dims = {width / count for width, count in zip(widths, counts, strict=True)}
        if len(dims) == 1:
            return {"head_dim": int(dims.pop())}
    raise WeightsError(
        f"{path} has {str(given)[:60]} attention heads, which do not fit {list(widths)} channels"
    )


def read_vae(settings: Settings, path: Path) -> VAEConfig:
    """Translate the configuration of an AutoencoderKL.

    Raises:
        WeightsError: a setting that our autoencoder does not have.
    """
    used = set(_VAE_FIELDS) | {"down_block_types", "up_block_types"}
    _check(settings, _VAE_FIXED, used, path)
    for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(settings.get(key, [kind])) != {kind}:
            raise WeightsError(f"{path} has {key}={str(settings[key])[:80]}, only {kind} is supported")
    config = _build(VAEConfig, _translate(settings, _VAE_FIELDS, path), path)
    assert isinstance(config, VAEConfig)
    return config


def read_text(settings: Settings, path: Path) -> CLIPTextConfig:
    """Translate the configuration of a CLIPTextModel.

    Raises:
        WeightsError: a setting that our text encoder does not have.
    """
    if isinstance(settings.get("text_config"), dict):  # of a whole CLIP model
        settings = settings["text_config"]
    _check(settings, _TEXT_FIXED, set(_TEXT_FIELDS) | {"intermediate_size"}, path)
    config = _build(CLIPTextConfig, _translate(settings, _TEXT_FIELDS, path), path)
    assert isinstance(config, CLIPTextConfig)
    if settings.get("intermediate_size", 4 * config.width) != 4 * config.width:
        raise WeightsError(
            f"{path} has intermediate_size={settings['intermediate_size']}, not 4 × {config.width}"
        )
    return config


def read_scheduler(settings: Settings, path: Path) -> tuple[Prediction, bool]:
    """Read what the U-Net predicts and whether it was trained down to pure noise.

    Raises:
        WeightsError: the noise is not that of Stable Diffusion.
    """
    for key, accepted in _SCHEDULER_FIXED.items():
        if settings.get(key, accepted[0]) not in accepted:
            raise WeightsError(f"{path} has {key}={str(settings[key])[:60]}, only {accepted[0]} is supported")
    value = str(settings.get("prediction_type", "epsilon")).lower()
    if value not in SPELLINGS:
        raise WeightsError(f"{path} has prediction_type={value[:60]}, expected epsilon or v_prediction")
    return SPELLINGS[value], bool(settings.get("rescale_betas_zero_snr", False))


# --- ours to theirs -------------------------------------------------------------------------------

_VERSION = "0.30.0"  # of diffusers whose settings these are


def unet_settings(spec: ModelSpec) -> dict[str, Any]:
    """Give the configuration of a UNet2DConditionModel that computes what our U-Net computes."""
    config = spec.unet
    attends = [level in config.attention_levels for level in range(len(config.widths))]
    heads = [config.heads_of(width) for width in config.widths]
    return (
        {theirs: getattr(config, ours) for theirs, (ours, _) in _UNET_FIELDS.items()}
        | {
            "_class_name": "UNet2DConditionModel",
            "_diffusers_version": _VERSION,
            "block_out_channels": list(config.widths),
            "down_block_types": [_ATTENDING[0] if attending else _PLAIN[0] for attending in attends],
            "up_block_types": [_ATTENDING[1] if attending else _PLAIN[1] for attending in reversed(attends)],
            "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
            "sample_size": spec.native_size // spec.vae.reduction,
        }
        | ({} if config.channel_mult[0] == 1 else {"time_embedding_dim": config.time_dim})
    )


def vae_settings(spec: ModelSpec) -> dict[str, Any]:
    """Give the configuration of an AutoencoderKL that computes what our autoencoder computes."""
    levels = len(spec.vae.channels)
    return {theirs: getattr(spec.vae, ours) for theirs, (ours, _) in _VAE_FIELDS.items()} | {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": _VERSION,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": spec.native_size,
    }


def text_settings(spec: ModelSpec) -> dict[str, Any]:
    """Give the configuration of a CLIPTextModel that computes what our text encoder computes."""
    return {theirs: getattr(spec.text, ours) for theirs, (ours, _) in _TEXT_FIELDS.items()} | {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "intermediate_size": 4 * spec.text.width,
        "bos_token_id": spec.text.vocab_size - 2,
        "eos_token_id": spec.text.vocab_size - 1,
        "pad_token_id": 1,
    }


def scheduler_settings(spec: ModelSpec) -> dict[str, Any]:
    """Give the configuration of a DDIMScheduler with Stable Diffusion's noise."""
    return {key: accepted[0] for key, accepted in _SCHEDULER_FIXED.items()} | {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _VERSION,
        "prediction_type": "epsilon" if spec.prediction == "eps" else "v_prediction",
        "rescale_betas_zero_snr": spec.zero_terminal_snr,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }


def index_settings() -> dict[str, Any]:
    """Give the index of a pipeline's folder."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": _VERSION,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
