"""Checkpoints that see a picture beside the latents, refiners and seamless pictures, through `generate`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from tests.conftest import TINY

from sfumato.errors import OutputError, RequestError
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline.conditions import depth_channel, further_channels, masked_channels, read_depth
from sfumato.pipeline.enlarge import LATENT_UPSCALERS, enlarge_latents, second_size
from sfumato.pipeline.generate import generate, prepare
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import (
    Canvas,
    Hires,
    Mask,
    ModelChoice,
    Prompt,
    Refiner,
    Request,
    Result,
    Sampling,
    Source,
    StepInfo,
)
from sfumato.weights.load import save_checkpoint
from sfumato.weights.specs import ModelSpec

NAMES = {4: "plain", 5: "depth", 8: "edit", 9: "inpaint"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> ModelShelf:
    """Four kinds of checkpoint, and one with latents of another scale."""
    folder = tmp_path_factory.mktemp("beside")
    for seed, (channels, name) in enumerate(NAMES.items()):
        write(
            folder / f"{name}.safetensors", replace(TINY, unet=replace(TINY.unet, in_channels=channels)), seed
        )
    write(folder / "other.safetensors", replace(TINY, vae=replace(TINY.vae, scale_factor=0.5)), 9)
    return ModelShelf(folder, device="cpu", dtype="float32", default="plain")


def write(path: Path, spec: ModelSpec, seed: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet, vae, text = UNet(spec.unet), AutoencoderKL(spec.vae), CLIPText(spec.text)
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.0 if "attn2" in name else 0.2)
    save_checkpoint(path, spec=spec, unet=unet, vae=vae, text=text)


def photograph(side: int = 32) -> Image.Image:
    return Image.fromarray(data.astronaut()[:side, 180 : 180 + side])


def grey(value: int) -> Image.Image:
    return Image.new("L", (32, 32), value)


def slope() -> Image.Image:
    return Image.fromarray(np.add.outer(np.arange(0, 64, 2), np.arange(0, 64, 2)).astype(np.uint8))


def request(checkpoint: str = "plain", **parts: Any) -> Request:
    common = {
        "prompt": Prompt(text="a cat", negative="blurry"),
        "sampling": Sampling(steps=4, sampler="Euler", schedule="Uniform"),
        "canvas": Canvas(width=32, height=32, seed=7),
        "model": ModelChoice(checkpoint=checkpoint),
    }
    return Request(**common | parts)


def pixels(asked: Request, shelf: ModelShelf) -> np.ndarray[Any, Any]:
    (result,) = [event for event in generate(asked, shelf) if isinstance(event, Result)]
    return np.asarray(result.image).astype(int)


def rows_seen(shelf: ModelShelf, name: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which every call of a checkpoint's U-Net adds the size of its batch."""
    seen: list[int] = []
    unet = shelf.load(ModelChoice(checkpoint=name)).checkpoint.unet
    forward: Callable[..., Any] = unet.forward
    monkeypatch.setattr(unet, "forward", lambda x, *rest: seen.append(len(x)) or forward(x, *rest))
    return seen


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("edit", {}, "edit edits a picture by instruction; give one"),
        ("depth", {}, "depth is guided by depth; give a depth map with --depth"),
        ("depth", {"source": Source(image=photograph())}, "give a depth map"),
        ("plain", {"refiner": Refiner(checkpoint="depth")}, "depth is guided by depth"),
        ("plain", {"refiner": Refiner(checkpoint="other")}, "'other' works on other latents than plain"),
        (
            "plain",
            {"hires": Hires(enabled=True, checkpoint="other")},
            "'other' works on other latents than plain",
        ),
    ],
)
def test_what_is_missing_is_said_before_the_first_step(
    shelf: ModelShelf, name: str, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        prepare(request(name, **parts), shelf)


def test_a_depth_map_that_is_no_picture_is_refused(shelf: ModelShelf, tmp_path: Path) -> None:
    (tmp_path / "depth.png").write_bytes(b"")
    with pytest.raises(OutputError, match=r"depth\.png"):
        next(iter(generate(request("depth", source=Source(depth=tmp_path / "depth.png")), shelf)))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("depth", Source(depth=slope()), Source(depth=slope().transpose(Image.Transpose.ROTATE_90))),
        (
            "edit",
            Source(image=photograph(), denoising_strength=1),
            Source(image=grey(9), denoising_strength=1),
        ),
    ],
)
def test_what_the_network_is_shown_reaches_the_picture(
    shelf: ModelShelf, name: str, one: Source, other: Source
) -> None:
    first, second = (pixels(request(name, source=source), shelf) for source in (one, other))
    assert np.abs(first - second).max() > 1


def test_a_grey_canvas_stands_for_no_source(shelf: ModelShelf) -> None:
    """In text to image an inpainting checkpoint sees a grey picture that is masked everywhere."""
    models = shelf.load(ModelChoice(checkpoint="inpaint"))
    channels = further_channels(models.spec, request("inpaint"), models.vae, None, None)
    assert channels is not None
    wanted = masked_channels(torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32), models.vae)
    assert torch.equal(channels, wanted)
    assert (channels[:, 0] == 1).all()
    assert pixels(request("inpaint"), shelf).shape == (32, 32, 3)


def test_the_conditioning_weight_lets_the_source_through(shelf: ModelShelf) -> None:
    vae = shelf.load(ModelChoice(checkpoint="inpaint")).vae
    image, half = torch.rand(1, 3, 32, 32) * 2 - 1, torch.zeros(1, 1, 32, 32)
    half[..., :16] = 1
    with torch.no_grad():
        seen = [masked_channels(image, half, vae, weight)[:, 1:] for weight in (0.0, 0.5, 1.0)]
        scale = vae.config.scale_factor
        for weight, channels in zip((0.0, 0.5, 1.0), seen, strict=True):
            lerped = torch.lerp(image, image * (1 - half), weight)
            torch.testing.assert_close(channels, vae.encode(lerped)[0] * scale)


def test_an_inpainting_checkpoint_is_kept_from_seeing_under_the_mask(shelf: ModelShelf) -> None:
    white = Mask(image=grey(255), blur_x=0, blur_y=0)

    def painted(image: Image.Image, weight: float) -> np.ndarray[Any, Any]:
        source = Source(image=image, denoising_strength=1, noise_multiplier=1)
        mask = replace(white, content="latent nothing", conditioning_weight=weight)
        return pixels(request("inpaint", source=source, mask=mask), shelf)

    assert np.abs(painted(photograph(), 1) - painted(grey(9), 1)).max() == 0
    assert np.abs(painted(photograph(), 0) - painted(grey(9), 0)).max() > 1


def test_depth_is_stretched_from_minus_one_to_one() -> None:
    channel = depth_channel(read_depth(slope()), 4, 6)
    assert channel.shape == (1, 1, 4, 6)
    assert (channel.min(), channel.max()) == (-1, 1)
    assert channel[0, 0, 0, 0] == -1
    assert depth_channel(read_depth(grey(7)), 4, 4).abs().max() == 0


def test_sixteen_bits_of_depth_are_kept(tmp_path: Path) -> None:
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) + 30000
    Image.fromarray(values).save(tmp_path / "fine.png")
    assert len(read_depth(tmp_path / "fine.png").unique()) == 1024


@pytest.mark.parametrize(("image_guidance", "rows"), [(1.5, 3), (1.0, 2), (7.0, 2)])
def test_an_edit_runs_no_row_that_is_not_needed(
    shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch, image_guidance: float, rows: int
) -> None:
    seen = rows_seen(shelf, "edit", monkeypatch)
    asked = request("edit", source=Source(image=photograph(), denoising_strength=1))
    pixels(replace(asked, sampling=replace(asked.sampling, image_guidance=image_guidance)), shelf)
    assert seen == [rows] * 4


@pytest.mark.parametrize("switch_at", [0.01, 0.3, 0.6, 0.9, 1.0])
def test_the_refiner_takes_over_at_its_share_of_the_way(
    shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch, switch_at: float
) -> None:
    """Uniform visits timesteps 999, 666, 333 and 0."""
    first, second = (rows_seen(shelf, name, monkeypatch) for name in ("plain", "inpaint"))
    pixels(request(refiner=Refiner(checkpoint="inpaint", switch_at=switch_at)), shelf)
    later = sum((999 - timestep) / 1000 >= switch_at for timestep in (999, 666, 333, 0))
    assert (len(first), len(second)) == (4 - later, later)


@pytest.mark.parametrize(
    ("passes", "refined"), [("first pass", [1]), ("second pass", [2]), ("both passes", [1, 2])]
)
def test_the_refiner_works_in_the_passes_it_was_given(
    shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch, passes: Any, refined: list[int]
) -> None:
    seen = rows_seen(shelf, "inpaint", monkeypatch)
    asked = request(
        hires=Hires(enabled=True, scale=2),
        refiner=Refiner(checkpoint="inpaint", switch_at=0.9, passes=passes),
    )
    before: dict[int, int] = {}
    for event in generate(asked, shelf):
        if isinstance(event, StepInfo):
            before[event.pass_] = len(seen) - sum(before.values()) + before.get(event.pass_, 0)
    assert [number for number, calls in sorted(before.items()) if calls] == refined


def test_prompts_go_on_where_the_refiner_takes_over(shelf: ModelShelf) -> None:
    """Refined by itself a checkpoint makes the picture it makes alone, prompt editing included."""
    plain = request(prompt=Prompt(text="[a cat:a dog:3] [red|blue]", negative="blurry"))
    refined = replace(plain, refiner=Refiner(checkpoint="plain", switch_at=0.5))
    assert np.abs(pixels(plain, shelf) - pixels(refined, shelf)).max() == 0


def test_a_refined_picture_says_so(shelf: ModelShelf) -> None:
    asked = request(refiner=Refiner(checkpoint="inpaint", switch_at=0.5))
    (result,) = [event for event in generate(asked, shelf) if isinstance(event, Result)]
    assert "Refiner: inpaint" in result.infotext
    assert result.request.refiner == asked.refiner


def test_a_seamless_picture_goes_on_beyond_its_edges() -> None:
    """Across the edge neighbours differ as they do inside; in a usual picture they do not."""
    shelf = ModelShelf(Path("models"), device="cpu", dtype="float32")

    def jump(tiling: bool) -> float:
        asked = Request(
            prompt=Prompt(text="a pattern of red stars"),
            sampling=Sampling(steps=6),
            canvas=Canvas(seed=4, tiling=tiling),
        )
        image = pixels(asked, shelf)
        across = [np.abs(image[0] - image[-1]).mean(), np.abs(image[:, 0] - image[:, -1]).mean()]
        inside = [np.abs(np.diff(image, axis=axis)).mean((1 - axis, 2)) for axis in (0, 1)]
        return float(max(a / np.percentile(i, 95) for a, i in zip(across, inside, strict=True)))

    assert jump(tiling=True) <= 1
    assert jump(tiling=False) > 1


@pytest.mark.parametrize("upscaler", LATENT_UPSCALERS)
def test_a_seamless_picture_stays_so_when_it_is_enlarged(upscaler: str) -> None:
    """Moved by a latent and enlarged it is what, enlarged and moved by two, it would be."""
    latents = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    target = second_size(Canvas(width=64, height=48), Hires(enabled=True, upscaler=upscaler), None)
    moved = enlarge_latents(latents.roll((1, 2), (2, 3)), target, 8, wraps=True)
    torch.testing.assert_close(
        moved, enlarge_latents(latents, target, 8, wraps=True).roll((2, 4), (2, 3)), atol=1e-5, rtol=1e-5
    )
