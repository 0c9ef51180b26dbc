"""How adapter files spell their tensors, against the names of our modules.

A key is a module and a field: `lora_unet_mid_block_attentions_0_proj_in` and `.lora_down.weight`. Fields are
told apart by the endings in `FIELDS`. Modules come under diffusers' names or those of single files, with dots
or underscores between the parts and any of `PREFIXES` in front; without prefix and dots all of them agree.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from sfumato.weights.layouts import table_of
from sfumato.weights.specs import ModelSpec

FIELDS: Mapping[str, str] = MappingProxyType(  # ending of a key: our name of the field
    {
        **{
            f"{ending}{weight}": field
            for ending, field in (
                (".lora_up", "up"),
                ("_lora.up", "up"),
                (".lora.up", "up"),
                (".lora_linear_layer.up", "up"),
                (".lora_B", "up"),
                (".lora_down", "down"),
                ("_lora.down", "down"),
                (".lora.down", "down"),
                (".lora_linear_layer.down", "down"),
                (".lora_A", "down"),
                (".lora_mid", "mid"),
                (".lora_magnitude_vector", "magnitude"),
                *((f".{name}", name) for name in ("a1", "a2", "b1", "b2", "bm")),
            )
            for weight in (".weight", "")
        },
        ".lora_B.bias": "bias_up",
        ".lora_up.bias": "bias_up",
        **{
            f".{field}": field
            for field in (
                *(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
                *(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
                "ia3_l",
            )
        },
        **{
            f".{field}": field
            for field in ("alpha", "dora_scale", "diff", "diff_b", "w_norm", "b_norm", "oft_blocks")
        },
        **{f".{field}": field for field in ("rescale", "weight", "on_input", "set_weight")},
    }
)
PREFIXES = (
    "base_model_model_",
    "lycoris_",
    "lora_unet_",
    "lora_te1_",
    "lora_te_",
    "unet_",
    "text_encoder_",
    "model_diffusion_model_",
    "diffusion_model_",
    "cond_stage_model_transformer_",
)
BUNDLED = re.compile(r"bundle_emb\.(?P<token>.+?)\.(?P<field>string_to_param\..*|emb_params|clip_[lg])")
_OWN = re.compile(  # PEFT's own dumps name the adapter after the field
    r"\.(lora_[AB]|lora_magnitude_vector|hada_[wt]\w+|lokr_[wt]\w+|ia3_l)\.(?!(?:weight|bias)$)[^.]+"
)
_ENDINGS = tuple(sorted(FIELDS, key=len, reverse=True))


class Place(NamedTuple):
    """A module of a checkpoint."""

    network: str  # "unet" or "text"
    module: str  # by our name


def split_key(key: str) -> tuple[str, str] | None:
    """Split a key into its module, as spelled, and our name of the field; None = no field is known."""
    key = _OWN.sub(r".\1", key)
    for ending in _ENDINGS:
        if key.endswith(ending) and len(key) > len(ending):
            return key.removesuffix(ending), FIELDS[ending]
    return None


def flat(module: str) -> str:
    """Bring a module's name to the form on which all spellings agree."""
    name = module.replace(".processor.", ".").replace(".", "_")
    while prefix := next((each for each in PREFIXES if name.startswith(each)), None):
        name = name.removeprefix(prefix)
    return name


def places(spec: ModelSpec) -> dict[str, Place]:
    """Give every module of a checkpoint that an adapter may change, by the flat forms of its names."""
    found: dict[str, Place] = {}
    for network in ("unet", "text"):
        for row in table_of(network, spec):
            if not row.ours.endswith(".weight") or row.stride != 1:
                continue
            place = Place(network, row.ours.removesuffix(".weight"))
            for spelling in (row.theirs, row.ours, *row.also):
                name = flat(spelling.removesuffix(".weight"))
                found[name] = place
                if name.endswith("_to_out_0"):  # older files
                    found[name.removesuffix("_0")] = place
    return found


def kohya_names(spec: ModelSpec) -> dict[Place, str]:
    """Give the names under which most programs write and read, by module."""
    prefix = {"unet": "lora_unet_", "text": "lora_te_"}
    return {place: prefix[place.network] + name.replace(".", "_") for place, name in _theirs(spec)}


def peft_names(spec: ModelSpec) -> dict[Place, str]:
    """Give the names under which diffusers writes and reads, by module."""
    prefix = {"unet": "unet.", "text": "text_encoder."}
    return {place: prefix[place.network] + name for place, name in _theirs(spec)}


def _theirs(spec: ModelSpec) -> Iterator[tuple[Place, str]]:
    """Modules with diffusers' names."""
    for network in ("unet", "text"):
        for row in table_of(network, spec):
            if row.ours.endswith(".weight") and row.stride == 1:
                yield Place(network, row.ours.removesuffix(".weight")), row.theirs.removesuffix(".weight")
