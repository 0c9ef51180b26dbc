from typing import Any

import pytest
import torch

from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.pipeline import latents, memory

CONFIG = VAEConfig(channels=(8, 8, 8, 8), groups=4, res_blocks=1)


def tight(*args: Any, **kwargs: Any) -> memory.Tiling:
    return memory.Tiling(32, 0)


@pytest.mark.parametrize("wraps", [False, True])
@torch.no_grad()
def test_what_does_not_fit_at_once_is_coded_in_tiles(monkeypatch: pytest.MonkeyPatch, wraps: bool) -> None:
    """To a shade of the 8 bits; both ways, and where edges meet."""
    torch.manual_seed(0)
    vae = AutoencoderKL(CONFIG)
    pixels = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    code = latents.encode(pixels, vae, wraps=wraps)
    picture = latents.decode(code, vae, wraps=wraps)
    monkeypatch.setattr(memory, "choose_tiling", tight)
    called: list[bool] = []
    for name in ("encode_tiled", "decode_tiled"):
        before = getattr(latents, name)
        monkeypatch.setattr(latents, name, lambda *a, f=before, **k: called.append(True) or f(*a, **k))
    torch.testing.assert_close(latents.encode(pixels, vae, wraps=wraps), code, atol=1e-4, rtol=1e-4)
    tiled = latents.decode(code, vae, wraps=wraps)
    assert (tiled.int() - picture.int()).abs().max() <= 1
    assert called == [True, True]


@pytest.mark.parametrize("times", [1, 2])
@torch.no_grad()
def test_where_memory_runs_out_it_is_tried_once_more_in_the_smallest_tiles(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(CONFIG)
    code = torch.randn(1, 4, 48, 40)
    pixels = torch.randint(0, 256, (1, 384, 320, 3), dtype=torch.uint8)
    wanted = latents.encode(pixels, vae), latents.decode(code, vae)
    tiled: list[memory.Tiling] = []

    def none(*_: object, **given: int) -> torch.Tensor:
        if given:
            tiled.append(memory.Tiling(**given))
        raise torch.OutOfMemoryError("no more")

    for name in ("encode", "decode"):
        monkeypatch.setattr(vae, name, none)
        before = getattr(latents, f"{name}_tiled")
        after = (
            none if times == 2 else lambda *a, f=before, **k: tiled.append(memory.Tiling(**k)) or f(*a, **k)
        )
        monkeypatch.setattr(latents, f"{name}_tiled", after)
    if times == 1:
        torch.testing.assert_close(latents.encode(pixels, vae), wanted[0], atol=1e-4, rtol=1e-4)
        assert (latents.decode(code, vae).int() - wanted[1].int()).abs().max() <= 1  # a shade of the 8 bits
    else:
        for run in (lambda: latents.encode(pixels, vae), lambda: latents.decode(code, vae)):
            with pytest.raises(torch.OutOfMemoryError):
                run()
    assert tiled == [memory.SMALLEST] * 2
