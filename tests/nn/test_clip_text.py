import dataclasses

import pytest
import torch

from sfumato.errors import RequestError
from sfumato.nn.clip_text import CLIPText, CLIPTextConfig

TINY = CLIPTextConfig(vocab_size=50, width=32, layers=3, heads=4, max_length=12)


def network(config: CLIPTextConfig = TINY) -> CLIPText:
    torch.manual_seed(0)
    return CLIPText(config).eval()


def tokens() -> torch.Tensor:
    return torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (CLIPTextConfig(), 123_060_480),
        (
            CLIPTextConfig(width=1024, layers=23, heads=16, activation="gelu", skip="penultimate"),
            340_387_840,
        ),
    ],
    ids=["CLIP-L", "OpenCLIP-H"],
)
def test_parameters_are_as_many_as_in_the_published_networks(config: CLIPTextConfig, count: int) -> None:
    with torch.device("meta"):
        text = CLIPText(config)
    assert sum(parameter.numel() for parameter in text.parameters()) == count
    assert not [name for name in text.state_dict() if "position_ids" in name]


def test_modules_carry_the_names_of_published_checkpoints() -> None:
    with torch.device("meta"):
        names = CLIPText(CLIPTextConfig()).state_dict()
    assert len(names) == 196
    assert {
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
        "text_model.encoder.layers.11.mlp.fc2.bias",
        "text_model.encoder.layers.11.layer_norm2.weight",
        "text_model.final_layer_norm.bias",
    } <= names.keys()


@torch.no_grad()
def test_a_token_changes_nothing_before_it() -> None:
    text, ids = network(), tokens()
    other = ids.clone()
    other[:, 7] = (ids[:, 7] + 1) % 50
    before, after = text(ids), text(other)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])
    torch.testing.assert_close(text(ids[:, :7]), before[:, :7])


@torch.no_grad()
def test_clip_skip_is_the_encoder_without_its_last_layers() -> None:
    text, ids = network(), tokens()
    shorter = network(dataclasses.replace(TINY, layers=2))
    shorter.load_state_dict(text.state_dict(), strict=False)
    assert torch.equal(text(ids, 2), shorter(ids))


@torch.no_grad()
def test_clip_skip_beyond_the_layers_is_refused_and_without_effect_on_penultimate_encoders() -> None:
    ids = tokens()
    for clip_skip in (0, 4):
        with pytest.raises(RequestError, match=f"clip_skip={clip_skip} is outside 1 to 3"):
            network()(ids, clip_skip)
    penultimate = network(dataclasses.replace(TINY, skip="penultimate"))
    assert torch.equal(penultimate(ids, 12), penultimate(ids))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_a_fresh_encoder_keeps_activations_near_one_and_tells_prompts_apart(activation: str) -> None:
    text = network(dataclasses.replace(TINY, activation=activation))
    out = text(tokens())
    assert out.std().item() == pytest.approx(1, abs=0.1)
    assert (out[0, -1] - out[1, -1]).norm() > 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)], ids=str)
@torch.no_grad()
def test_16_bit_weights_give_nearly_the_same(dtype: torch.dtype, tolerance: float) -> None:
    """Twenty roundings of half a last place: 2^-9 each in bfloat16, 2^-12 in float16."""
    text = network()
    wanted = text(tokens())
    out = text.to(dtype)(tokens())
    assert out.dtype == dtype
    assert (out.float() - wanted).norm() / wanted.norm() < tolerance


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"heads": 5}, "heads=5"),
        ({"layers": 0}, "layers=0"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"skip": "first"}, "skip='first'"),
    ],
    ids=str,
)
def test_configurations_that_make_no_network_are_refused(change: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(TINY, **change)
