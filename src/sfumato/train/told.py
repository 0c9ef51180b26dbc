"""What a trained file tells of its making, in the words of the field's most used trainer (`ss_…`)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from sfumato import __version__
from sfumato.train.config import TrainConfig

if TYPE_CHECKING:
    from sfumato.train.batches import Batches
    from sfumato.weights.load import Checkpoint

_VERSIONS = {"sd-1.x": "sd_v1", "sd-2.x-base": "sd_v2", "sd-2.x": "sd_v2_v"}
_ARCHITECTURES = {
    "sd-1.x": "stable-diffusion-v1",
    "sd-2.x-base": "stable-diffusion-v2-512",
    "sd-2.x": "stable-diffusion-v2-768-v",
}
_PRECISIONS = {"float32": "no", "bfloat16": "bf16"}
_KINDS = {"lora": "lora", "embedding": "textual-inversion", "hypernetwork": "hypernetwork"}


def metadata_of(
    config: TrainConfig, checkpoint: Checkpoint, digest: str, batches: Batches, step: int
) -> dict[str, str]:
    """Describe a run for the header of what it made; every value is a string.

    Args:
        config: the run.
        checkpoint: its base.
        digest: SHA-256 of the base.
        batches: its data.
        step: steps done.
    """
    assert config.model is not None
    family, optimiser, loss = checkpoint.spec.family, config.optimiser, config.loss
    told = {"method", "loss", "optimiser", "ema_decay", config.method}  # nothing of them holds a path
    data, per_step = dict(batches.metadata()), config.batch_size * config.accumulate
    whole = int(data.get("ss_num_batches_per_epoch", math.ceil(len(batches) / config.batch_size)))
    round_ = max(1, math.ceil(whole / config.accumulate))  # steps
    said: dict[str, object] = {
        "ss_output_name": config.file_name,
        "ss_sd_model_name": checkpoint.name,
        "ss_new_sd_model_hash": digest,
        "ss_base_model_version": _VERSIONS.get(family, family),
        "ss_v2": family.startswith("sd-2"),
        "ss_learning_rate": optimiser.rate,
        "ss_unet_lr": optimiser.rate,
        "ss_text_encoder_lr": optimiser.text_rate,
        "ss_optimizer": optimiser.name,
        "ss_lr_scheduler": optimiser.decay,
        "ss_lr_warmup_steps": optimiser.warmup_steps,
        "ss_max_grad_norm": optimiser.clip_norm,
        "ss_num_batches_per_epoch": whole,
        "ss_num_epochs": math.ceil(config.steps / round_),
        "ss_epoch": step // round_,
        "ss_steps": step,
        "ss_max_train_steps": config.steps,
        "ss_batch_size_per_device": config.batch_size,
        "ss_total_batch_size": per_step,
        "ss_gradient_accumulation_steps": config.accumulate,
        "ss_gradient_checkpointing": config.model.checkpointing,
        "ss_mixed_precision": _PRECISIONS[config.precision],
        "ss_clip_skip": config.model.clip_skip,
        "ss_max_token_length": 75 * config.model.max_chunks,
        "ss_seed": config.seed,
        "ss_noise_offset": loss.noise_offset or None,
        "ss_min_snr_gamma": loss.min_snr_gamma,
        "ss_debiased_estimation": loss.debiased,
        "ss_zero_terminal_snr": bool(loss.zero_terminal_snr),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": config.file_name,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.prediction_type": "v" if checkpoint.spec.prediction == "v" else "epsilon",
        "sfumato.training": json.dumps(config.model_dump(mode="json", include=told)),
        "sfumato.version": __version__,
    }
    if family in _ARCHITECTURES:
        kind = _KINDS.get(config.method)
        said["modelspec.architecture"] = _ARCHITECTURES[family] + (f"/{kind}" if kind else "")
    return {name: str(value) for name, value in said.items()} | data | config.provenance
