import math

import pytest
import torch
from torch import nn

from sfumato.nn.layers import SiLU, Upsample, timestep_embedding, to_image, to_tokens, zeroed


def test_timestep_embedding_is_cosines_then_sines_of_geometric_frequencies() -> None:
    code = timestep_embedding(torch.tensor([0.0, 7.5]), 6)
    for place, frequency in enumerate((1, 10000 ** (-1 / 3), 10000 ** (-2 / 3))):
        assert code[1, place] == pytest.approx(math.cos(7.5 * frequency), abs=1e-6)
        assert code[1, place + 3] == pytest.approx(math.sin(7.5 * frequency), abs=1e-6)
    assert code[0].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bfloat16], ids=str)
def test_timestep_embedding_is_float32_whatever_it_is_given(dtype: torch.dtype) -> None:
    code = timestep_embedding(torch.tensor([1, 64], dtype=dtype), 8)
    assert torch.equal(code, timestep_embedding(torch.tensor([1.0, 64.0]), 8))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_tokens_come_back_as_the_same_image(memory_format: torch.memory_format) -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5).contiguous(memory_format=memory_format)
    assert torch.equal(to_image(to_tokens(x), (4, 5)), x)


def test_tokens_of_a_channels_last_image_share_its_memory() -> None:
    x = torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    tokens = to_tokens(x)
    assert tokens.data_ptr() == x.data_ptr()
    assert to_image(tokens, (4, 5)).data_ptr() == x.data_ptr()


def test_upsampling_goes_to_the_size_asked_for_or_to_twice_the_size() -> None:
    layer = Upsample(2)
    assert layer(torch.zeros(1, 2, 3, 4)).shape == (1, 2, 6, 8)
    assert layer(torch.zeros(1, 2, 3, 4), (5, 7)).shape == (1, 2, 5, 7)


def test_silu_overwrites_its_input_only_where_no_gradient_is_wanted() -> None:
    x = torch.linspace(-3, 3, 7)
    wanted = x * torch.sigmoid(x)
    torch.testing.assert_close(SiLU()(x), wanted)
    assert not torch.equal(x, wanted)
    with torch.no_grad():
        SiLU()(x)
    torch.testing.assert_close(x, wanted)


def test_zeroed_layers_give_nothing() -> None:
    assert not zeroed(nn.Linear(3, 3))(torch.ones(1, 3)).any()
