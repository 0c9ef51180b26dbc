"""Conversion goes both ways to the bit, and other programs read what is written."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersVAE
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sfumato.errors import OutputError, UnknownModelError, UnsafeFileError, WeightsError
from sfumato.text.tokenizer import Tokenizer
from sfumato.weights import convert, files, folders, load
from sfumato.weights.layouts import build_empty
from sfumato.weights.specs import MODELS, ModelSpec


def narrow(spec: ModelSpec) -> ModelSpec:
    heads: dict[str, Any] = {"heads": 2} if spec.unet.head_dim is None else {"head_dim": 8}
    return replace(
        spec,
        family="custom",
        unet=replace(
            spec.unet,
            model_channels=16,
            channel_mult=(1, 2, 2),
            attention_levels=(0, 1),
            res_blocks=1,
            groups=8,
            context_dim=16,
            **heads,
        ),
        vae=replace(spec.vae, channels=(8, 8, 8, 8), res_blocks=1, groups=4),
        text=replace(spec.text, width=16, heads=2, layers=2),
    )


def write(path: Path, spec: ModelSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    made = {name: build_empty(name, spec).to_empty(device="cpu") for name in ("unet", "vae", "text")}
    with torch.no_grad():
        for network in made.values():
            for parameter in network.parameters():
                parameter.uniform_(-0.3, 0.3, generator=generator)
    load.save_checkpoint(path, spec=spec, **made, provenance={"data": "none"})


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def wide_first(spec: ModelSpec) -> ModelSpec:
    """As sfumato-mini: the first level is a multiple of the unit that the time code is as wide as."""
    return replace(spec, unet=replace(spec.unet, channel_mult=(2, 3, 4)))


SPECS = {name: narrow(spec) for name, spec in MODELS.items()}
SPECS["wide first"] = wide_first(SPECS["sd-2.x"])


@pytest.mark.parametrize("name", SPECS)
def test_single_file_to_folder_and_back_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    write(tmp_path / "a.safetensors", spec)
    convert.convert(tmp_path / "a.safetensors", tmp_path / "folder")
    convert.convert(tmp_path / "folder", tmp_path / "b.safetensors")
    first, second = (files.read_safetensors(tmp_path / f"{n}.safetensors") for n in "ab")
    assert same(first, second)
    assert load.load_checkpoint(tmp_path / "b.safetensors", device="cpu", dtype=None).spec == spec
    provenance = json.loads(files.read_header(tmp_path / "b.safetensors").metadata["sfumato"])["provenance"]
    assert provenance == {"data": "none", "converted from": "a.safetensors"}


@pytest.mark.parametrize("name", ["sd-1.x", "sd-2.x", "wide first"])
def test_diffusers_loads_the_folder_and_computes_the_same(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    write(tmp_path / "a.safetensors", spec)
    convert.convert(tmp_path / "a.safetensors", tmp_path / "folder")
    ours = load.load_checkpoint(tmp_path / "folder", device="cpu", dtype=None)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "folder" / "unet").eval()
    vae = DiffusersVAE.from_pretrained(tmp_path / "folder" / "vae").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about itself
        text = CLIPTextModel.from_pretrained(tmp_path / "folder" / "text_encoder").eval()
        tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "folder" / "tokenizer")
    generator = torch.Generator().manual_seed(1)
    x, steps = torch.randn(2, spec.unet.in_channels, 8, 8, generator=generator), torch.tensor([3, 700])
    ids = torch.randint(0, 49405, (2, 77), generator=generator)
    with torch.no_grad():
        context = ours.text(ids)
        pairs = {
            "text": (context, text(ids).last_hidden_state),
            "unet": (ours.unet(x, steps, context), unet(x, steps, context).sample),
            "vae": (ours.vae.decode(x[:, :4]), vae.decode(x[:, :4]).sample),
        }
    for network, (a, b) in pairs.items():
        assert (a - b).norm() / b.norm() < 1e-5, network  # float32 rounding in another order
    prompt = "a slice of pizza, 3D — naïve café"
    assert tokenizer(prompt)["input_ids"][1:-1] == Tokenizer.load().encode(prompt)
    assert tokenizer.pad_token_id == spec.pad_token


def test_a_folder_that_diffusers_wrote_is_read_without_our_description(tmp_path: Path) -> None:
    spec = narrow(MODELS["sd-2.x"])
    write(tmp_path / "a.safetensors", spec)
    convert.convert(tmp_path / "a.safetensors", tmp_path / "folder")
    again = tmp_path / "again"
    UNet2DConditionModel.from_pretrained(tmp_path / "folder" / "unet").save_pretrained(again / "unet")
    DiffusersVAE.from_pretrained(tmp_path / "folder" / "vae").save_pretrained(again / "vae")
    CLIPTextModel.from_pretrained(tmp_path / "folder" / "text_encoder").save_pretrained(
        again / "text_encoder"
    )
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (again / name).parent.mkdir(exist_ok=True)
        (again / name).write_bytes((tmp_path / "folder" / name).read_bytes())
    read = load.load_checkpoint(again, device="cpu", dtype=None)
    text = replace(spec.text, skip="last")  # no row of MODELS has this text encoder
    assert (read.spec.unet, read.spec.vae, read.spec.text) == (spec.unet, spec.vae, text)
    assert read.spec.prediction == "v"
    assert read.sha256 == files.file_sha256(again / "unet" / "diffusion_pytorch_model.safetensors")
    original = load.load_checkpoint(tmp_path / "a.safetensors", device="cpu", dtype=None)
    for part in ("unet", "vae", "text"):
        assert same(getattr(read, part).state_dict(), getattr(original, part).state_dict())
    vae = load.load_vae(again / "vae", device="cpu", dtype=None)
    assert same(vae.state_dict(), original.vae.state_dict())


@pytest.mark.parametrize("target", ["out.ckpt", "out.pt", "out.SafeTensors"])
def test_a_target_with_another_ending_is_refused(target: str, tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", SPECS["sd-1.x"])
    with pytest.raises(OutputError, match=rf"{target}: models are written as \.safetensors"):
        convert.convert(tmp_path / "a.safetensors", tmp_path / target)
    convert.convert(tmp_path / "a.safetensors", tmp_path / "v1.5")
    assert (tmp_path / "v1.5" / "model_index.json").is_file()


def test_a_prediction_type_against_our_own_description_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", SPECS["sd-2.x"])
    convert.convert(tmp_path / "a.safetensors", tmp_path / "folder", prediction="v")
    for path in (tmp_path / "a.safetensors", tmp_path / "folder"):
        assert load.load_checkpoint(path, device="cpu", dtype=None, prediction="v").spec.prediction == "v"
        with pytest.raises(
            WeightsError, match=rf"{path.name} says of itself that it predicts 'v', not 'eps'"
        ):
            load.load_checkpoint(path, device="cpu", dtype=None, prediction="eps")


@pytest.mark.parametrize("name", MODELS)
def test_the_published_rows_go_through_diffusers_settings_and_back(name: str) -> None:
    spec, path = MODELS[name], Path("config.json")
    there = convert.configs
    assert there.read_unet(there.unet_settings(spec), path) == spec.unet
    assert there.read_vae(there.vae_settings(spec), path) == spec.vae
    assert replace(there.read_text(there.text_settings(spec), path), skip=spec.text.skip) == spec.text
    assert there.read_scheduler(there.scheduler_settings(spec), path) == (spec.prediction, False)


def edited(folder: Path, name: str, **settings: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


FAULTS = {
    "a class condition": ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type=timestep"),
    "a guidance embedding": ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256"),
    "another activation": ("unet/config.json", {"act_fn": "gelu"}, "act_fn=gelu, only silu"),
    "a setting from the future": ("unet/config.json", {"warp_drive": 9}, "warp_drive=9"),
    "other blocks": ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 3}, "are not a U-Net"),
    "two heads counts": ("unet/config.json", {"attention_head_dim": [2, 3, 5]}, "attention heads"),
    "no channels": ("unet/config.json", {"block_out_channels": []}, "unusable block_out_channels"),
    "negative channels": ("unet/config.json", {"in_channels": -1}, "unusable in_channels"),
    "other width": ("unet/config.json", {"cross_attention_dim": 32}, "of another shape"),
    "a shift": ("vae/config.json", {"shift_factor": 0.1}, "shift_factor=0.1"),
    "other gelu": ("text_encoder/config.json", {"hidden_act": "relu"}, "relu"),
    "other noise": ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "beta_schedule=linear"),
    "flow": ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type=flow"),
    "SDXL": ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline"),
}


@pytest.fixture
def plain_folder(tmp_path: Path) -> Path:
    write(tmp_path / "a.safetensors", narrow(MODELS["sd-1.x"]))
    convert.convert(tmp_path / "a.safetensors", tmp_path / "folder")
    (tmp_path / "folder" / folders.DESCRIPTION).unlink()
    return tmp_path / "folder"


@pytest.mark.parametrize("name", FAULTS)
def test_a_setting_that_our_networks_do_not_have_is_refused_by_name(name: str, plain_folder: Path) -> None:
    file, settings, reason = FAULTS[name]
    edited(plain_folder, file, **settings)
    with pytest.raises(WeightsError, match=reason) as caught:
        load.load_checkpoint(plain_folder, device="cpu", dtype=None)
    assert "\n" not in str(caught.value)


def test_a_folder_with_something_missing_says_what(plain_folder: Path) -> None:
    weights = plain_folder / "vae" / "diffusion_pytorch_model.safetensors"
    moved = weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsafeFileError, match="pickled weights only"):
        load.load_checkpoint(plain_folder, device="cpu", dtype=None)
    moved.unlink()
    with pytest.raises(WeightsError, match=r"vae/diffusion_pytorch_model\.safetensors is missing"):
        load.load_checkpoint(plain_folder, device="cpu", dtype=None)
    (plain_folder / "vae" / "config.json").write_text("{broken")
    with pytest.raises(WeightsError, match="not readable JSON"):
        load.load_checkpoint(plain_folder, device="cpu", dtype=None)
    (plain_folder / "vae" / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(WeightsError, match="not readable JSON"):
        load.load_checkpoint(plain_folder, device="cpu", dtype=None)
    (plain_folder / "vae" / "config.json").unlink()
    with pytest.raises(UnknownModelError, match=r"vae/config\.json is missing"):
        load.load_checkpoint(plain_folder, device="cpu", dtype=None)
    with pytest.raises(UnknownModelError, match=r"model_index\.json is missing"):
        load.load_checkpoint(plain_folder / "tokenizer", device="cpu", dtype=None)


def test_weights_in_several_files_are_read_and_may_not_lie_elsewhere(plain_folder: Path) -> None:
    unet = plain_folder / "unet"
    whole = unet / "diffusion_pytorch_model.safetensors"
    tensors = files.read_safetensors(whole)
    names = sorted(tensors)
    before = load.load_checkpoint(plain_folder, device="cpu", dtype=None).unet.state_dict()
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, held in shards.items():
        files.write_safetensors(unet / shard, {name: tensors[name] for name in held})
    whole.unlink()
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert same(load.load_checkpoint(plain_folder, device="cpu", dtype=None).unet.state_dict(), before)
    index.write_text(json.dumps({"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}))
    with pytest.raises(WeightsError, match="does not name safetensors files beside it"):
        load.load_checkpoint(plain_folder, device="cpu", dtype=None)


def test_a_pickle_becomes_safetensors_and_a_dtype_is_cast(tmp_path: Path) -> None:
    spec = narrow(MODELS["sd-1.x"])
    write(tmp_path / "a.safetensors", spec)
    tensors = files.read_safetensors(tmp_path / "a.safetensors")
    torch.save({"lora_unet_x.lora_down.weight": torch.randn(4, 8)}, tmp_path / "lora.pt")
    convert.convert(tmp_path / "lora.pt", tmp_path / "lora.safetensors")
    assert files.read_header(tmp_path / "lora.safetensors").tensors.keys() == {"lora_unet_x.lora_down.weight"}
    convert.convert(tmp_path / "a.safetensors", tmp_path / "half.safetensors", dtype=torch.float16)
    half = files.read_safetensors(tmp_path / "half.safetensors")
    assert same(half, {name: tensor.half() for name, tensor in tensors.items()})


def test_other_programs_metadata_is_carried_along(tmp_path: Path) -> None:
    spec = narrow(MODELS["sd-1.x"])
    write(tmp_path / "a.safetensors", spec)
    header = files.read_header(tmp_path / "a.safetensors")
    told = {**header.metadata, "modelspec.title": "Dream", "modelspec.license": "CC0"}
    files.write_safetensors(
        tmp_path / "b.safetensors", files.read_safetensors(tmp_path / "a.safetensors"), told
    )
    convert.convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors")
    after = files.read_header(tmp_path / "c.safetensors").metadata
    assert (after["modelspec.title"], after["modelspec.license"]) == ("Dream", "CC0")


def test_nothing_is_replaced_and_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    spec = narrow(MODELS["sd-1.x"])
    write(tmp_path / "a.safetensors", spec)
    with pytest.raises(OutputError, match="exists already"):
        convert.convert(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(OutputError, match="was not written"):
        convert.convert(tmp_path / "a.safetensors", tmp_path / "none" / "folder")
    tensors = files.read_safetensors(tmp_path / "a.safetensors")
    tensors.pop("first_stage_model.quant_conv.weight")
    metadata = files.read_header(tmp_path / "a.safetensors").metadata
    files.write_safetensors(tmp_path / "b.safetensors", tensors, metadata)
    for target in ("c.safetensors", "c"):
        with pytest.raises(WeightsError, match="1 missing"):
            convert.convert(tmp_path / "b.safetensors", tmp_path / target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
