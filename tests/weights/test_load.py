"""Checkpoints load whole or not at all, from every layout, and say what does not fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sfumato.errors import ModelNotFoundError, UnknownModelError, WeightsError
from sfumato.nn.vae import AutoencoderKL
from sfumato.weights import detect, files, load, sources
from sfumato.weights.layouts import build_empty
from sfumato.weights.specs import MODELS, ModelSpec


def reduced(spec: ModelSpec) -> ModelSpec:
    """Give a row of the same kind with narrow networks; the context's width stays, detection looks at it."""
    heads = {"heads": 4} if spec.unet.head_dim is None else {"head_dim": 8}
    unet = replace(spec.unet, model_channels=16, channel_mult=(1, 2, 2, 2), res_blocks=1, groups=8, **heads)
    vae = replace(spec.vae, channels=(8, 8, 8, 8), res_blocks=1, groups=4)
    text = replace(spec.text, vocab_size=50, layers=1)
    return replace(spec, unet=unet, vae=vae, text=text)


REDUCED = {name: reduced(spec) for name, spec in MODELS.items()}


def networks(spec: ModelSpec) -> dict[str, nn.Module]:
    generator = torch.Generator().manual_seed(0)
    made = {name: build_empty(name, spec).to_empty(device="cpu") for name in ("unet", "vae", "text")}
    for network in made.values():
        for parameter in network.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1, generator=generator)
    return made


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "MODELS", REDUCED)


def foreign_file(path: Path, spec: ModelSpec, made: dict[str, nn.Module], **extra: torch.Tensor) -> None:
    """Write what another program would: no description in the header."""
    load.save_checkpoint(path, spec=spec, **made)
    tensors = files.read_safetensors(path)
    files.write_safetensors(path, tensors | extra)


@pytest.mark.parametrize("name", MODELS)
def test_every_row_goes_through_a_file_to_the_bit_and_describes_itself(name: str, tmp_path: Path) -> None:
    spec, path = replace(REDUCED[name], family="my own"), tmp_path / "model.safetensors"
    made = networks(spec)
    load.save_checkpoint(path, spec=spec, **made, provenance={"data": "none"})
    loaded = load.load_checkpoint(path, device="cpu", dtype=None)
    assert loaded.spec == spec
    assert all(same(getattr(loaded, part), network) for part, network in made.items())
    assert loaded.name == "model"
    assert loaded.sha256 == files.file_sha256(path)
    assert json.loads(loaded.metadata["sfumato"])["provenance"] == {"data": "none"}
    assert not any(parameter.requires_grad for parameter in loaded.unet.parameters())
    assert not loaded.unet.training


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("name", MODELS)
def test_every_row_is_found_out_from_a_file_without_a_description(name: str, tmp_path: Path) -> None:
    spec, path = REDUCED[name], tmp_path / "model.safetensors"
    made = networks(spec)
    foreign_file(path, spec, made)
    told = spec.prediction if name.startswith("sd-2.x") else None
    loaded = load.load_checkpoint(path, device="cpu", dtype=None, prediction=told)
    assert loaded.spec == spec
    assert all(same(getattr(loaded, part), network) for part, network in made.items())


@pytest.mark.usefixtures("small_models")
def test_known_harmless_tensors_are_left_out(tmp_path: Path) -> None:
    spec, path = REDUCED["sd-2.x-base"], tmp_path / "model.safetensors"
    extra = {
        "model_ema.decay": torch.zeros(()),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "alphas_cumprod": torch.zeros(1000),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "posterior_mean_coef1": torch.zeros(1000),
        "betas": torch.zeros(1000),
        "cond_stage_model.model.logit_scale": torch.zeros(()),
        "cond_stage_model.model.text_projection": torch.zeros(1024, 1024),
        "cond_stage_model.model.transformer.resblocks.23.ln_1.weight": torch.zeros(1024),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.zeros(1, 77),
        "first_stage_model.loss.logvar": torch.zeros(()),
    }
    foreign_file(path, spec, networks(spec), **extra)
    load.load_checkpoint(path, device="cpu", dtype=None, prediction="eps")


@pytest.mark.usefixtures("small_models")
def test_names_of_later_training_code_are_read(tmp_path: Path) -> None:
    spec, path = REDUCED["sd-2.x-base"], tmp_path / "turbo.safetensors"
    made = networks(spec)
    load.save_checkpoint(path, spec=spec, **made)
    tensors = {
        name.replace("cond_stage_model.", "conditioner.embedders.0."): tensor
        for name, tensor in files.read_safetensors(path).items()
    }
    files.write_safetensors(path, tensors)
    assert same(load.load_checkpoint(path, device="cpu", dtype=None, prediction="eps").text, made["text"])


def test_missing_extra_and_misshapen_tensors_are_all_named_and_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, path = REDUCED["sd-1.x"], tmp_path / "model.safetensors"
    load.save_checkpoint(path, spec=spec, **networks(spec))
    header, tensors = files.read_header(path), files.read_safetensors(path)
    gone = "first_stage_model.decoder.conv_in.weight"
    del tensors[gone]
    bent = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
    tensors[bent] = torch.zeros(5)
    tensors |= {f"model.diffusion_model.strange.{n}": torch.zeros(1) for n in range(12)}
    tensors["nowhere"] = torch.zeros(1)
    files.write_safetensors(path, tensors, header.metadata)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("sfumato.weights.layouts.read_safetensors", never)
    with pytest.raises(WeightsError) as caught:
        load.load_checkpoint(path, device="cpu", dtype=None)
    message = str(caught.value)
    assert f"1 missing: {gone} [8, 4, 3, 3]" in message
    assert f"1 of another shape: {bent} expected [768] found [5]" in message
    assert "13 extra: nowhere" in message
    assert message.count("strange") == 9  # the first ten with `nowhere`
    assert "\n" not in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    spec, path = REDUCED["sd-1.x"], tmp_path / "model.safetensors"
    made = networks(spec)
    with torch.no_grad():
        next(made["vae"].parameters()).view(-1)[7] = value
    load.save_checkpoint(path, spec=spec, **made)
    with pytest.raises(WeightsError, match=r"first_stage_model\S* that are not finite; get the file again"):
        load.load_checkpoint(path, device="cpu", dtype=None)


def test_a_value_beyond_the_wanted_dtype_is_refused_with_the_dtype_to_take(tmp_path: Path) -> None:
    spec, path = REDUCED["sd-1.x"], tmp_path / "model.safetensors"
    made = networks(spec)
    with torch.no_grad():
        next(made["unet"].parameters()).view(-1)[7] = 1e38
    load.save_checkpoint(path, spec=spec, **made)
    with pytest.raises(WeightsError, match=r"not finite in torch.float16; load it in torch.float32"):
        load.load_checkpoint(path, device="cpu", dtype=torch.float16)
    load.load_checkpoint(path, device="cpu", dtype=torch.bfloat16)


def test_all_zero_weights_load(tmp_path: Path) -> None:
    spec, path = REDUCED["sd-1.x"], tmp_path / "model.safetensors"
    made = networks(spec)
    zero = {part: {k: torch.zeros_like(v) for k, v in n.state_dict().items()} for part, n in made.items()}
    load.save_checkpoint(path, spec=spec, **zero)
    load.load_checkpoint(path, device="cpu", dtype=None)


def test_weights_are_cast_to_the_wanted_dtype(tmp_path: Path) -> None:
    spec, path = REDUCED["sd-1.x"], tmp_path / "model.safetensors"
    load.save_checkpoint(path, spec=spec, **networks(spec), dtype=torch.float16)
    loaded = load.load_checkpoint(path, device="cpu", dtype=torch.float32)
    assert {p.dtype for n in (loaded.unet, loaded.vae, loaded.text) for p in n.parameters()} == {
        torch.float32
    }


def test_another_vae_takes_the_place_of_the_checkpoints_own(tmp_path: Path) -> None:
    spec, path, other = REDUCED["sd-1.x"], tmp_path / "model.safetensors", tmp_path / "vae.safetensors"
    made = networks(spec)
    load.save_checkpoint(path, spec=spec, **made)
    vae_config = replace(spec.vae, channels=(4, 4, 4, 8), scale_factor=0.5)
    torch.manual_seed(1)
    vae = AutoencoderKL(vae_config)
    load.save_checkpoint(other, spec=replace(spec, vae=vae_config), vae=vae)
    loaded = load.load_checkpoint(path, device="cpu", dtype=None, vae=other)
    assert same(loaded.vae, vae)
    assert loaded.spec.vae == replace(vae_config, scale_factor=spec.vae.scale_factor)
    wrong = replace(vae_config, latent_channels=16)
    load.save_checkpoint(other, spec=replace(spec, vae=wrong), vae=AutoencoderKL(wrong))
    with pytest.raises(WeightsError, match="16 latent channels"):
        load.load_checkpoint(path, device="cpu", dtype=None, vae=other)


def test_a_vae_is_read_from_every_layout_it_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(family="any", vae=REDUCED["sd-1.x"].vae)
    monkeypatch.setattr(sources, "ModelSpec", lambda family: replace(spec, family=family))
    monkeypatch.setattr(load, "ModelSpec", lambda family: replace(spec, family=family))
    vae = AutoencoderKL(spec.vae)
    path = tmp_path / "vae.safetensors"
    bare = vae.state_dict()
    table = load.table_of("vae", spec)
    theirs = load.keymaps.to_theirs(table, bare)
    prefixed = {f"first_stage_model.{k}": v for k, v in bare.items()}
    for tensors in (bare, theirs, prefixed):
        files.write_safetensors(path, tensors)
        assert same(load.load_vae(path, device="cpu", dtype=None), vae)


def test_some_networks_alone_are_saved_and_loaded(tmp_path: Path) -> None:
    spec, path = REDUCED["sd-1.x"], tmp_path / "stage.safetensors"
    made = networks(spec)
    load.save_checkpoint(path, spec=spec, vae=made["vae"], text=made["text"])
    found, parts = load.load_networks(path, ("vae", "text"), device="cpu", dtype=None)
    assert found == spec
    assert all(same(parts[name], made[name]) for name in ("vae", "text"))
    with pytest.raises(WeightsError, match=r"missing: model\.diffusion_model"):
        load.load_networks(path, ("unet",), device="cpu", dtype=None)
    with pytest.raises(UnknownModelError, match="VAE"):
        load.load_checkpoint(path, device="cpu", dtype=None)


def test_a_missing_file_is_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        load.load_checkpoint(tmp_path / "none.safetensors", device="cpu", dtype=None)


def test_a_truncated_checkpoint_is_refused_before_a_weight_is_read(tmp_path: Path) -> None:
    spec, path = REDUCED["sd-1.x"], tmp_path / "model.safetensors"
    load.save_checkpoint(path, spec=spec, **networks(spec))
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="truncated"):
            load.load_checkpoint(path, device="cpu", dtype=None)
