"""The web UI's settings as its clients know them: names, defaults, what each means in a `Request`.

They are kept for each owner in the data folder and count for requests that come later. `override_settings`
of a request are laid over them for that request alone. Settings without a field are kept and have no effect.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from sfumato.errors import OutputError, RequestError
from sfumato.pipeline.scripts.fields import RNG_NAMES, Name, assigned, with_values
from sfumato.types import NoiseSource, Request
from sfumato.weights.atomic import atomic_file

MAX_BYTES = 2**20  # of one owner's settings

FIELDS: Mapping[str, Name] = MappingProxyType(  # settings that mean a field of a Request
    {
        "sd_model_checkpoint": Name(("model.checkpoint",)),
        "sd_vae": Name(("model.vae",), none="Automatic"),
        "CLIP_stop_at_last_layers": Name(("prompt.clip_skip",)),
        "emphasis": Name(("prompt.emphasis",)),
        "randn_source": Name(("canvas.noise_source",), words=RNG_NAMES),
        "tiling": Name(("canvas.tiling",)),
        "eta_noise_seed_delta": Name(("variation.seed_delta",)),
        "eta_ancestral": Name(("solver.eta",)),
        "eta_ddim": Name(("solver.eta",)),
        "s_churn": Name(("solver.s_churn",)),
        "s_tmin": Name(("solver.s_tmin",)),
        "s_tmax": Name(("solver.s_tmax",), none=0.0),
        "s_noise": Name(("solver.s_noise",)),
        "uni_pc_variant": Name(("solver.unipc_variant",)),
        "uni_pc_skip_type": Name(("solver.unipc_skip",)),
        "uni_pc_order": Name(("solver.unipc_order",)),
        "uni_pc_lower_order_final": Name(("solver.unipc_lower_order_final",)),
        "sigma_min": Name(("levels.sigma_min",), none=0.0),
        "sigma_max": Name(("levels.sigma_max",), none=0.0),
        "rho": Name(("levels.rho",), none=0.0),
        "beta_dist_alpha": Name(("levels.beta_alpha",)),
        "beta_dist_beta": Name(("levels.beta_beta",)),
        "always_discard_next_to_last_sigma": Name(("levels.discard_penultimate",), none=False),
        "s_min_uncond": Name(("sampling.negative_min_sigma",)),
        "skip_early_cond": Name(("sampling.skip_early_guidance",)),
        "initial_noise_multiplier": Name(("source.noise_multiplier",)),
        "img2img_extra_noise": Name(("source.extra_noise",)),
        "img2img_color_correction": Name(("source.color_correction",)),
        "img2img_fix_steps": Name(("source.exact_steps",)),
        "img2img_background_color": Name(("source.background",)),
        "inpainting_mask_weight": Name(("mask.conditioning_weight",)),
        "overlay_inpaint": Name(("mask.overlay",)),
        "hires_fix_refiner_pass": Name(("refiner.passes",)),
    }
)
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "samples_save": True,
        "samples_format": "png",
        "samples_filename_pattern": "",
        "save_images_add_number": True,
        "grid_save": True,
        "grid_format": "png",
        "n_rows": -1.0,
        "jpeg_quality": 80.0,
        "webp_lossless": False,
        "export_for_4chan": True,
        "img_max_size_mp": 200.0,
        "save_incomplete_images": False,
        "save_to_dirs": True,
        "directories_filename_pattern": "[date]",
        "enable_pnginfo": True,
        "save_txt": False,
        "return_grid": True,
        "return_mask": False,
        "return_mask_composite": False,
        "send_seed": True,
        "send_size": True,
        "ESRGAN_tile": 192.0,
        "ESRGAN_tile_overlap": 8.0,
        "realesrgan_enabled_models": ["R-ESRGAN 4x+", "R-ESRGAN 4x+ Anime6B"],
        "upscaler_for_img2img": None,
        "face_restoration": False,
        "face_restoration_model": "CodeFormer",
        "code_former_weight": 0.5,
        "sd_model_checkpoint": None,
        "sd_checkpoint_hash": "",
        "sd_checkpoints_limit": 1.0,
        "sd_vae": "Automatic",
        "sd_vae_overrides_per_model_preferences": True,
        "sd_vae_encode_method": "Full",
        "sd_vae_decode_method": "Full",
        "auto_vae_precision": True,
        "emphasis": "Original",
        "enable_emphasis": True,
        "comma_padding_backtrack": 20.0,
        "CLIP_stop_at_last_layers": 1.0,
        "sdxl_clip_l_skip": False,
        "randn_source": "GPU",
        "tiling": False,
        "hires_fix_refiner_pass": "second pass",
        "inpainting_mask_weight": 1.0,
        "initial_noise_multiplier": 1.0,
        "img2img_extra_noise": 0.0,
        "img2img_color_correction": False,
        "img2img_fix_steps": False,
        "img2img_background_color": "#ffffff",
        "overlay_inpaint": True,
        "add_model_name_to_info": True,
        "add_model_hash_to_info": True,
        "add_version_to_infotext": True,
        "disable_weights_auto_swap": True,
        "infotext_styles": "Apply if any",
        "show_progress_every_n_steps": 10.0,
        "show_progress_type": "Approx NN",
        "live_previews_enable": True,
        "live_preview_content": "Prompt",
        "live_previews_image_format": "png",
        "live_preview_refresh_period": 1000.0,
        "eta_ddim": 0.0,
        "eta_ancestral": 1.0,
        "s_churn": 0.0,
        "s_tmin": 0.0,
        "s_tmax": 0.0,
        "s_noise": 1.0,
        "sigma_min": 0.0,
        "sigma_max": 0.0,
        "rho": 0.0,
        "eta_noise_seed_delta": 0.0,
        "always_discard_next_to_last_sigma": False,
        "sgm_noise_multiplier": False,
        "uni_pc_variant": "bh1",
        "uni_pc_skip_type": "time_uniform",
        "uni_pc_order": 3.0,
        "uni_pc_lower_order_final": True,
        "sd_noise_schedule": "Default",
        "skip_early_cond": 0.0,
        "beta_dist_alpha": 0.6,
        "beta_dist_beta": 0.6,
        "enable_prompt_comments": True,
        "persistent_cond_cache": True,
        "batch_cond_uncond": True,
        "pad_cond_uncond": False,
        "s_min_uncond": 0.0,
        "token_merging_ratio": 0.0,
        "token_merging_ratio_img2img": 0.0,
        "token_merging_ratio_hr": 0.0,
        "fp8_storage": "Disable",
        "interrupt_after_current": True,
        "quicksettings_list": ["sd_model_checkpoint"],
        "hidden_tabs": [],
        "outdir_samples": "",
        "outdir_txt2img_samples": "outputs",
        "outdir_img2img_samples": "outputs",
        "outdir_extras_samples": "outputs",
        "outdir_grids": "",
        "outdir_txt2img_grids": "outputs",
        "outdir_img2img_grids": "outputs",
        "outdir_save": "outputs",
        "api_enable_requests": False,
        "api_forbid_local_requests": True,
        "auto_backcompat": True,
    }
)


class OptionStore:
    """Every owner's settings, in one file."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one. Raises OutputError: it is damaged."""
        self._path = path
        self._lock = threading.Lock()
        self._owners: dict[str, dict[str, Any]] = {}
        try:
            self._owners = {str(k): dict(v) for k, v in json.loads(path.read_text("utf-8")).items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise OutputError(f"{path}: not the settings' file it should be; remove or repair it") from error

    def values(self, owner: str) -> dict[str, Any]:
        """All settings of an owner."""
        with self._lock:
            return {**DEFAULTS, **self._owners.get(owner, {})}

    def changed(self, owner: str) -> dict[str, Any]:
        """Those settings of an owner that are not at their defaults."""
        with self._lock:
            return dict(self._owners.get(owner, {}))

    def change(self, owner: str, given: Mapping[str, Any]) -> None:
        """Change some settings and keep them. Raises RequestError: see `checked`."""
        fresh = checked(given)
        with self._lock:
            mine = {**self._owners.get(owner, {}), **fresh}
            mine = {name: value for name, value in mine.items() if value != DEFAULTS[name]}
            if len(json.dumps(mine)) > MAX_BYTES:
                raise RequestError(f"settings of more than {MAX_BYTES:,} bytes; make them shorter")
            self._owners[owner] = mine
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path) as file:
                file.write(json.dumps(self._owners, indent=1).encode("ascii"))


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are known, each of its default's type. Names that are not are passed over.

    Raises RequestError: a value of another type, or one that no field takes.
    """
    fresh: dict[str, Any] = {}
    for name, value in given.items():
        if name in DEFAULTS and not name.startswith("api_"):
            fresh[name] = _typed(name, value)
    with_values(Request(), values_of(fresh))
    return fresh


def values_of(given: Mapping[str, Any], sampler: str = "") -> dict[str, Any]:
    """What settings mean, by the dotted names of a Request's fields.

    Args:
        given: settings by name; None = not given.
        sampler: which of the two settings for eta counts.

    Raises:
        RequestError: a value that the field cannot take.
    """
    ddim = sampler.casefold().startswith("ddim")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in FIELDS or value is None or name == ("eta_ancestral" if ddim else "eta_ddim"):
            continue
        foreign = FIELDS[name]
        if isinstance(foreign.none, float) and value == foreign.none:
            value = None
        values |= dict.fromkeys(foreign.fields) if value is None else assigned(foreign, name, value)
    return values


def _typed(name: str, value: Any) -> Any:
    usual = DEFAULTS[name]
    if isinstance(usual, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else usual
    if isinstance(usual, float) and isinstance(value, bool):
        return float(value)
    if isinstance(usual, bool) and isinstance(value, int | float):
        return bool(value)
    if usual is None and (value is None or isinstance(value, str)):
        return value
    if type(value) is type(usual):
        if (
            name == "randn_source"
            and value.casefold() not in RNG_NAMES
            and value not in get_args(NoiseSource)
        ):
            raise RequestError(f"randn_source={value[:40]!r} is not one of GPU, CPU, NV")
        return value
    kind = {bool: "true or false", float: "a number", str: "text", list: "a list"}.get(type(usual), "text")
    raise RequestError(f"{name}={str(value)[:60]!r} is not {kind}")
