"""What a weights file is, told from names and shapes alone by a table of rules.

The first rule whose names are all there and whose sizes all fit decides. Sizes are looked up in the header;
no tensor is read.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.types import Prediction
from sfumato.weights.files import Header
from sfumato.weights.header import TensorInfo
from sfumato.weights.prediction import told_prediction
from sfumato.weights.specs import MODELS, ModelSpec, build_spec

Kind = Literal[
    "checkpoint",
    "LoRA",
    "VAE",
    "ControlNet",
    "T2I-Adapter",
    "IP-Adapter",
    "embedding",
    "hypernetwork",
    "U-Net",
    "text encoder",
    "upscaler",
    "training state",
    "unknown",
]

SELF = "sfumato"  # the metadata key under which a file describes itself
UNET, VAE = "model.diffusion_model.", "first_stage_model."
_IN = f"{UNET}input_blocks.0.0.weight"
_CONTEXT = r"model\.diffusion_model\.input_blocks\.1\.1\.transformer_blocks\.0\.attn2\.to_k\.weight"
_DOWN = r"lora_down|lora_A|lora\.down|processor\.to_k_lora\.down|hada_w1_b|lokr_w2_b"
_CROSS_K = rf".*attn2[._]to_k\.({_DOWN})(\.weight)?"
_PARTS = (
    r"lora_down|lora_A(\.[^.]+)?|lora_B(\.[^.]+)?|(_|\.)?lora\.down|lora_linear_layer\.down|hada_w1_a|lokr_w1|lokr_w1_a"
    r"|oft_blocks|on_input|ia3_l|diff|diff_b|w_norm|b_norm|a1|set_weight"
)
_ANY_LORA = rf".*[._]({_PARTS})(\.weight)?"
_TO_K = r"transformer_blocks\.0\.attn2\.to_k\.weight"
_VAE = r"(first_stage_model\.)?decoder\.(mid\.block_1|mid_block\.resnets\.0)\.norm1\.weight"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the table.

    `has` are patterns of names (regular expressions over the whole name), each of which some tensor must
    match. `sizes` pairs a pattern with (axis, size): some tensor it matches must be that wide there.
    `rows` are the rows of MODELS that such a file may be; none for what is recognised only to be named.
    """

    kind: Kind
    family: str
    has: tuple[str, ...] = ()
    sizes: tuple[tuple[str, int, int], ...] = ()
    rows: tuple[str, ...] = ()


def _checkpoint(rows: tuple[str, ...], channels: int, context: int) -> Rule:
    sizes = ((re.escape(_IN), 1, channels), (_CONTEXT, 1, context))
    return Rule(kind="checkpoint", family=rows[0], has=(re.escape(_IN),), sizes=sizes, rows=rows)


def _named(kind: Kind, family: str, *has: str, sizes: tuple[tuple[str, int, int], ...] = ()) -> Rule:
    return Rule(kind=kind, family=family, has=has, sizes=sizes)


def _by_context(kind: Kind, pattern: str, *has: str) -> tuple[Rule, ...]:
    """Name the base of an add-on by the width of its text input."""
    bases = ((768, "SD 1.x"), (1024, "SD 2.x"), (2048, "SDXL"))
    return tuple(_named(kind, base, *has, sizes=((pattern, 1, width),)) for width, base in bases)


RULES: tuple[Rule, ...] = (
    _named("training state", "Sfumato", r"master\..*", r"average\..*"),
    # Families that share names with SD 1.x and 2.x come before them.
    _named("checkpoint", "SDXL", r"conditioner\.embedders\.1\.model\.ln_final\.weight"),
    _named("checkpoint", "SDXL refiner", _IN, r"conditioner\.embedders\.0\.model\.ln_final\.weight",
           sizes=((r"conditioner\.embedders\.0\.model\.ln_final\.weight", 0, 1280),)),
    _named("checkpoint", "SD 2.x unCLIP", r"embedder\.model\.ln_final\.weight"),
    _named("checkpoint", "AltDiffusion", r"cond_stage_model\.roberta\..*"),
    _named("checkpoint", "SD 2.x upscaler", sizes=((re.escape(_IN), 1, 7),)),
    _checkpoint(("sd-1.x",), 4, 768),
    _checkpoint(("sd-1.x-inpainting",), 9, 768),
    _checkpoint(("sd-1.x-edit",), 8, 768),
    _checkpoint(("sd-2.x-base", "sd-2.x"), 4, 1024),
    _checkpoint(("sd-2-inpainting",), 9, 1024),
    _checkpoint(("sd-2-depth",), 5, 1024),
    _named("checkpoint", "SD 3", r"(model\.diffusion_model\.)?joint_blocks\.0\.x_block\.attn\.qkv\.weight"),
    _named("checkpoint", "Flux", r"(model\.diffusion_model\.)?double_blocks\.0\.img_attn\.qkv\.weight"),
    _named("checkpoint", "AuraFlow", r"(model\.)?double_layers\.0\.attn\.w1q\.weight"),
    _named("checkpoint", "Stable Cascade", r"(clip_txt_mapper|down_blocks\.1\.0\.channelwise\.0)\.weight"),
    _named("checkpoint", "Wan video", r"(model\.diffusion_model\.)?head\.modulation"),
    # Add-ons.
    *_by_context("LoRA", _CROSS_K, _ANY_LORA),
    _named("LoRA", "SDXL", r"lora_te2_.*|text_encoder_2\..*", _ANY_LORA),
    _named("LoRA", "Flux", r".*(double_blocks|single_transformer_blocks)[._]\d+[._].*", _ANY_LORA),
    _named("LoRA", "SD 3", r".*(joint_blocks[._]\d+|attn[._]add_q_proj)[._].*", _ANY_LORA),
    _named("LoRA", "an unknown base", _ANY_LORA),
    *_by_context("ControlNet", rf"(control_model\.)?input_blocks\.1\.1\.{_TO_K}",
                 r"(control_model\.)?zero_convs\.0\.0\.weight"),
    *_by_context("ControlNet", rf"down_blocks\.\d\.attentions\.0\.{_TO_K}",
                 r"controlnet_cond_embedding\.conv_in\.weight"),
    _named("ControlNet", "an unknown base",
           r"((control_model\.)?zero_convs\.0\.0|controlnet_cond_embedding\.conv_in|lora_controlnet)(\.weight)?"),
    _named("T2I-Adapter", "Stable Diffusion", r"(adapter\.)?body\.0\.(resnets\.0\.)?block1\.weight"),
    _named("IP-Adapter", "Stable Diffusion", r"image_proj\..*", r"ip_adapter\..*"),
    _named("embedding", "SDXL", r"clip_g", r"clip_l"),
    *(_named("embedding", base, r"(emb_params|string_to_param\..*|<.*>)",
             sizes=((r"(emb_params|string_to_param\..*|<.*>)", -1, width),))
      for width, base in ((768, "SD 1.x"), (1024, "SD 2.x"))),
    _named("embedding", "an unknown base", r"(emb_params|string_to_param\..*|<.*>)"),
    _named("hypernetwork", "Stable Diffusion", r"\d+\.[01]\.linear[12.].*"),
    # Single networks.
    *(_named("VAE", family, _VAE,
             sizes=((r"(first_stage_model\.)?decoder\.conv_in\.weight", 1, channels),))
      for channels, family in ((4, "Stable Diffusion"), (16, "SD 3 or Flux"))),
    _named("VAE", "an unknown family", _VAE),
    _named("VAE", "a tiny preview decoder", r"(decoder\.layers\.)?3\.conv\.0\.weight"),
    *_by_context("U-Net", rf"down_blocks\.\d\.attentions\.0\.{_TO_K}",
                 r"time_embedding\.linear_1\.weight"),
    *_by_context("U-Net", rf"input_blocks\.1\.1\.{_TO_K}",
                 r"time_embed\.0\.weight"),
    _named("text encoder", "CLIP", r"(text_model\.)?encoder\.layers\.0\.self_attn\.q_proj\.weight"),
    _named("text encoder", "OpenCLIP", r"transformer\.resblocks\.0\.attn\.in_proj_weight"),
    _named("text encoder", "T5", r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight"),
    _named("upscaler", "ESRGAN",
           r"((body\.0\.rdb1|RRDB_trunk\.0\.RDB1)\.conv1|model\.1\.sub\.0\.RDB1\.conv1\.0)\.weight"),
    _named("upscaler", "Real-ESRGAN compact", r"body\.1\.weight", r"body\.2\.bias",
           sizes=((r"body\.0\.weight", 1, 3), (r"body\.0\.weight", 3, 3))),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a file is.

    `rows` are the specifications it may have: none for what is recognised only to be named, more than one
    where keys cannot tell. `spec` is the one that holds, or None while the prediction type is not known;
    `told_by` says what decided the prediction type.
    """

    kind: Kind
    family: str
    rows: tuple[ModelSpec, ...] = ()
    spec: ModelSpec | None = None
    told_by: str = ""
    self_described: bool = False

    def __str__(self) -> str:
        if self.kind == "unknown":
            return "a file of an unknown kind"
        if self.kind == "checkpoint":
            return f"a checkpoint of the family {self.family}"
        return f"{'an' if self.kind[0] in 'Ieu' else 'a'} {self.kind} for {self.family}"


def detect(header: Header, path: Path | None = None, prediction: Prediction | None = None) -> Detection:
    """Tell what a file is from its header.

    A file's own description wins over the rules. Without one, the prediction type comes from the first of:
    the caller, a marker among the keys, the metadata, a side-car `<stem>.yaml` or `<stem>.json`, and the
    family's row where there is only one.

    Args:
        header: the file's header.
        path: where the file is, to look for side-cars; None looks for none.
        prediction: what the caller knows.

    Raises:
        WeightsError: the file's own description or its side-car is not usable, or the caller contradicts the
            description.
    """
    if SELF in header.metadata:
        spec = described_spec(header.metadata)
        kind: Kind = "checkpoint" if _IN in header.tensors else "VAE"
        told = "the file's own description"
        require_agreement(spec, prediction, path)
        return Detection(
            kind=kind, family=spec.family, rows=(spec,), spec=spec, told_by=told, self_described=True
        )
    names = "\n".join(header.tensors)
    rule = next((rule for rule in RULES if _fires(rule, names, header.tensors)), None)
    if rule is None:
        return Detection(kind="unknown", family="an unknown family")
    rows = tuple(MODELS[name] for name in rule.rows)
    if not rows:
        return Detection(kind=rule.kind, family=rule.family)
    found, told = (prediction, "the caller") if prediction else told_prediction(header, path)
    chosen = _choose(rows, found)
    if chosen is not None and "ztsnr" in header.tensors:
        chosen = replace(chosen, zero_terminal_snr=True)
    family = chosen.family if chosen else rule.family
    return Detection(kind=rule.kind, family=family, rows=rows, spec=chosen, told_by=told or "the family")


def require_agreement(spec: ModelSpec, prediction: Prediction | None, path: Path | None) -> None:
    """Refuse a caller's word against a description that Sfumato wrote.

    Raises:
        WeightsError: both are given and differ.
    """
    if prediction not in (None, spec.prediction):
        raise WeightsError(
            f"{path or 'the file'} says of itself that it predicts {spec.prediction!r}, not {prediction!r}; "
            "leave the prediction type out"
        )


def _choose(rows: tuple[ModelSpec, ...], prediction: Prediction | None) -> ModelSpec | None:
    if prediction is None:
        return rows[0] if len(rows) == 1 else None
    fitting = [row for row in rows if row.prediction == prediction]
    return fitting[0] if fitting else replace(rows[0], prediction=prediction)


def described_spec(metadata: Mapping[str, str]) -> ModelSpec:
    """Read the specification out of the description that Sfumato writes into a file's metadata.

    Raises:
        WeightsError: there is none, or it is not usable.
    """
    try:
        described = json.loads(metadata.get(SELF, ""))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the file's own description is not JSON: {error}") from error
    if not isinstance(described, dict):
        raise WeightsError("the file's own description is not a JSON object")
    return build_spec(described.get("spec"))


def _fires(rule: Rule, names: str, tensors: Mapping[str, TensorInfo]) -> bool:
    return all(_find(pattern, names) for pattern in rule.has) and all(
        any(_is_wide(tensors[match], axis, size) for match in _find(pattern, names))
        for pattern, axis, size in rule.sizes
    )


def _find(pattern: str, names: str) -> list[str]:
    return [match[0] for match in re.finditer(f"^(?:{pattern})$", names, re.MULTILINE)]


def _is_wide(info: TensorInfo, axis: int, size: int) -> bool:
    return axis < len(info.shape) and bool(info.shape) and info.shape[axis] == size


def require_spec(found: Detection, path: Path) -> ModelSpec:
    """Give the specification of a checkpoint that was detected.

    Raises:
        UnknownModelError: the file is something else, or of a family that is only known by name.
        WeightsError: its prediction type is not known.
    """
    if found.kind != "checkpoint":
        raise UnknownModelError(f"{path} is {found}, not a checkpoint; expected {_FAMILIES}")
    if not found.rows:
        raise UnknownModelError(f"{path} is {found}, which is not supported; expected {_FAMILIES}")
    if found.spec is None:
        choices = " or ".join(
            f"{row.prediction!r} ({row.family}, {row.native_size} px)" for row in found.rows
        )
        raise WeightsError(
            f"{path} does not say what it predicts: give the prediction type, {choices}, "
            f'or put {{"prediction_type": …}} into {path.with_suffix(".json").name} beside it'
        )
    return found.spec


_FAMILIES = f"a checkpoint of {', '.join(MODELS)} or one that Sfumato wrote"
