"""What a file is, told from names and shapes alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.weights import detect, files, info, load, store
from sfumato.weights.header import Header, TensorInfo
from sfumato.weights.layouts import build_empty, table_of
from sfumato.weights.specs import MODELS, ModelSpec, build_spec, spec_fields


def header(shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Header:
    tensors = {name: TensorInfo("F16", shape, 0, 0) for name, shape in shapes.items()}
    return Header(tensors=tensors, metadata=metadata or {}, file_size=0)


def published(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Give names and shapes of a published checkpoint of a row, at full size."""
    shapes = {}
    for network, prefix in (("unet", "model.diffusion_model."), ("vae", "first_stage_model.")):
        state = build_empty(network, spec).state_dict()
        shapes |= {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in state.items()}
    text = build_empty("text", spec).state_dict()
    prefix = "cond_stage_model.transformer."
    if spec.text_layout == "open_clip":
        text = load.keymaps.to_theirs(table_of("text", spec, "open_clip"), text)
        prefix = "cond_stage_model.model."
    return shapes | {f"{prefix}{name}": tuple(tensor.shape) for name, tensor in text.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_row_is_told_by_exactly_its_own_rule(name: str) -> None:
    spec = MODELS[name]
    full = header(published(spec))
    found = detect.detect(full, prediction=spec.prediction)
    assert found.spec == spec
    assert found.kind == "checkpoint"
    names = "\n".join(full.tensors)
    firing = [rule for rule in detect.RULES if detect._fires(rule, names, full.tensors)]
    rows = [rule for rule in firing if rule.rows]
    assert len(rows) == 1
    assert firing[0] is rows[0]


@pytest.mark.parametrize(
    ("name", "parameters"), [("sd-1.x", 859_520_964), ("sd-2.x", 865_910_724)]
)  # fmt: skip
def test_the_rows_have_the_published_numbers_of_parameters(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build_empty("unet", MODELS[name]).parameters()) == parameters


LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
NAMED: dict[str, dict[str, tuple[int, ...]]] = {
    "a checkpoint of the family SDXL": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "conditioner.embedders.1.model.ln_final.weight": (1280,),
    },
    "a checkpoint of the family SDXL refiner": {
        "model.diffusion_model.input_blocks.0.0.weight": (384, 4, 3, 3),
        "conditioner.embedders.0.model.ln_final.weight": (1280,),
    },
    "a checkpoint of the family SD 3": {
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)
    },
    "a checkpoint of the family Flux": {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
    "a checkpoint of the family SD 2.x upscaler": {
        "model.diffusion_model.input_blocks.0.0.weight": (256, 7, 3, 3)
    },
    "a LoRA for SD 1.x": {f"{LORA}.lora_down.weight": (8, 768), f"{LORA}.lora_up.weight": (320, 8)},
    "a LoRA for SD 2.x": {f"{LORA}.lora_down.weight": (8, 1024)},
    "a LoRA for SDXL": {f"{LORA}.lora_down.weight": (8, 2048)},
    "a LoRA for an unknown base": {"unet.x.to_q.lora_A.weight": (8, 320)},
    "a LoRA for Flux": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (8, 3072)},
    "a ControlNet for SD 1.x": {
        "control_model.zero_convs.0.0.weight": (320, 320, 1, 1),
        "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "a ControlNet for SD 2.x": {
        "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    },
    "a T2I-Adapter for Stable Diffusion": {"body.0.block1.weight": (320, 320, 3, 3)},
    "an IP-Adapter for Stable Diffusion": {
        "image_proj.proj.weight": (3072, 1024),
        "ip_adapter.1.to_k_ip.weight": (320, 768),
    },
    "an embedding for SD 1.x": {"emb_params": (2, 768)},
    "an embedding for SD 2.x": {"string_to_param.*": (1, 1024)},
    "an embedding for SDXL": {"clip_g": (1, 1280), "clip_l": (1, 768)},
    "a VAE for Stable Diffusion": {
        "decoder.mid.block_1.norm1.weight": (512,),
        "decoder.conv_in.weight": (512, 4, 3, 3),
    },
    "a VAE for SD 3 or Flux": {
        "first_stage_model.decoder.mid.block_1.norm1.weight": (512,),
        "first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3),
    },
    "a U-Net for SD 1.x": {
        "time_embedding.linear_1.weight": (1280, 320),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "a text encoder for CLIP": {"text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768)},
    "an upscaler for ESRGAN": {"body.0.rdb1.conv1.weight": (32, 64, 3, 3)},
    "a training state for Sfumato": {"master.x": (1,), "average.x": (1,)},
    "a file of an unknown kind": {"hello": (1,)},
}


@pytest.mark.parametrize("said", NAMED)
def test_other_files_are_called_by_their_name_in_the_error(said: str, tmp_path: Path) -> None:
    assert str(detect.detect(header(NAMED[said]))) == said
    path = tmp_path / "x.safetensors"
    small = {
        name: torch.zeros(1).expand(shape).contiguous() if len(shape) < 2 or shape[0] * shape[1] < 10**6
        else torch.zeros(0, *shape[1:])
        for name, shape in NAMED[said].items()
    }  # fmt: skip
    files.write_safetensors(path, small)
    with pytest.raises(UnknownModelError, match=said) as caught:
        load.load_checkpoint(path, device="cpu", dtype=None)
    assert "expected a checkpoint of sd-1.x" in str(caught.value)


def test_a_lora_or_a_checkpoint_of_another_family_is_no_vae(tmp_path: Path) -> None:
    for said in ("a LoRA for SD 1.x", "a VAE for SD 3 or Flux"):
        tensors = {name: torch.zeros(shape) for name, shape in NAMED[said].items()}
        files.write_safetensors(tmp_path / "x.safetensors", tensors)
        with pytest.raises(UnknownModelError, match=said):
            load.load_vae(tmp_path / "x.safetensors", device="cpu", dtype=None)


# --- prediction type ------------------------------------------------------------------------------

SD2 = published(MODELS["sd-2.x"])


def sidecar(path: Path, suffix: str, text: str) -> None:
    path.with_suffix(suffix).write_text(text)


V_YAML = 'model:\n  target: ldm\n  params:\n    parameterization: "v"\n    unet_config:\n      a: 1\n'
EPS_YAML = "model:\n  params:\n    linear_start: 0.00085\n    unet_config:\n      a: 1\n"


@pytest.mark.parametrize(
    ("metadata", "keys", "suffix", "text", "expected"),
    [
        ({}, {}, "", "", None),
        ({"modelspec.prediction_type": "v"}, {}, "", "", "sd-2.x"),
        ({"modelspec.prediction_type": "epsilon"}, {}, "", "", "sd-2.x-base"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, {}, "", "", "sd-2.x"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, {}, "", "", "sd-2.x-base"),
        ({}, {"v_pred": (0,)}, "", "", "sd-2.x"),
        ({}, {}, ".yaml", V_YAML, "sd-2.x"),
        ({}, {}, ".yaml", EPS_YAML, "sd-2.x-base"),
        ({}, {}, ".yaml", "unrelated: 1\n", None),
        ({}, {}, ".json", '{"prediction_type": "v_prediction"}', "sd-2.x"),
        ({}, {}, ".json", '{"parameterization": "eps"}', "sd-2.x-base"),
        ({}, {}, ".json", '{"description": "nice", "sd version": "SD2"}', None),
        ({}, {}, ".json", "[1, 2]", None),
        ({"modelspec.prediction_type": "epsilon"}, {}, ".yaml", V_YAML, "sd-2.x-base"),
    ],
)
def test_the_prediction_type_is_taken_from_where_it_stands(
    metadata: dict[str, str],
    keys: dict[str, Any],
    suffix: str,
    text: str,
    expected: str | None,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    if suffix:
        sidecar(path, suffix, text)
    found = detect.detect(header(SD2 | keys, metadata), path)
    assert found.spec == (MODELS[expected] if expected else None)
    for prediction, family in (("eps", "sd-2.x-base"), ("v", "sd-2.x")):  # the caller's word counts most
        assert detect.detect(header(SD2 | keys, metadata), path, prediction).spec == MODELS[family]  # type: ignore[arg-type]
    if expected is None:
        with pytest.raises(WeightsError, match=r"'eps' \(sd-2.x-base, 512 px\) or 'v' \(sd-2.x, 768 px\)"):
            detect.require_spec(found, path)


@pytest.mark.parametrize(
    ("suffix", "text", "reason"),
    [
        (".yaml", "parameterization: x0\nunet_config:\n", "prediction type 'x0'"),
        (".json", '{"prediction_type": "sample"}', "prediction type 'sample'"),
        (".json", "{broken", "is not JSON"),
        (".json", '{"a":' * 100_000, "is not JSON"),
    ],
)
def test_a_side_car_that_cannot_be_right_is_refused(
    suffix: str, text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    sidecar(path, suffix, text)
    with pytest.raises(WeightsError, match=reason):
        detect.detect(header(SD2), path)


def test_sd1_predicts_noise_unless_told_otherwise() -> None:
    shapes = published(MODELS["sd-1.x"])
    assert detect.detect(header(shapes)).spec == MODELS["sd-1.x"]
    told = detect.detect(header(shapes | {"v_pred": (0,), "ztsnr": (0,)})).spec
    assert told == replace(MODELS["sd-1.x"], prediction="v", zero_terminal_snr=True)


# --- self-description -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_row_goes_through_json_unchanged(name: str) -> None:
    assert build_spec(json.loads(json.dumps(spec_fields(MODELS[name])))) == MODELS[name]


def damaged(*path: str, value: Any) -> dict[str, Any]:
    fields = json.loads(json.dumps(spec_fields(MODELS["sd-1.x"])))
    place = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return fields


DAMAGE = [
    (damaged("unet", "model_channels", value="320"), "spec.unet.model_channels"),
    (damaged("unet", "model_channels", value=10**9), "spec.unet.model_channels"),
    (damaged("unet", "model_channels", value=True), "spec.unet.model_channels"),
    (damaged("unet", "channel_mult", value=[1] * 100), "spec.unet.channel_mult"),
    (damaged("unet", "groups", value=7), "not usable"),
    (damaged("text", "layers", value=10**6), "spec.text.layers"),
    (damaged("text", "activation", value="relu"), "spec.text.activation"),
    (damaged("prediction", value="x0"), "spec.prediction"),
    (damaged("vae", "scale_factor", value=None), "spec.vae.scale_factor"),
    (damaged("vae", value=[]), "spec.vae is"),
    (damaged("future", value=1), "another version"),
    ([], "expected an object"),
    (None, "expected an object"),
]


@pytest.mark.parametrize(("fields", "reason"), DAMAGE)
def test_a_damaged_description_is_refused(fields: Any, reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        detect.detect(header({}, {"sfumato": json.dumps({"spec": fields})}))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"a":' * 100_000])
def test_a_description_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(WeightsError, match="description"):
        detect.detect(header({}, {"sfumato": text}))


# --- describe -------------------------------------------------------------------------------------


def test_a_file_is_described_from_its_header_alone(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmap.mmap", None)
    found = info.describe(tiny_checkpoint)
    assert (found.kind, found.family, found.prediction, found.dtype) == ("checkpoint", "tiny", "eps", "F32")
    assert found.usable
    assert found.in_channels == 4
    assert found.parameters > 800_000
    assert json.loads(json.dumps(found.to_dict()))["native_size"] == 64
    save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "e.safetensors")
    assert "embedding, SD 1.x" in info.describe(tmp_path / "e.safetensors").line()


def test_a_pickle_is_described_without_executing_it(tmp_path: Path) -> None:
    shapes = {name: torch.zeros(1).expand(shape) for name, shape in NAMED["a LoRA for SD 1.x"].items()}
    torch.save({name: tensor.clone() for name, tensor in shapes.items()}, tmp_path / "l.pt")
    assert info.describe(tmp_path / "l.pt").family == "SD 1.x"
    (tmp_path / "bad.pt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    assert "os.system" in info.describe(tmp_path / "bad.pt").fault
    assert "does not exist" in info.describe(tmp_path / "none.pt").fault
    assert store.scan(tmp_path)[0].kind == "pickle"
