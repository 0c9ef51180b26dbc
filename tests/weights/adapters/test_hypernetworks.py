"""Hypernetworks: what a file describes is what stands before keys and values, and it comes off again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY
from torch import nn

from sfumato.errors import UnknownModelError, WeightsError
from sfumato.nn.unet import UNet
from sfumato.weights.adapters.apply import Adapted, Part, Use
from sfumato.weights.adapters.hypernetworks import ACTIVATIONS, read_hypernetwork

FUNCTIONS: dict[str, nn.Module] = {  # the field's words for torch's modules
    "linear": nn.Identity(),
    "swish": nn.Hardswish(),
    **{
        name: kind()
        for kind in (getattr(nn.modules.activation, each) for each in nn.modules.activation.__all__)
        for name in ACTIVATIONS
        if kind.__name__.lower() == name
    },
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def sequence(width: int, function: nn.Module, *, norm: bool, last: bool) -> nn.Sequential:
    """As the interface builds it: matrix, function, norm, for each; the function after the last if asked."""
    layers: list[nn.Module] = []
    for place, (inside, out) in enumerate([(width, 2 * width), (2 * width, width)]):
        layers.append(nn.Linear(inside, out))
        if not isinstance(function, nn.Identity) and (place == 0 or last):
            layers.append(function)
        if norm:
            layers.append(nn.LayerNorm(out))
    return nn.Sequential(*layers)


def saved(path: Path, nets: dict[int, tuple[nn.Sequential, nn.Sequential]], **facts: object) -> Path:
    content: dict[object, object] = {
        width: tuple({f"linear.{name}": tensor for name, tensor in net.state_dict().items()} for net in pair)
        for width, pair in nets.items()
    }
    torch.save(content | facts | {"step": 5, "layer_structure": [1, 2, 1], "name": "style"}, path)
    return path


def test_every_word_for_a_function_is_known() -> None:
    assert set(FUNCTIONS) | {"none"} == set(ACTIVATIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_computes_what_torch_s_modules_compute(tmp_path: Path, name: str) -> None:
    for n, (last, norm) in enumerate([(False, False), (True, True)]):
        nets = tuple(sequence(16, FUNCTIONS[name], norm=norm, last=last) for _ in "kv")
        facts = {"activation_func": name, "is_layer_norm": norm, "activate_output": last}
        path = saved(tmp_path / f"{n}.pt", {16: nets}, **facts)  # type: ignore[dict-item]
        x = torch.randn(2, 5, 16)
        for ours, theirs in zip(read_hypernetwork(path).networks[16], nets, strict=True):
            with torch.no_grad():
                assert torch.equal(ours(x, 0.7), x + theirs(x) * 0.7)


def test_old_files_name_their_two_matrices_otherwise(tmp_path: Path) -> None:
    net = sequence(16, nn.Identity(), norm=False, last=False)
    state = {f"linear{int(key[0]) + 1}{key[1:]}": tensor for key, tensor in net.state_dict().items()}
    torch.save({16: (state, state)}, tmp_path / "old.pt")
    x = torch.randn(1, 3, 16)
    with torch.no_grad():
        assert torch.equal(read_hypernetwork(tmp_path / "old.pt").networks[16][0](x, 1.0), x + net(x))


def test_it_stands_before_keys_and_values_of_its_width_and_comes_off(tmp_path: Path) -> None:
    unet = UNet(TINY.unet).requires_grad_(False).eval()
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.2)
    nets = {w: tuple(sequence(w, nn.ReLU(), norm=False, last=False) for _ in "kv") for w in (16, 99)}
    path = saved(tmp_path / "style.pt", nets, activation_func="relu", activate_output=False)  # type: ignore[arg-type]
    hypernetwork = read_hypernetwork(path)
    pieces = hypernetwork.pieces(unet)
    assert set(pieces) == {
        name for name, _ in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))
    }  # only the context is 16 wide

    def output() -> torch.Tensor:
        draw = torch.Generator().manual_seed(3)
        x, context = torch.randn(1, 4, 8, 8, generator=draw), torch.randn(1, 5, 16, generator=draw)
        return unet(x, torch.tensor([500.0]), context)  # type: ignore[no-any-return]

    plain = output()
    adapted = Adapted(unet)
    part = Part(digest=hypernetwork.digest, pieces=pieces)
    adapted.use((Use(part=part, strength=0.5),))
    changed = output()
    assert not torch.equal(changed, plain)
    adapted.use((Use(part=part, strength=0.5),), on_the_fly=True)
    assert torch.equal(output(), changed)
    adapted.use(())
    assert torch.equal(output(), plain)
    assert all("forward" not in vars(module) for module in unet.modules())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(UnknownModelError, match="nothing of a hypernetwork"):
        read_hypernetwork(tmp_path / "other.pt")
    net = sequence(16, nn.ReLU(), norm=False, last=False)
    with pytest.raises(WeightsError, match="'__import__'"):
        read_hypernetwork(saved(tmp_path / "a.pt", {16: (net, net)}, activation_func="__import__"))
    with pytest.raises(WeightsError, match="for the width 8"):
        read_hypernetwork(saved(tmp_path / "b.pt", {8: (net, net)}))
    other = sequence(24, nn.ReLU(), norm=False, last=False)
    with pytest.raises(UnknownModelError, match="for the widths 24"):
        read_hypernetwork(saved(tmp_path / "c.pt", {24: (other, other)})).pieces(UNet(TINY.unet))
