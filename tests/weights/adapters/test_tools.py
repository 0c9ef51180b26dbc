"""What the tools make of adapters changes weights as the adapters do."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY
from tests.weights.adapters.conftest import Tensors, kohya_lora
from tests.weights.adapters.test_apply import mixed
from torch import Tensor, nn

from sfumato.errors import OutputError, RequestError, WeightsError
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.weights.adapters import tools
from sfumato.weights.adapters.apply import merged, merged_bias
from sfumato.weights.adapters.read import Adapter, read_adapter
from sfumato.weights.adapters.spectrum import Cut, factorise
from sfumato.weights.adapters.tools import Extraction, Output
from sfumato.weights.load import load_checkpoint, save_checkpoint

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "base.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet(TINY.unet)
        for parameter in unet.parameters():
            nn.init.normal_(parameter, std=0.2)
        save_checkpoint(path, spec=TINY, unet=unet, vae=AutoencoderKL(TINY.vae), text=CLIPText(TINY.text))
    return path


def changed(checkpoint: Path, adapters: list[tuple[Adapter, float]]) -> dict[str, Tensor]:
    """The weights of a checkpoint with adapters."""
    loaded = load_checkpoint(checkpoint, device="cpu", dtype=None)
    out: dict[str, Tensor] = {}
    for network, module in (("unet", loaded.unet), ("text", loaded.text)):
        state: Mapping[str, Tensor] = module.state_dict()
        parts = [(tools.fit_to(adapter, TINY).parts[network], factor) for adapter, factor in adapters]
        for name, tensor in state.items():
            inner, _, leaf = name.rpartition(".")
            changes = [(part[inner], factor) for part, factor in parts if inner in part]
            merge = merged if leaf == "weight" else merged_bias
            result = merge(tensor, changes) if changes else None
            out[f"{network} {name}"] = tensor if result is None else result
    return out


def nearest(one: dict[str, Tensor], other: dict[str, Tensor], within: float = 2e-5) -> bool:
    """Equal up to float32's rounding of two products in another order."""
    assert one.keys() == other.keys()
    return all(bool((one[name] - other[name]).abs().max() <= within) for name in one)


def done(steps: object) -> None:
    names = [step.name for step in steps]  # type: ignore[attr-defined]
    assert len(names) == len(set(names)) or "text" in str(names)


def test_merging_side_by_side_is_the_sum(write: Write, checkpoint: Path, tmp_path: Path) -> None:
    adapters = [
        (read_adapter(write(kohya_lora(rank=3, alpha=2, seed=1), "a")), 0.7),
        (read_adapter(write(kohya_lora(rank=4, alpha=None, conv=True, seed=2), "b")), -0.4),
    ]
    target = tmp_path / "sum.safetensors"
    done(tools.merge(adapters, TINY, None, Output(path=target)))
    made = read_adapter(target)
    assert {piece.rank for piece in made.pieces.values()} == {4, 7}
    assert nearest(changed(checkpoint, [(made, 1.0)]), changed(checkpoint, adapters))


def test_resizing_to_the_rank_it_has_loses_nothing(write: Write, checkpoint: Path, tmp_path: Path) -> None:
    adapter = read_adapter(write(kohya_lora(rank=4, alpha=3, conv=True, seed=1)))
    target = tmp_path / "same.safetensors"
    done(tools.resize(adapter, TINY, Cut(rank=4), Output(path=target)))
    assert nearest(changed(checkpoint, [(read_adapter(target), 1)]), changed(checkpoint, [(adapter, 1)]))


def test_what_a_lora_can_hold_of_other_kinds_is_the_same(
    write: Write, checkpoint: Path, tmp_path: Path
) -> None:
    own = {key: tensor for key, tensor in mixed().items() if "hada" in key or "lokr" in key or "alpha" in key}
    adapter = read_adapter(write(own))
    done(tools.resize(adapter, TINY, Cut(), Output(path=tmp_path / "lora.safetensors")))
    made = read_adapter(tmp_path / "lora.safetensors")
    assert {piece.kind for piece in made.pieces.values()} == {"lora"}
    assert nearest(changed(checkpoint, [(made, 1.0)]), changed(checkpoint, [(adapter, 1.0)]))


def test_of_a_rank_nothing_is_nearer_than_the_largest_singular_values() -> None:
    """Eckart and Young: what is left has the singular values that were cut."""
    change = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(change)
    for matrix in (change, change.T):
        up, down = factorise(matrix, Cut(rank=7))
        assert (up.shape[1], down.shape[0]) == (7, 7)
        left = torch.linalg.matrix_norm(matrix - up @ down)
        assert torch.allclose(left, values[7:].square().sum().sqrt(), rtol=1e-5)


@pytest.mark.parametrize(("energy", "rank"), [(1.0, 4), (0.98, 2), (0.95, 1), (0.5, 1)])
def test_energy_counts_squared_singular_values(energy: float, rank: int) -> None:
    values = torch.tensor([10.0, 2.0, 1.0, 0.5])  # 100, 4, 1, 0.25: shares 0.950, 0.988, 0.998, 1
    assert Cut(energy=energy).of(values) == rank
    assert Cut(energy=energy, rank=1).of(values) == 1


def test_extracting_what_was_baked_gives_it_back(write: Write, checkpoint: Path, tmp_path: Path) -> None:
    adapter = read_adapter(write(kohya_lora(rank=3, alpha=2, conv=True, seed=4)))
    baked, target = tmp_path / "baked.safetensors", tmp_path / "back.safetensors"
    done(tools.bake(checkpoint, [(adapter, 1.0, 1.0)], baked))
    state = load_checkpoint(baked, device="cpu", dtype=None)
    want = changed(checkpoint, [(adapter, 1.0)])
    got = {
        f"{n} {name}": t
        for n, m in (("unet", state.unet), ("text", state.text))
        for name, t in m.state_dict().items()
    }
    assert nearest(got, want)  # kernels lie otherwise in memory, so sums run in another order
    done(
        tools.extract(
            checkpoint, baked, Extraction(linear=Cut(rank=3), kernels=Cut(rank=3)), Output(path=target)
        )
    )
    made = read_adapter(target)
    assert made.pieces.keys() == {key.partition(".")[0] for key in kohya_lora(conv=True)}
    assert nearest(changed(checkpoint, [(made, 1.0)]), want)


def test_extraction_leaves_out_what_it_is_told_to(write: Write, checkpoint: Path, tmp_path: Path) -> None:
    adapter = read_adapter(write(kohya_lora(rank=3, conv=True, seed=4)))
    baked = tmp_path / "baked.safetensors"
    done(tools.bake(checkpoint, [(adapter, 1.0, 1.0)], baked))
    done(
        tools.extract(
            checkpoint,
            baked,
            Extraction(linear=Cut(rank=2), text=False),
            Output(path=tmp_path / "a.safetensors"),
        )
    )
    made = read_adapter(tmp_path / "a.safetensors")
    assert not any(name.startswith("lora_te") for name in made.pieces)
    assert all(piece.tensors["down"].shape[2:].numel() == 1 for piece in made.pieces.values())
    with pytest.raises(WeightsError, match="does not differ"):
        done(
            tools.extract(
                checkpoint,
                checkpoint,
                Extraction(linear=Cut(rank=2)),
                Output(path=tmp_path / "b.safetensors"),
            )
        )
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_baking_every_kind_is_what_wearing_it_is(
    write: Write, checkpoint: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    adapter = read_adapter(write(mixed()))
    done(tools.bake(checkpoint, [(adapter, 0.5, 0.25)], tmp_path / "baked.safetensors", dtype))
    state = load_checkpoint(tmp_path / "baked.safetensors", device="cpu", dtype=None)
    want = changed(checkpoint, [(adapter, 0.25)])
    for name, tensor in state.unet.state_dict().items():
        assert torch.equal(tensor, want[f"unet {name}"].to(dtype or torch.float32)), name


def test_converting_there_and_back_changes_nothing(write: Write, checkpoint: Path, tmp_path: Path) -> None:
    adapter = read_adapter(write(kohya_lora(rank=4, alpha=2.0, conv=True, seed=1)))
    there, back = tmp_path / "peft.safetensors", tmp_path / "back.safetensors"
    tools.convert(adapter, TINY, Output(path=there, layout="peft"))
    tools.convert(read_adapter(there), TINY, Output(path=back))
    want = changed(checkpoint, [(adapter, 1.0)])
    assert nearest(
        changed(checkpoint, [(read_adapter(there), 1.0)]), want, within=0
    )  # by 2 / 4, without loss
    assert nearest(changed(checkpoint, [(read_adapter(back), 1.0)]), want, within=0)
    assert read_adapter(back).pieces.keys() == adapter.pieces.keys()


def test_kohya_s_layout_holds_every_kind(write: Write, checkpoint: Path, tmp_path: Path) -> None:
    adapter = read_adapter(write(mixed()))
    tools.convert(adapter, TINY, Output(path=tmp_path / "same.safetensors"))
    made = read_adapter(tmp_path / "same.safetensors")
    assert nearest(changed(checkpoint, [(made, 1.0)]), changed(checkpoint, [(adapter, 1.0)]), within=0)


def only(*words: str) -> Tensors:
    return {key: tensor for key, tensor in mixed().items() if any(word in key for word in words)}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (only("attn2_to_k"), "DoRA changes in"),
        (only("oft_blocks"), "oft changes in"),
        (only("norm1"), "a bias or norm"),
        (only("to_out_0"), "a bias or norm"),
    ],
)
def test_what_a_lora_cannot_hold_is_refused(
    write: Write, tmp_path: Path, tensors: Tensors, said: str
) -> None:
    adapter = read_adapter(write(tensors))
    with pytest.raises(WeightsError, match=said):
        done(tools.merge([(adapter, 1.0)], TINY, None, Output(path=tmp_path / "x.safetensors")))
    with pytest.raises(WeightsError, match="PEFT"):
        tools.convert(
            read_adapter(write(only("hada"), "h")),
            TINY,
            Output(path=tmp_path / "x.safetensors", layout="peft"),
        )
    assert not (tmp_path / "x.safetensors").exists()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pt"):
        with pytest.raises(OutputError):
            Output(path=path)


def test_limits_that_are_none_are_refused() -> None:
    for limits in ({"rank": 0}, {"energy": 0.0}, {"energy": 1.5}):
        with pytest.raises(RequestError):
            Cut(**limits)  # type: ignore[arg-type]


def test_without_a_checkpoint_the_keys_must_tell_the_family(write: Write) -> None:
    with pytest.raises(RequestError, match="--model"):
        tools.spec_of(read_adapter(write(kohya_lora())), None)
