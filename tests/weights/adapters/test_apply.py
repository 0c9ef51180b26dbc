"""Adapters merged and on the fly do the same, and come off without a trace."""

import hashlib
import random
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import TINY
from tests.weights.adapters.conftest import Tensors, kohya_lora
from torch import nn

from sfumato.errors import SfumatoError
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.seamless import seamless
from sfumato.nn.unet import UNet
from sfumato.weights.adapters.apply import Adapted, Part, Use
from sfumato.weights.adapters.kinds import KINDS
from sfumato.weights.adapters.names import FIELDS, kohya_names
from sfumato.weights.adapters.read import Fitted, fit, read_adapter

Write = Callable[..., Path]
Networks = dict[str, nn.Module]


@pytest.fixture
def made() -> Networks:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, text = UNet(TINY.unet), CLIPText(TINY.text)
        for parameter in unet.parameters():
            nn.init.normal_(parameter, std=0.2)
    return {"unet": unet.requires_grad_(False).eval(), "text": text.requires_grad_(False).eval()}


def digest(network: nn.Module) -> str:
    told = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        told.update(name.encode())
        told.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return told.hexdigest()


def mixed() -> Tensors:
    """Something of every kind at once."""
    draw = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw) * 0.2

    block = "lora_unet_mid_block_attentions_0_transformer_blocks_0"
    return {
        f"{block}_attn1_to_q.hada_w1_a": normal(32, 3), f"{block}_attn1_to_q.hada_w1_b": normal(3, 32),
        f"{block}_attn1_to_q.hada_w2_a": normal(32, 3), f"{block}_attn1_to_q.hada_w2_b": normal(3, 32),
        f"{block}_attn1_to_k.lokr_w1": normal(4, 4), f"{block}_attn1_to_k.lokr_w2_a": normal(8, 2),
        f"{block}_attn1_to_k.lokr_w2_b": normal(2, 8), f"{block}_attn1_to_k.alpha": torch.tensor(1.0),
        f"{block}_attn1_to_v.weight": normal(32), f"{block}_attn1_to_v.on_input": torch.tensor(1),
        f"{block}_attn1_to_out_0.diff": normal(32, 32), f"{block}_attn1_to_out_0.diff_b": normal(32),
        f"{block}_attn2_to_q.oft_blocks": normal(8, 4, 4), f"{block}_norm1.w_norm": normal(32),
        f"{block}_norm1.b_norm": normal(32), f"{block}_attn2_to_k.lora_down.weight": normal(2, 16),
        f"{block}_attn2_to_k.lora_up.weight": normal(32, 2), f"{block}_attn2_to_k.dora_scale": normal(32, 1),
        f"{block}_ff_net_2.a1.weight": normal(128, 2), f"{block}_ff_net_2.a2.weight": normal(2, 128),
        f"{block}_ff_net_2.b1.weight": normal(32, 2), f"{block}_ff_net_2.b2.weight": normal(2, 128),
        "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": normal(2, 32, 1, 1),
        "lora_unet_mid_block_resnets_0_conv1.lora_mid.weight": normal(2, 2, 3, 3),
        "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": normal(32, 2, 1, 1),
        "lora_unet_mid_block_resnets_0_norm1.w_norm": normal(32),
    }  # fmt: skip


ADAPTERS: dict[str, Callable[[], Tensors]] = {
    "LoRA": lambda: kohya_lora(seed=1),
    "LoCon": lambda: kohya_lora(conv=True, seed=2, alpha=None),
    "every kind": mixed,
}


def fitted(write: Write, name: str, made: Networks) -> Fitted:
    return fit(read_adapter(write(ADAPTERS[name](), name)), TINY, made)


@cache
def part_of(adapter: Fitted, network: str) -> Part:
    return Part(digest=adapter.adapter.digest, pieces=adapter.parts[network])


def use(adapter: Fitted, strength: float = 0.7, network: str = "unet", **how: object) -> Use:
    return Use(part=part_of(adapter, network), strength=strength, **how)  # type: ignore[arg-type]


def output(made: Networks) -> torch.Tensor:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 8, 8, generator=draw)
    return made["unet"](x, torch.tensor([500.0, 20.0]), torch.randn(2, 5, 16, generator=draw))  # type: ignore[no-any-return]


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal to 1e-5 of the largest value: float32 sums in another order."""
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max())


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_and_on_the_fly_are_equal(write: Write, made: Networks, name: str, wraps: bool) -> None:
    adapter = fitted(write, name, made)
    adapted = Adapted(made["unet"])
    plain = output(made)
    with seamless(made["unet"], wraps):
        adapted.use((use(adapter),))
        merged = output(made)
        adapted.use((use(adapter),), on_the_fly=True)
        beside = output(made)
    assert near(beside, merged)
    assert not near(merged, plain)


def test_the_text_encoder_is_changed_likewise(write: Write, made: Networks) -> None:
    adapter, ids = fitted(write, "LoRA", made), torch.tensor([[5, 6, 7]])
    adapted = Adapted(made["text"])
    plain = made["text"](ids)
    outputs = []
    for on_the_fly in (False, True):
        adapted.use((use(adapter, 1.0, "text"),), on_the_fly=on_the_fly)
        outputs.append(made["text"](ids))
    assert near(*outputs)
    assert not near(outputs[0], plain)


def test_several_adapters_add_up_in_any_order(write: Write, made: Networks) -> None:
    uses = [use(fitted(write, name, made), 0.3 + 0.2 * n) for n, name in enumerate(ADAPTERS)]
    adapted, outputs = Adapted(made["unet"]), []
    for on_the_fly in (False, True):
        for order in (uses, uses[::-1]):
            adapted.use(tuple(order), on_the_fly=on_the_fly)
            outputs.append(output(made))
    assert all(near(each, outputs[0]) for each in outputs[1:])


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_a_strength_of_zero_and_a_block_of_zero_change_nothing(
    write: Write, made: Networks, on_the_fly: bool
) -> None:
    adapter, adapted, plain = fitted(write, "LoRA", made), Adapted(made["unet"]), output(made)
    adapted.use((use(adapter, 0.0),), on_the_fly=on_the_fly)
    assert torch.equal(output(made), plain)
    everywhere = (("input_blocks.", 0.0), ("middle_block.", 0.0), ("output_blocks.", 0.0))
    adapted.use((use(adapter, 1.0, blocks=everywhere),), on_the_fly=on_the_fly)
    assert torch.equal(output(made), plain)
    adapted.use((use(adapter, 1.0, blocks=everywhere[:2]),), on_the_fly=on_the_fly)
    assert not torch.equal(output(made), plain)


def test_blocks_are_found_by_whole_names(write: Write, made: Networks) -> None:
    once = use(fitted(write, "LoRA", made), 2.0, blocks=(("input_blocks.1.", 0.5),))
    assert once.strength_of("input_blocks.1.0.x") == 1.0
    assert once.strength_of("input_blocks.11.0.x") == 2.0


def test_a_thousand_changes_leave_no_trace(write: Write, made: Networks) -> None:
    adapters = [fitted(write, name, made) for name in ADAPTERS]
    network = made["unet"]
    before = digest(network)
    storages = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    adapted, draw = Adapted(network), random.Random(0)
    for _ in range(1000):
        chosen = draw.sample(adapters, draw.randrange(len(adapters) + 1))
        adapted.use(
            tuple(use(each, draw.choice((-1.0, 0.5, 1.0))) for each in chosen), on_the_fly=draw.random() < 0.5
        )
    adapted.use(())
    assert digest(network) == before
    assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == storages
    assert all("forward" not in vars(module) for module in network.modules())


def test_the_same_adapters_give_the_same_bits_whatever_was_there_before(write: Write, made: Networks) -> None:
    one, other = (fitted(write, name, made) for name in ("LoRA", "every kind"))
    adapted = Adapted(made["unet"])
    adapted.use((use(one),))
    first = digest(made["unet"])
    adapted.use((use(other), use(one, 0.1)))
    adapted.use((use(one),))
    assert digest(made["unet"]) == first


def test_threads_do_not_change_each_other_s_networks(write: Write, made: Networks) -> None:
    adapter, adapted, plain = fitted(write, "every kind", made), Adapted(made["unet"]), output(made)
    adapted.use((use(adapter),))
    changed = output(made)
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    together = threading.Barrier(2)

    def work(wearing: bool) -> None:
        together.wait()
        for _ in range(20):
            with adapted.wearing((use(adapter),) if wearing else ()):
                seen[wearing].append(output(made))

    threads = [threading.Thread(target=work, args=(wearing,)) for wearing in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(each, changed) for each in seen[True])
    assert all(torch.equal(each, plain) for each in seen[False])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_merged_in_float32(write: Write, made: Networks, dtype: torch.dtype) -> None:
    adapter = fitted(write, "LoRA", made)
    network = made["unet"].to(dtype)
    wide = {name: tensor.float() for name, tensor in network.state_dict().items()}
    Adapted(network).use((use(adapter),))
    piece = adapter.parts["unet"]["middle_block.1.proj_in"]
    change = piece.tensors["up"].flatten(1) @ piece.tensors["down"].flatten(1) * (2.0 / 4.0) * 0.7
    expected = (wide["middle_block.1.proj_in.weight"] + change[..., None, None]).to(dtype)
    # bfloat16 rounds to 8 bits; a sum in another order may fall on the other side of a half
    assert (network.state_dict()["middle_block.1.proj_in.weight"] - expected).abs().max() <= 2**-8 * 2


def test_a_rank_can_be_cut(write: Write, made: Networks) -> None:
    tensors = kohya_lora(rank=4, alpha=2.0, seed=1)
    cut = {
        key: (tensor[:2] if "lora_down" in key else tensor[:, :2]) if tensor.ndim else tensor / 2
        for key, tensor in tensors.items()
    }
    whole, half = (
        fit(read_adapter(write(each, f"{n}")), TINY, made) for n, each in enumerate((tensors, cut))
    )
    adapted = Adapted(made["unet"])
    adapted.use((use(whole, rank=2),))
    first = output(made)
    adapted.use((use(half),))
    assert near(output(made), first)


def test_every_module_of_a_checkpoint_has_one_name() -> None:
    names = kohya_names(TINY)
    assert len(set(names.values())) == len(names)


EXAMPLES = 100
PLACES = (
    "mid_block_attentions_0_proj_in",
    "mid_block_resnets_0_conv1",
    "mid_block_resnets_0_norm1",
    "nowhere",
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 32]), max_size=4)
ENDINGS = {field: ending for ending, field in FIELDS.items()}
GROUPS = [
    [ENDINGS[field] for field in (*needed, "alpha") if field in ENDINGS]
    for kind in KINDS.values()
    for needed in kind.needs
]
FILES = st.one_of(  # anything, or what belongs together
    st.dictionaries(
        st.tuples(st.sampled_from(PLACES), st.sampled_from([*FIELDS, ".what"])),
        SHAPES,
        min_size=1,
        max_size=8,
    ),
    st.tuples(st.sampled_from(PLACES), st.sampled_from(GROUPS)).flatmap(
        lambda chosen: st.fixed_dictionaries({(chosen[0], ending): SHAPES for ending in chosen[1]})
    ),
)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
def test_whatever_a_file_holds_is_worn_or_refused(
    write: Write, made: Networks, shapes: dict[tuple[str, str], list[int]]
) -> None:
    """Nothing but our own errors, and what was accepted can be merged, computed beside, and taken off."""
    tensors = {f"lora_unet_{place}{field}": torch.ones(shape) for (place, field), shape in shapes.items()}
    before = {name: tensor.clone() for name, tensor in made["unet"].state_dict().items()}
    try:
        adapter = fit(read_adapter(write(tensors)), TINY, made)
    except SfumatoError:
        return
    adapted = Adapted(made["unet"])
    for on_the_fly in (False, True):
        adapted.use((use(adapter),), on_the_fly=on_the_fly)
        output(made)
    adapted.use(())
    assert all(torch.equal(tensor, before[name]) for name, tensor in made["unet"].state_dict().items())
