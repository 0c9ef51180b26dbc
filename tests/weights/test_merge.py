"""Merging equals its formula bit for bit, writes whole files, and names what does not fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.errors import OutputError, RequestError, SfumatoError, WeightsError
from sfumato.weights.files import file_sha256, read_header, read_safetensors, write_safetensors
from sfumato.weights.layouts import build_empty
from sfumato.weights.load import load_checkpoint, save_checkpoint
from sfumato.weights.merge import BLOCKS, RECIPE, Recipe, default_name, merge
from sfumato.weights.specs import MODELS, ModelSpec

FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def tiny(channels: int = 4) -> ModelSpec:
    spec = MODELS["sd-1.x"]
    return replace(
        spec,
        family="tiny",
        unet=replace(
            spec.unet, in_channels=channels, model_channels=8, groups=4, context_dim=8, heads=2, res_blocks=2
        ),
        vae=replace(spec.vae, channels=(8, 8, 8, 8), res_blocks=1, groups=4),
        text=replace(spec.text, width=8, heads=2, layers=2, vocab_size=50),
    )


def write(path: Path, seed: int, channels: int = 4, dtype: torch.dtype = torch.float32) -> Path:
    generator = torch.Generator().manual_seed(seed)
    spec = tiny(channels)
    made = {name: build_empty(name, spec).to_empty(device="cpu") for name in ("unet", "vae", "text")}
    with torch.no_grad():
        for network in made.values():
            for parameter in network.parameters():
                parameter.uniform_(-0.3, 0.3, generator=generator)
    save_checkpoint(path, spec=spec, **made, dtype=dtype)
    return path


@pytest.fixture(scope="module")
def abc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("merge")
    return (
        write(folder / "a.safetensors", 1),
        write(folder / "b.safetensors", 2),
        write(folder / "c.safetensors", 3),
    )


def merged(inputs: tuple[Path, ...], target: Path, **recipe: Any) -> dict[str, Tensor]:
    steps = list(merge(Recipe(**recipe), inputs, target))
    assert [step.done for step in steps] == list(range(1, steps[-1].total + 1))
    return read_safetensors(target)


def arrays(paths: tuple[Path, ...]) -> list[dict[str, Any]]:
    return [{name: t.float().numpy() for name, t in read_safetensors(path).items()} for path in paths]


def test_a_weighted_sum_is_the_formula_to_the_bit(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    made = merged(abc[:2], tmp_path / "m.safetensors", multiplier=0.3)
    assert made.keys() == read_safetensors(abc[0]).keys()
    a, b = arrays(abc[:2])
    for name, tensor in made.items():
        assert np.array_equal(tensor.numpy(), a[name] * np.float32(1 - 0.3) + b[name] * np.float32(0.3)), name


def test_an_added_difference_is_the_formula_to_the_bit(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    made = merged(abc, tmp_path / "m.safetensors", method="add-difference", multiplier=0.7)
    a, b, c = arrays(abc)
    for name, tensor in made.items():
        assert np.array_equal(tensor.numpy(), a[name] + (b[name] - c[name]) * np.float32(0.7)), name


def test_no_interpolation_is_a(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    made = merged(abc[:1], tmp_path / "m.safetensors", method="no-interpolation")
    assert all(torch.equal(made[name], tensor) for name, tensor in read_safetensors(abc[0]).items())
    load_checkpoint(tmp_path / "m.safetensors", device="cpu", dtype=None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_the_rounded_result(
    dtype: torch.dtype, abc: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    full = merged(abc[:2], tmp_path / "full.safetensors")
    half = merged(abc[:2], tmp_path / "half.safetensors", dtype=dtype)
    assert all(torch.equal(half[name], tensor.to(dtype)) for name, tensor in full.items())


def test_sixteen_bit_inputs_are_merged_in_float32(tmp_path: Path) -> None:
    pair = tuple(write(tmp_path / f"{k}.safetensors", k, dtype=torch.float16) for k in (1, 2))
    made = merged(pair, tmp_path / "m.safetensors")
    a, b = (each[FIRST] for each in arrays(pair))
    expected = torch.from_numpy(a * np.float32(1 - 0.3) + b * np.float32(0.3)).half()
    assert torch.equal(made[FIRST], expected)


@pytest.mark.parametrize("number", [0, 1, 11, 12, 13, 24])
def test_a_block_weight_moves_its_block_alone(
    number: int, abc: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    weights = tuple(float(k == number) for k in range(25))
    made = merged(abc[:2], tmp_path / "m.safetensors", multiplier=0.0, blocks=weights)
    a, b = read_safetensors(abc[0]), read_safetensors(abc[1])
    label = BLOCKS[number]
    place = {"I": "input_blocks", "M": "middle_block", "O": "output_blocks"}[label[0]]
    prefix = f"model.diffusion_model.{place}." + ("" if label == "M00" else f"{int(label[-2:])}.")
    ends = {0: "model.diffusion_model.time_embed.", 24: "model.diffusion_model.out."}
    for name, tensor in made.items():
        moved = name.startswith((prefix, ends.get(number, prefix)))
        assert torch.equal(tensor, (b if moved else a)[name]), name
    assert any(name.startswith(prefix) for name in made)


def test_equal_block_weights_are_one_multiplier(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    one = merged(abc[:2], tmp_path / "one.safetensors", multiplier=0.4)
    many = merged(abc[:2], tmp_path / "many.safetensors", multiplier=0.4, blocks=(0.4,) * 25)
    assert all(torch.equal(many[name], tensor) for name, tensor in one.items())


@pytest.mark.parametrize(("channels", "kind"), [(9, ".inpainting"), (8, ".instruct-pix2pix")])
def test_a_wider_a_takes_a_plain_b_into_its_first_four_channels(
    channels: int, kind: str, abc: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    wide = write(tmp_path / "wide.safetensors", 4, channels)
    recipe = Recipe(method="add-difference", multiplier=1.0)
    target = tmp_path / default_name(recipe, (wide, *abc[:2]))
    assert target.name == f"wide + 1.0(a - b){kind}.safetensors"
    list(merge(recipe, (wide, *abc[:2]), target))
    found, a = read_safetensors(target)[FIRST], read_safetensors(wide)[FIRST]
    assert torch.equal(found[:, 4:], a[:, 4:])
    b, c = (read_safetensors(path)[FIRST] for path in abc[:2])
    assert torch.equal(found[:, :4], a[:, :4] + (b - c) * 1.0)
    assert load_checkpoint(target, device="cpu", dtype=None).unet.config.in_channels == channels


def test_the_reverse_is_refused_with_the_remedy(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    wide = write(tmp_path / "wide.safetensors", 4, 9)
    with pytest.raises(WeightsError, match=r"input_blocks\.0\.0\.weight A \[8, 4, .* exchange A and B"):
        list(merge(Recipe(), (abc[0], wide), tmp_path / "m.safetensors"))
    difference = Recipe(method="add-difference")
    with pytest.raises(WeightsError, match="in B and in C"):
        list(merge(difference, (wide, wide, abc[0]), tmp_path / "m.safetensors"))


def test_a_baked_vae_replaces_as(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    made = merged(abc[:2], tmp_path / "m.safetensors", vae=abc[2])
    c = read_safetensors(abc[2])
    plain = merged(abc[:2], tmp_path / "plain.safetensors")
    for name, tensor in made.items():
        source = c if name.startswith("first_stage_model.") else plain
        assert torch.equal(tensor, source[name]), name


def test_a_vae_that_does_not_fit_is_refused(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    c = {name: t for name, t in read_safetensors(abc[2]).items() if "encoder.down.3" not in name}
    write_safetensors(tmp_path / "vae.safetensors", c)
    with pytest.raises(WeightsError, match=r"first_stage_model\.encoder\.down\.3"):
        merged(
            abc[:1], tmp_path / "m.safetensors", method="no-interpolation", vae=tmp_path / "vae.safetensors"
        )


def test_ballast_of_one_file_alone_does_not_matter(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    plain = merged(abc[:2], tmp_path / "plain.safetensors")
    ballast = {"model_ema.decay": torch.tensor(0.5), "global_step": torch.tensor(7)}
    a = {**read_safetensors(abc[0]), **ballast}
    ids = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)}
    write_safetensors(tmp_path / "a.safetensors", a, read_header(abc[0]).metadata)
    write_safetensors(tmp_path / "b.safetensors", {**read_safetensors(abc[1]), **ids})
    made = merged((tmp_path / "a.safetensors", tmp_path / "b.safetensors"), tmp_path / "m.safetensors")
    assert made.keys() == plain.keys() | ballast.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in {**plain, **ballast}.items())


def test_tensors_that_do_not_fit_are_named(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    b = read_safetensors(abc[1])
    b.pop("model.diffusion_model.out.2.bias")
    b["model.diffusion_model.new.weight"] = torch.zeros(3)
    b["model.diffusion_model.out.0.bias"] = torch.zeros(3)
    write_safetensors(tmp_path / "b.safetensors", b)
    with pytest.raises(WeightsError) as caught:
        merged((abc[0], tmp_path / "b.safetensors"), tmp_path / "m.safetensors")
    message = str(caught.value)
    assert "1 missing in B: model.diffusion_model.out.2.bias" in message
    assert "1 only in B: model.diffusion_model.new.weight" in message
    assert "model.diffusion_model.out.0.bias A [8] B [3]" in message
    assert not (tmp_path / "m.safetensors").exists()


def test_other_predictions_are_not_mixed(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    metadata = dict(read_header(abc[1]).metadata)
    metadata = {k: v.replace('"prediction": "eps"', '"prediction": "v"') for k, v in metadata.items()}
    write_safetensors(tmp_path / "v.safetensors", read_safetensors(abc[1]), metadata)
    with pytest.raises(WeightsError, match=r"v\.safetensors predicts v"):
        merged((abc[0], tmp_path / "v.safetensors"), tmp_path / "m.safetensors")


def test_discarded_tensors_are_left_out(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    made = merged(abc[:2], tmp_path / "m.safetensors", discard=r"^first_stage_model\.|time_embed")
    assert made
    assert not [name for name in made if name.startswith("first_stage_model.") or "time_embed" in name]


def test_values_beyond_sixteen_bits_are_refused(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a = read_safetensors(abc[0])
    a[FIRST] = torch.full_like(a[FIRST], 1e6)
    write_safetensors(tmp_path / "a.safetensors", a)
    with pytest.raises(WeightsError, match="float16"):
        merged((tmp_path / "a.safetensors", abc[1]), tmp_path / "m.safetensors", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_recipe_stands_in_the_file(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    merged(abc[:2], first, multiplier=0.25, dtype=torch.float16)
    metadata = read_header(first).metadata
    recipe = json.loads(metadata[RECIPE])
    assert recipe["type"] == "webui"
    assert recipe["primary_model_hash"] == file_sha256(abc[0])
    assert recipe["tertiary_model_hash"] is None
    assert (recipe["interp_method"], recipe["multiplier"]) == ("Weighted sum", 0.25)
    assert recipe["save_as_half"] is True
    merged((first, abc[2]), second)
    models = json.loads(read_header(second).metadata["sd_merge_models"])
    assert models.keys() == {file_sha256(path) for path in (*abc, first)}
    assert json.loads(models[file_sha256(first)]["sd_merge_recipe"])["multiplier"] == 0.25


def test_a_merge_that_is_stopped_leaves_nothing(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    steps = merge(Recipe(), abc[:2], tmp_path / "m.safetensors")
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_written(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    before = file_sha256(abc[0])
    for target in (abc[0], abc[1]):
        with pytest.raises(OutputError, match="exists already"):
            list(merge(Recipe(), abc[:2], target))
    assert file_sha256(abc[0]) == before


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"method": "sigmoid"}, "method"),
        ({"multiplier": 1.5}, "multiplier"),
        ({"multiplier": float("nan")}, "multiplier"),
        ({"blocks": (0.5,) * 24}, "25 are needed"),
        ({"blocks": (0.5,) * 24 + (2.0,)}, "OUT11"),
        ({"discard": "("}, "regular expression"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(recipe: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        Recipe(**recipe)


def test_a_method_takes_its_number_of_checkpoints(abc: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for method, count in (("weighted-sum", 3), ("add-difference", 2), ("no-interpolation", 2)):
        with pytest.raises(RequestError, match="checkpoints"):
            list(merge(Recipe(method=method), abc[:count], tmp_path / "m"))  # type: ignore[arg-type]
    with pytest.raises(SfumatoError, match="folder"):
        list(merge(Recipe(), (abc[0], tmp_path), tmp_path / "m"))
