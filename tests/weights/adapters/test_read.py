"""Adapter files of every spelling come to the same modules; what is wrong with one is said."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY
from tests.weights.adapters.conftest import Tensors, kohya_lora, networks

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.weights.adapters.names import kohya_names
from sfumato.weights.adapters.read import Fitted, adapter_sha256, fit, read_adapter
from sfumato.weights.layouts import table_of
from sfumato.weights.specs import MODELS

Write = Callable[..., Path]
SD1 = MODELS["sd-1.x"]


def fitted(path: Path) -> Fitted:
    return fit(read_adapter(path), TINY, networks(TINY))


def same(one: Fitted, other: Fitted) -> bool:
    def content(each: Fitted) -> dict[str, object]:
        return {
            f"{network} {module}": (
                piece.kind,
                piece.alpha,
                {n: t.tolist() for n, t in piece.tensors.items()},
            )
            for network, part in each.parts.items()
            for module, piece in part.items()
        }

    return content(one) == content(other)


@pytest.mark.parametrize(("conv", "unet", "keys"), [(False, 192, 792), (True, 192 + 86, 792 + 3 * 86)])
def test_sd_1_has_the_published_numbers_of_modules(write: Write, conv: bool, unet: int, keys: int) -> None:
    """192 + 72 modules in 792 keys; 86 more with convolutions: the counts of kohya's trainer."""
    tensors = {name: tensor[:1] if tensor.ndim else tensor for name, tensor in kohya_lora(TINY).items()}
    del tensors
    made = kohya_lora(SD1, rank=1, conv=conv)
    assert len(made) == keys
    found = fit(read_adapter(write(made)), SD1, networks(SD1))
    assert (len(found.parts["unet"]), len(found.parts["text"])) == (unet, 72)
    assert not found.unmatched


def respelled(tensors: Tensors, spell: Callable[[str, str, str], str]) -> Tensors:
    """Rename kohya's keys; `spell` is given the network, diffusers' module and "up" or "down"."""
    theirs = {
        kohya: (place.network, row.theirs.removesuffix(".weight"))
        for place, kohya in kohya_names(TINY).items()
        for row in table_of(place.network, TINY)
        if row.ours == f"{place.module}.weight"
    }
    out = {}
    for key, tensor in tensors.items():
        module, _, field = key.partition(".")
        direction = {"lora_down.weight": "down", "lora_up.weight": "up"}[field]
        out[spell(*theirs[module], direction)] = tensor
    return out


def old_processors(network: str, module: str, direction: str) -> str:
    if network == "text":
        return f"text_encoder.{module}.lora_linear_layer.{direction}.weight"
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        if module.endswith(f".{part}"):
            attention = module.removesuffix(f".{part}")
            return f"unet.{attention}.processor.{part.removesuffix('.0')}_lora.{direction}.weight"
    return f"unet.{module}.lora.{direction}.weight"


AB = {"down": "lora_A", "up": "lora_B"}
SPELLINGS: dict[str, Callable[[str, str, str], str]] = {
    "kohya with te1": lambda n, m, d: (
        f"lora_{ {'unet': 'unet', 'text': 'te1'}[n] }_{m.replace('.', '_')}.lora_{d}.weight"
    ),
    "lycoris": lambda n, m, d: f"lycoris_{m.replace('.', '_')}.lora_{d}.weight",
    "PEFT": lambda n, m, d: f"{ {'unet': 'unet', 'text': 'text_encoder'}[n] }.{m}.{AB[d]}.weight",
    "PEFT's own": lambda n, m, d: f"base_model.model.{m}.{AB[d]}.weight",
    "PEFT's own, named": lambda n, m, d: f"base_model.model.{m}.{AB[d]}.style_1.weight",
    "diffusers": lambda n, m, d: f"{ {'unet': 'unet', 'text': 'text_encoder'}[n] }.{m}.lora.{d}.weight",
    "old processors": old_processors,
    "without text_model": lambda n, m, d: f"{m.removeprefix('text_model.')}.{AB[d]}.weight",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_comes_to_the_same(write: Write, spelling: str) -> None:
    tensors = kohya_lora(alpha=None)
    there = fitted(write(respelled(tensors, SPELLINGS[spelling]), "other"))
    assert there.unmatched == ()
    assert same(there, fitted(write(tensors)))


def test_names_of_single_files_come_to_the_same(write: Write) -> None:
    tensors = kohya_lora(alpha=None)
    ours = {
        kohya: f"lora_unet_{p.module}".replace(".", "_")
        for p, kohya in kohya_names(TINY).items()
        if p.network == "unet"
    }
    other = {
        f"{ours.get(key.partition('.')[0], key.partition('.')[0])}.{key.partition('.')[2]}": tensor
        for key, tensor in tensors.items()
    }
    assert same(fitted(write(other, "other")), fitted(write(tensors)))


def test_peft_says_alpha_in_the_header_or_beside_the_file(write: Write, tmp_path: Path) -> None:
    tensors = respelled(kohya_lora(alpha=None), SPELLINGS["PEFT"])
    told = {"unet.r": 4, "unet.lora_alpha": 6, "unet.alpha_pattern": {"attn1.to_q": 8}}
    found = fitted(write(tensors, metadata={"lora_adapter_metadata": json.dumps(told)}))
    alphas = {name: piece.alpha for name, piece in found.parts["unet"].items()}
    assert {alpha for name, alpha in alphas.items() if not name.endswith("attn1.to_q")} == {6.0}
    assert {alpha for name, alpha in alphas.items() if name.endswith("attn1.to_q")} == {8.0}
    assert {piece.alpha for piece in found.parts["text"].values()} == {None}
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 6, "use_rslora": true}')
    found = fitted(write(tensors, "adapter_model"))
    assert {piece.alpha for piece in found.parts["unet"].values()} == {12.0}  # 6 / √4 = 12 / 4


def test_a_pickle_is_read_like_a_file_of_tensors(write: Write, tmp_path: Path) -> None:
    tensors = kohya_lora()
    torch.save(tensors, tmp_path / "old.pt")
    assert same(fitted(tmp_path / "old.pt"), fitted(write(tensors)))


def test_the_hash_is_of_the_tensors_alone(write: Write) -> None:
    tensors = kohya_lora()
    one, other = write(tensors, "one"), write(tensors, "two", {"ss_training_comment": "edited"})
    assert adapter_sha256(one) == adapter_sha256(other) == read_adapter(one).digest


def test_keys_that_fit_nothing_are_named(write: Write) -> None:
    strange = {"lora_unet_nowhere.lora_down.weight": torch.ones(4, 8), "what": torch.ones(1)}
    strange["lora_unet_nowhere.lora_up.weight"] = torch.ones(8, 4)
    found = fitted(write(kohya_lora() | strange))
    assert set(found.unmatched) == set(strange)


def test_bundled_embeddings_are_found(write: Write) -> None:
    bundled = {"bundle_emb.fur coat.string_to_param.*": torch.ones(2, 16)}
    assert read_adapter(write(kohya_lora() | bundled)).embeddings["fur coat"].shape == (2, 16)


KEY = "lora_unet_mid_block_attentions_0_proj_in"


def change(**fields: torch.Tensor) -> Tensors:
    return kohya_lora() | {f"{KEY}.{name.replace('__', '.')}": tensor for name, tensor in fields.items()}


BROKEN: dict[str, tuple[Tensors, str]] = {
    "rank 0": (
        change(lora_down__weight=torch.ones(0, 32, 1, 1), lora_up__weight=torch.ones(32, 0, 1, 1)),
        "rank 0",
    ),
    "halves of two ranks": (change(lora_down__weight=torch.ones(3, 32, 1, 1)), "do not fit one another"),
    "another width": (change(lora_down__weight=torch.ones(4, 33, 1, 1)), "changes a weight of [32, 33]"),
    "not a number": (change(lora_up__weight=torch.full((32, 4, 1, 1), torch.nan)), "not finite"),
    "an endless alpha": (change(alpha=torch.tensor(torch.inf)), "not finite"),
    "a bias where none is": (
        kohya_lora()
        | {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.diff_b": torch.ones(32)},
        "the network's is none",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_wrong_is_said_in_one_line(write: Write, fault: str) -> None:
    tensors, said = BROKEN[fault]
    with pytest.raises(WeightsError) as caught:
        fitted(write(tensors))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "fur.safetensors" in str(caught.value)


def other_family(context: int) -> Tensors:
    name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    return {f"{name}.lora_down.weight": torch.ones(4, context), f"{name}.lora_up.weight": torch.ones(32, 4)}


FOREIGN: dict[str, Tensors] = {
    "SD 1.x": other_family(768),
    "SD 2.x": other_family(1024),
    "SDXL": other_family(2048),
    "Flux": {
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(4, 8),
        "transformer.single_transformer_blocks.0.attn.to_q.lora_B.weight": torch.ones(8, 4),
    },
    "SD 3": {
        "transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight": torch.ones(4, 8),
        "transformer.transformer_blocks.0.attn.add_q_proj.lora_B.weight": torch.ones(8, 4),
    },
}


@pytest.mark.parametrize("family", FOREIGN)
def test_a_file_of_another_family_is_refused_by_name(write: Write, family: str) -> None:
    with pytest.raises(UnknownModelError, match=f"adapter for {family}, the checkpoint is tiny"):
        fitted(write(FOREIGN[family]))


def test_a_checkpoint_is_no_adapter(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnknownModelError, match="a checkpoint"):
        read_adapter(tiny_checkpoint)
