"""Depth from a stereo pair is that of the photographs; models come from the user."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sfumato.cli import run
from sfumato.errors import ModelNotFoundError, RequestError, WeightsError
from sfumato.pipeline import depth


def test_a_stereo_pair_gives_the_measured_depth() -> None:
    """Semiglobal matching of this pair is known to be wrong by more than two pixels in some 6 % of places."""
    left, right, truth = data.stereo_motorcycle()
    made = np.asarray(depth.from_stereo(Image.fromarray(left), Image.fromarray(right)), np.float64)
    there = np.isfinite(truth)
    scaled = np.polyval(np.polyfit(made[there], truth[there], 1), made)  # the map has no unit
    assert made.shape == truth.shape
    assert (np.abs(scaled - truth)[there] > 3).mean() < 0.15
    assert np.corrcoef(made[there], truth[there])[0, 1] > 0.9


def test_places_that_nobody_matched_take_the_farther_neighbour() -> None:
    row = np.float32([[-1, 5, 5, -1, -1, 2, -1], [-1, -1, -1, -1, -1, -1, -1]])
    assert depth.filled(row).tolist() == [[5, 5, 5, 2, 2, 2, 2], [2] * 7]


def test_a_map_spans_sixteen_bits_and_a_flat_one_is_black() -> None:
    made = np.asarray(depth.to_picture(np.float32([[1, 2], [3, 5]])))
    assert made.dtype == np.uint16
    assert made.tolist() == [[0, 16384], [32768, 65535]]
    assert not np.asarray(depth.to_picture(np.full((2, 2), 7, np.float32))).any()


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(RequestError, match="of one size"):
        depth.from_stereo(Image.new("RGB", (64, 64)), Image.new("RGB", (64, 32)))
    with pytest.raises(RequestError, match="do not match"):
        depth.from_stereo(Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64)))


def test_a_depth_network_in_a_folder_is_run_as_transformers_runs_it(tmp_path: Path) -> None:
    import torch
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    network = DPTForDepthEstimation(
        DPTConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=32,
            patch_size=8,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            reassemble_factors=[4, 2, 1, 0.5],
        )
    )
    network.save_pretrained(tmp_path)
    processor: Any = DPTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    image = Image.fromarray(data.astronaut()[:96, :64])
    made = depth.by_model(image, str(tmp_path))
    assert made.size == image.size
    with torch.no_grad():
        wanted = network.eval()(**processor(images=image, return_tensors="pt")).predicted_depth[0]
    small = np.asarray(made.resize((wanted.shape[1], wanted.shape[0]), Image.Resampling.BOX), np.float64)
    assert np.corrcoef(small.ravel(), wanted.numpy().ravel())[0, 1] > 0.95  # resized twice


def test_models_that_are_none_are_told(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16))
    with pytest.raises(ModelNotFoundError, match="no depth model"):
        depth.by_model(image, str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "DPTImageProcessor"}')
    with pytest.raises(WeightsError, match="no depth model"):
        depth.by_model(image, str(tmp_path))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth.importlib, "import_module", _missing)
    with pytest.raises(RequestError, match="opencv-python-headless"):
        depth.from_stereo(Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64)))


def _missing(name: str) -> Any:
    raise builtins.ImportError(name)


def test_the_command_writes_a_map_and_wants_one_of_two_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right, _ = data.stereo_motorcycle()
    names = []
    for name, pixels in (("left", left), ("right", right)):
        names.append(str(tmp_path / f"{name}.png"))
        Image.fromarray(pixels).save(names[-1])
    out = tmp_path / "map.png"
    assert run(["depth", *names, "-o", str(out)]) == 0
    with Image.open(out) as made:
        assert made.mode.startswith("I")
        assert made.size == (741, 500)
    assert run(["depth", names[0]]) == 2
    assert "--depth-model" in capsys.readouterr().err
