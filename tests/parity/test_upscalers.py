"""Upscalers against spandrel (PyTorch) and ncnn (its own engine), on the same weights."""

from collections.abc import Mapping
from pathlib import Path

import ncnn
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import UnknownModelError
from sfumato.nn.rrdb import RRDBNet, RRDBNetConfig
from sfumato.nn.srvgg import SRVGGConfig, SRVGGNet
from sfumato.weights.foreign import load as load_foreign
from sfumato.weights.foreign import without_torchvision
from sfumato.weights.upscalers import load_upscaler, packaged_upscaler

CPU = torch.device("cpu")
NETWORKS: Mapping[str, nn.Module] = {
    "×4": RRDBNet(RRDBNetConfig(blocks=2, features=8, growth=32)),
    "×2 folded": RRDBNet(RRDBNetConfig(blocks=1, features=16, growth=32, unshuffle=2)),
    "×1 folded": RRDBNet(RRDBNetConfig(blocks=1, features=16, growth=32, unshuffle=4)),
    "compact ×4": SRVGGNet(SRVGGConfig(convolutions=3, features=8)),
    "compact ×2": SRVGGNet(SRVGGConfig(convolutions=2, features=12, scale=2)),
}
OLD = {  # by doublings, as the first code of ESRGAN numbers the layers after the body
    0: {"conv_hr": 2, "conv_last": 4},
    1: {"conv_up1": 3, "conv_hr": 5, "conv_last": 7},
    2: {"conv_up1": 3, "conv_up2": 6, "conv_hr": 8, "conv_last": 10},
    3: {"conv_up1": 3, "conv_up2": 6, "conv_up3": 9, "conv_hr": 11, "conv_last": 13},
}


def drawn(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Weights strong enough that every layer shows in the result."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) / max(1.0, float(np.prod(shape[1:]))) ** 0.5
        for name, shape in shapes.items()
    }


def picture(height: int = 21, width: int = 18) -> Tensor:
    return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(1))


def old_name(name: str, doublings: int) -> str:
    """One of our names as the first code of ESRGAN spells it."""
    module, leaf = name.rsplit(".", 1)
    if module == "conv_first":
        return f"model.0.{leaf}"
    if module == "conv_body":
        return f"model.1.sub.99.{leaf}"
    if module.startswith("body."):
        _, block, dense, conv = module.split(".")
        return f"model.1.sub.{block}.{dense.upper()}.{conv}.0.{leaf}"
    return f"model.{OLD[doublings][module]}.{leaf}"


def second_name(name: str) -> str:
    """One of our names as the second code of ESRGAN spells it."""
    for ours, theirs in (
        ("body.", "RRDB_trunk."), ("rdb", "RDB"), ("conv_body", "trunk_conv"), ("conv_up", "upconv"),
        ("conv_hr", "HRconv"),
    ):  # fmt: skip
        if not (ours == "body." and name.startswith("conv")):
            name = name.replace(ours, theirs)
    return name


def assert_equals_spandrel(path: Path, blocks: int | None = None) -> None:
    mine = load_upscaler(path, device=CPU, dtype=torch.float32)
    theirs = load_foreign(path, path, device=CPU, dtype=torch.float32)
    assert mine.scale == theirs.scale
    x = picture(24, 16)  # sizes that no network folds unevenly: the two pad differently there
    with torch.no_grad():
        ours = mine(x)
        expected = theirs.model(x)
    assert ours.std() > 0.01  # something to compare
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)  # the order of float32 sums


def save(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    from sfumato.weights.files import write_safetensors

    write_safetensors(path, tensors)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_published_names_load_as_in_spandrel(name: str, tmp_path: Path) -> None:
    assert_equals_spandrel(save(tmp_path / "net.safetensors", drawn(NETWORKS[name])))


@pytest.mark.parametrize("doublings", OLD)
def test_names_of_the_first_code_load_as_in_spandrel(doublings: int, tmp_path: Path) -> None:
    network = RRDBNet(RRDBNetConfig(blocks=2, features=8, growth=32, doublings=doublings))
    tensors = {old_name(name, doublings): tensor for name, tensor in drawn(network).items()}
    tensors = {name.replace("sub.99", "sub.2"): tensor for name, tensor in tensors.items()}
    assert_equals_spandrel(save(tmp_path / "net.safetensors", tensors))


def test_names_of_the_second_code_load_as_in_spandrel(tmp_path: Path) -> None:
    network = RRDBNet(RRDBNetConfig(blocks=2, features=8, growth=32))
    tensors = {second_name(name): tensor for name, tensor in drawn(network).items()}
    assert "RRDB_trunk.1.RDB3.conv5.bias" in tensors
    assert "HRconv.weight" in tensors
    assert_equals_spandrel(save(tmp_path / "net.safetensors", tensors))


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of SwinIR's own
def test_other_architectures_go_to_spandrel(tmp_path: Path) -> None:
    with without_torchvision():
        from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    network = SwinIR(
        depths=[2], num_heads=[2], embed_dim=12, window_size=8, upscale=2, upsampler="pixelshuffle"
    ).eval()
    mine = load_upscaler(
        save(tmp_path / "net.safetensors", network.state_dict()), device=CPU, dtype=torch.float32
    )
    assert mine.scale == 2
    x = picture(16, 24)
    with torch.no_grad():
        torch.testing.assert_close(mine(x), network(x).clamp(0, 1), rtol=0, atol=1e-5)


def test_without_spandrel_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "net.safetensors", {"layers.0.weight": torch.zeros(3)})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnknownModelError, match="pip install --no-deps spandrel einops"):
        load_upscaler(path, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("wrapper", ["params_ema", "params"])
def test_a_wrapped_pickle_is_the_same_network(wrapper: str, tmp_path: Path) -> None:
    tensors = drawn(NETWORKS["compact ×2"])
    torch.save({wrapper: tensors}, tmp_path / "net.pth")
    mine = load_upscaler(tmp_path / "net.pth", device=CPU, dtype=torch.float32)
    network = SRVGGNet(SRVGGConfig(convolutions=2, features=12, scale=2))
    network.load_state_dict(tensors)
    with torch.no_grad():
        torch.testing.assert_close(mine(picture()), network(picture()))


def test_odd_sizes_are_folded_and_cut_again() -> None:
    network = NETWORKS["×1 folded"]
    with torch.no_grad():
        assert network(picture(7, 9)).shape == (1, 3, 7, 9)


@pytest.mark.parametrize("stem", ["realesr-animevideov3-x4", "realesrgan-x4plus-anime", "realesrgan-x4plus"])
def test_packaged_weights_equal_ncnn(stem: str) -> None:
    path = packaged_upscaler(stem)
    assert path is not None
    mine = load_upscaler(path, device=CPU, dtype=torch.float32)
    with torch.no_grad():
        ours = mine(picture())[0].numpy()
    theirs = run_ncnn(path, picture()[0].numpy())
    assert ours.std() > 0.02
    # Both compute in float32 from the same float16 weights; 23 blocks add up to some 5e-6.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)


def run_ncnn(param: Path, colours: np.ndarray) -> np.ndarray:
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(str(param))
    net.load_model(str(param.with_suffix(".bin")))
    extractor = net.create_extractor()
    given = ncnn.Mat(colours).clone()
    extractor.input("data", given)
    _, out = extractor.extract("output")
    return np.array(out)
