import pytest
from tests.conftest import TINY

from sfumato.nn.unet import UNet, UNetConfig
from sfumato.pipeline.wishes import Curve, block_starts, read_wish
from sfumato.text.networks import split_tags
from sfumato.weights.layouts import without_memory


def wish(text: str, steps: int = 20, config: UNetConfig = TINY.unet):
    return read_wish(split_tags(text)[1][0], steps, config)


@pytest.mark.parametrize(
    ("tag", "text", "unet"),
    [
        ("<lora:a>", 1.0, 1.0),
        ("<lora:a:0.5>", 0.5, 0.5),
        ("<lora:a:0.5:0.25>", 0.5, 0.25),
        ("<lora:a:te=0.5:unet=0.25>", 0.5, 0.25),
        ("<lora:a:te=0.5>", 0.5, 0.5),
        ("<lora:a:0.5:te=2>", 2.0, 2.0),
        ("<lora:a:-1>", -1.0, -1.0),
    ],
)
def test_strengths(tag: str, text: float, unet: float) -> None:
    got = wish(tag)
    assert (got.text, got.unet.at(0), got.unet.varies) == (text, unet, False)


@pytest.mark.parametrize(
    ("tag", "values"),  # at 0, 0.25, 0.5 and 0.75 of 20 steps
    [
        ("<lora:a:1@0,0@0.5>", (1, 0.5, 0, 0)),
        ("<lora:a:1@0,0@10>", (1, 0.5, 0, 0)),
        ("<lora:a:0.5@0.25,1@0.75>", (0.5, 0.5, 0.75, 1)),
        ("<lora:a:1:start=5>", (0, 1, 1, 1)),
        ("<lora:a:1:stop=0.5>", (1, 1, 0, 0)),
        ("<lora:a:1:step=5-15>", (0, 1, 1, 0)),
        ("<lora:a:1:start=5:stop=1.0>", (0, 1, 1, 1)),
    ],
)
def test_strengths_over_the_steps(tag: str, values: tuple[float, ...]) -> None:
    curve = wish(tag).unet
    assert curve.varies
    assert tuple(curve.at(share) for share in (0, 0.25, 0.5, 0.75)) == values


def test_two_points_at_one_moment_are_a_jump() -> None:
    curve = Curve(points=((0.5, 0.0), (0.5, 1.0)))
    assert (curve.at(0.4), curve.at(0.5), curve.at(0.6)) == (0.0, 1.0, 1.0)


def test_a_text_is_encoded_with_what_holds_at_the_start() -> None:
    assert wish("<lora:a:0.75@0,0@1.0>").text == 0.75
    assert wish("<lora:a:1:start=0.5>").text == 0


@pytest.mark.parametrize("config", [UNetConfig(), TINY.unet])
def test_blocks_are_those_of_the_network(config: UNetConfig) -> None:
    every, attending = block_starts(config)
    names = [name for name, _ in without_memory(lambda: UNet(config)).named_parameters()]
    assert all(any(name.startswith(start) for name in names) for start in every)
    blocks = {name.split(".")[0] + "." for name in names}
    assert blocks - {start.split(".")[0] + "." for start in every} == {"time_embed.", "out."}
    for start in every:
        attends = any(name.startswith(start) and "transformer_blocks" in name for name in names)
        assert attends == (start in attending)
    if config == UNetConfig():
        assert (len(every), len(attending)) == (25, 16)  # with the text encoder 26 and 17, as known elsewhere


def test_block_weights_begin_with_the_text_encoder_s() -> None:
    got = wish("<lora:a:0.5:lbw=0.5,1,2,3,4>")
    assert got.text == 0.25
    assert dict(got.blocks)["middle_block."] == 2
    assert dict(got.blocks)[""] == 0
