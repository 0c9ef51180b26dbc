"""What adapters add to a weight, against the libraries that train them.

Both compute in float32; sums of some ten products of numbers near 1 in another order differ by a few units in
the last place: 1e-6 of the largest number.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import TINY
from tests.weights.adapters.conftest import kohya_lora
from torch import Tensor, nn

from sfumato.nn.unet import UNet
from sfumato.weights.adapters import kinds, tools
from sfumato.weights.adapters.apply import Adapted, Part, Use
from sfumato.weights.adapters.names import split_key
from sfumato.weights.adapters.read import read_adapter
from sfumato.weights.files import read_safetensors, write_safetensors
from sfumato.weights.folder_configs import unet_settings
from sfumato.weights.keymaps import to_theirs, unet_table

with warnings.catch_warnings():  # they warn of optional packages
    warnings.simplefilter("ignore")
    lycoris = pytest.importorskip("lycoris")
    peft = pytest.importorskip("peft")
    from lycoris.modules import boft, diag_oft, full, glora, ia3, locon, loha, lokr, norms

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(24, 16),
    "linear without bias": lambda: nn.Linear(16, 32, bias=False),
    "1×1": lambda: nn.Conv2d(16, 32, 1),
    "3×3": lambda: nn.Conv2d(16, 8, 3, padding=1),
}
ROWS: list[tuple[str, type, dict[str, object]]] = [
    ("LoRA", locon.LoConModule, {}),
    ("LoRA, rank-stabilised", locon.LoConModule, {"rs_lora": True}),
    ("Tucker LoCon", locon.LoConModule, {"use_tucker": True}),
    ("DoRA", locon.LoConModule, {"weight_decompose": True}),
    ("DoRA of columns", locon.LoConModule, {"weight_decompose": True, "wd_on_out": False}),
    ("LoHa", loha.LohaModule, {}),
    ("Tucker LoHa", loha.LohaModule, {"use_tucker": True}),
    ("LoHa with DoRA", loha.LohaModule, {"weight_decompose": True}),
    ("LoKr", lokr.LokrModule, {"factor": 4}),
    ("LoKr, both in halves", lokr.LokrModule, {"decompose_both": True, "lora_dim": 1, "factor": 4}),
    ("Tucker LoKr", lokr.LokrModule, {"use_tucker": True, "lora_dim": 2, "factor": 2}),
    ("LoKr, whole", lokr.LokrModule, {"full_matrix": True}),
    ("LoKr with DoRA", lokr.LokrModule, {"factor": 4, "weight_decompose": True}),
    ("IA3", ia3.IA3Module, {}),
    ("IA3 on inputs", ia3.IA3Module, {"train_on_input": True}),
    ("GLoRA", glora.GLoRAModule, {}),
    ("full", full.FullModule, {}),
    ("OFT", diag_oft.DiagOFTModule, {}),
    ("OFT, bounded", diag_oft.DiagOFTModule, {"constraint": 0.01}),
    ("OFT, rescaled", diag_oft.DiagOFTModule, {"rescaled": True}),
    ("BOFT", boft.ButterflyOFTModule, {}),
    ("BOFT, rescaled", boft.ButterflyOFTModule, {"rescaled": True}),
]


def close(ours: Tensor, theirs: Tensor) -> bool:
    theirs = theirs.detach()
    return bool(torch.allclose(ours, theirs, rtol=0, atol=1e-6 * max(1.0, float(theirs.abs().max()))))


def drawn(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)


def parts(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], float | None]:
    """Their state dict as our fields, as the reader of files makes them."""
    split = {split_key(f"m.{name}")[1]: tensor.detach().float() for name, tensor in state.items()}  # type: ignore[index]
    alpha = float(split.pop("alpha")) if "alpha" in split else None
    if "on_input" in split and not float(split["on_input"]):
        split["on_output"] = split.pop("on_input")
    if "oft_blocks" in split and split["oft_blocks"].ndim == 4:
        split["boft_blocks"] = split.pop("oft_blocks")
    if "magnitude" in split:
        split["dora_scale"] = split.pop("magnitude").reshape(-1, 1)
    return split, alpha


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("name", "made", "how"), ROWS, ids=[row[0] for row in ROWS])
def test_lycoris_adds_the_same(name: str, made: type, how: dict[str, object], layer: str) -> None:
    base = LAYERS[layer]()
    module = made("m", base, **{"multiplier": 1.0, "lora_dim": 4, "alpha": 3.0, **how})
    drawn(module)
    stored = module.custom_state_dict() or module.state_dict()
    if made is full.FullModule:  # which otherwise saves what it is once it is in place
        stored = {"diff": module.weight.clone()} | (
            {} if base.bias is None else {"diff_b": module.bias.clone()}
        )
    fields, alpha = parts(stored)
    weight, kind = base.weight.detach().clone(), kinds.kind_of(fields)
    assert kind is not None
    ours, shift = kinds.delta(kind, fields, alpha, weight), kinds.bias_delta(fields, alpha)
    assert ours is not None
    x = torch.randn(3, weight.shape[1], *[5] * (weight.ndim - 2))
    before = base(x).detach()
    module.apply_to()  # their own sums of changes scale some kinds twice; what they compute does not
    theirs = module(x).detach()
    module.restore()
    base.weight = nn.Parameter(weight + ours)
    if shift is not None:
        base.bias = nn.Parameter(base.bias + shift)
    assert (theirs - before).abs().max() > 0.01
    assert close(base(x), theirs), name


@pytest.mark.parametrize("made", [nn.LayerNorm(8), nn.GroupNorm(2, 8)])
def test_lycoris_changes_norms_the_same(made: nn.Module) -> None:
    module = norms.NormModule("m", made, multiplier=1.0)
    drawn(module)
    fields, _ = parts(module.state_dict())
    weight, bias = module.get_diff_weight()
    assert made.weight is not None
    assert close(kinds.delta("norm", fields, None, made.weight.detach()), weight)  # type: ignore[arg-type]
    assert close(kinds.bias_delta(fields, None), bias)  # type: ignore[arg-type]


PEFT: list[tuple[str, object]] = [
    ("LoRA", peft.LoraConfig(r=4, lora_alpha=3, target_modules=["m"], init_lora_weights=False)),
    (
        "rsLoRA",
        peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=["m"], init_lora_weights=False),
    ),
    (
        "DoRA",
        peft.LoraConfig(r=4, lora_alpha=3, use_dora=True, target_modules=["m"], init_lora_weights=False),
    ),
    ("LoHa", peft.LoHaConfig(r=4, alpha=3, target_modules=["m"], init_weights=False)),
    ("LoKr", peft.LoKrConfig(r=2, alpha=3, target_modules=["m"], init_weights=False)),
    ("IA3", peft.IA3Config(target_modules=["m"], feedforward_modules=[])),
    ("IA3 on inputs", peft.IA3Config(target_modules=["m"], feedforward_modules=["m"])),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("name", "config"), PEFT, ids=[row[0] for row in PEFT])
def test_peft_adds_the_same(name: str, config: object, layer: str) -> None:
    if name.startswith("IA3") and "×" in layer:
        pytest.skip("its vector does not tell which side of a convolution it scales")
    base = LAYERS[layer]()
    model = peft.get_peft_model(nn.ModuleDict({"m": base}), config)
    inner = model.base_model.model["m"]
    for key, parameter in inner.named_parameters():
        if "base_layer" not in key:
            nn.init.normal_(parameter, std=0.4)
    state = {key.split("m.", 1)[1]: tensor for key, tensor in peft.get_peft_model_state_dict(model).items()}
    state = {key.rsplit("model.m.", 1)[-1]: tensor for key, tensor in state.items()}
    fields, _ = parts(state)
    kind = kinds.kind_of(fields)
    assert kind is not None
    rank = kinds.rank_of(kind, fields)
    alpha = None if rank is None else 3.0 * (rank**0.5 if name == "rsLoRA" else 1.0)
    if name == "LoKr" and rank is None:
        fields["lokr_w1"] = fields["lokr_w1"] * (3.0 / config.r)  # type: ignore[attr-defined]  # as the reader does
    weight = base.weight.detach().clone()
    ours = kinds.delta(kind, fields, alpha, weight)
    inner.merge()
    assert ours is not None
    assert close(ours, base.weight.detach() - weight), name


def test_diffusers_computes_the_same_with_a_converted_file(tmp_path: Path) -> None:
    """Ours wears kohya's file, theirs what `convert` makes of it; two whole networks, so 1e-4."""
    from diffusers import UNet2DConditionModel

    write_safetensors(tmp_path / "fur.safetensors", kohya_lora(conv=True, rank=4, alpha=3.0))
    adapter, target = read_adapter(tmp_path / "fur.safetensors"), tmp_path / "peft.safetensors"
    tools.convert(adapter, TINY, tools.Output(path=target, layout="peft"))
    unet = UNet(TINY.unet).requires_grad_(False).eval()
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    settings = {k: v for k, v in unet_settings(TINY).items() if not k.startswith("_")}
    theirs = UNet2DConditionModel(**settings).eval()
    theirs.load_state_dict(to_theirs(unet_table(TINY.unet), unet.state_dict()))
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    timesteps = torch.tensor([500.0, 20.0])
    plain = unet(x, timesteps, context)
    part = Part(digest=adapter.digest, pieces=tools.fit_to(adapter, TINY).parts["unet"])
    Adapted(unet).use((Use(part=part, strength=1.0),))
    ours = unet(x, timesteps, context)
    theirs.load_lora_adapter(read_safetensors(target), prefix="unet")
    with torch.no_grad():
        out = theirs(x, timesteps, context).sample
    assert (ours - plain).abs().max() > 0.1 * plain.abs().max()
    assert (ours - out).abs().max() < 1e-4 * out.abs().max()
