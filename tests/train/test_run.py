"""All three methods from pictures on a disk to one checkpoint that loads, in a few steps at toy size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.errors import TrainingError
from sfumato.train.autoencoder import encode_all, normalise_latents, reconstruction_psnr
from sfumato.train.config import read_config
from sfumato.train.data import open_pictures, pixels_to_tensor, tensor_to_pixels
from sfumato.train.run import run
from sfumato.weights.load import load_checkpoint, load_vae

AUTOENCODER = """
method = "autoencoder"
output = "{root}/vae"
steps = {steps}
batch_size = 4
save_every = 4
sample_every = 8
ema_decay = 0.5
[data]
folder = "{root}/data"
crop = 16
flip = true
permute_channels = true
[optimiser]
rate = 1e-3
warmup_steps = 2
matrices = "muon"
[autoencoder]
channels = [16, 16, 16, 32]
res_blocks = 1
groups = 8
mse = 1.0
"""
TEXT = """
method = "text"
output = "{root}/text"
steps = 3
batch_size = 4
[text]
base = "{root}/vae/model.safetensors"
width = 16
layers = 1
heads = 2
sentences = "{root}/sentences.txt"
vectors = "{root}/vectors.npy"
"""
DIFFUSION = """
method = "diffusion"
output = "{root}/toy"
steps = 4
batch_size = 4
precision = "bfloat16"
save_every = 2
sample_every = 4
provenance = {{ data = "drawn", licence = "none" }}
[data]
folder = "{root}/data"
[diffusion]
base = "{root}/text/model.safetensors"
prompts = ["a red square", "something else"]
sample_steps = 2
train_text = {train_text}
[diffusion.unet]
model_channels = 16
channel_mult = [1, 2]
res_blocks = 1
attention_levels = [1]
head_dim = 8
groups = 8
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    pictures = np.full((12, 32, 32, 3), 255, np.uint8)
    for picture in pictures:
        top, left = rng.integers(0, 16, 2)
        picture[top : top + 16, left : left + 16] = rng.integers(0, 255, 3)
    np.save(folder / "pictures.npy", pictures)
    rows = [json.dumps({"captions": ["a red square", "square"], "weight": 1 + i}) for i in range(12)]
    (folder / "captions.jsonl").write_text("\n".join(rows))
    (tmp_path / "sentences.txt").write_text("\n".join(f"sentence {i}" for i in range(8)))
    np.save(tmp_path / "vectors.npy", rng.standard_normal((8, 6)).astype(np.float16))
    return tmp_path


def train(root: Path, text: str, *, resume: bool = False, **fields: object) -> None:
    path = root / "config.toml"
    path.write_text(text.format(root=root, **fields))
    for _ in run(read_config(path), resume=resume):
        pass


def test_pictures_become_a_checkpoint_that_loads_and_says_where_it_comes_from(root: Path) -> None:
    train(root, AUTOENCODER, steps=8)
    train(root, TEXT)
    for train_text in ("false", "true"):
        train(root, DIFFUSION.replace("/toy", f"/toy-{train_text}"), train_text=train_text)
        path = root / f"toy-{train_text}" / "model.safetensors"
        checkpoint = load_checkpoint(path, device="cpu", dtype=torch.float32)
        assert checkpoint.spec.family == f"toy-{train_text}"
        assert checkpoint.spec.native_size == 32
        assert checkpoint.spec.prediction == "v"
        told = json.loads(checkpoint.metadata["sfumato"])["provenance"]
        assert told["data"] == "drawn"
        assert [told[f"{stage}.steps"] for stage in ("autoencoder", "text", "diffusion")] == ["8", "3", "4"]
        assert (path.parent / "pictures" / "0000004.png").is_file()


def test_an_autoencoder_resumes_bit_for_bit(root: Path) -> None:
    train(root, AUTOENCODER.replace("/vae", "/a"), steps=8)
    train(root, AUTOENCODER.replace("/vae", "/b"), steps=4)
    train(root, AUTOENCODER.replace("/vae", "/b"), steps=8, resume=True)
    a, b = (load_vae(root / name / "model.safetensors", device="cpu", dtype=None) for name in "ab")
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_folder_with_a_run_in_it_is_not_overwritten(root: Path) -> None:
    train(root, AUTOENCODER, steps=4)
    with pytest.raises(TrainingError, match="--resume"):
        train(root, AUTOENCODER, steps=4)
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(root, AUTOENCODER.replace("/vae", "/new"), steps=4, resume=True)


def test_normalised_latents_are_white_and_pictures_stay(root: Path) -> None:
    train(root, AUTOENCODER, steps=4)
    vae = load_vae(root / "vae" / "model.safetensors", device="cpu", dtype=torch.float32)
    data = open_pictures(root / "data")
    before = vae.decode(vae.encode(pixels_to_tensor(np.asarray(data.pictures)))[0])
    psnr = reconstruction_psnr(vae, data)
    normalise_latents(vae, encode_all(vae, data))
    after = vae.decode(vae.encode(pixels_to_tensor(np.asarray(data.pictures)))[0])
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)  # two float32 matrices and their inverse
    assert reconstruction_psnr(vae, data) == pytest.approx(psnr, abs=0.01)
    rows = encode_all(vae, data).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(rows.mean(1), torch.zeros(4).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.cov(rows), torch.eye(4).double(), rtol=0, atol=1e-2)


def test_pixels_survive_the_way_to_tensors_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    assert np.array_equal(tensor_to_pixels(pixels_to_tensor(pixels)), pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = {steps}", "steps = 0"), "steps: Input should be greater"),
        (("rate = 1e-3", "rate = 1e9"), "optimiser.rate"),
        (("rate = 1e-3", "rate = nan"), "optimiser.rate"),
        (("groups = 8", "groups = 8\nwings = 2"), "autoencoder.wings: Extra inputs"),
        (('method = "autoencoder"', 'method = "magic"'), "method"),
        (('method = "autoencoder"', 'method = "text"'), r"needs a table \[text\]"),
        (("[data]", "[data"), "is not TOML"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(root: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        train(root, AUTOENCODER.replace(*change), steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["no captions", "too few captions", "negative weight", "nothing"])
def test_bad_data_is_refused_before_anything_starts(root: Path, fault: str) -> None:
    captions = root / "data" / "captions.jsonl"
    if fault == "no captions":
        captions.unlink()
    elif fault == "too few captions":
        captions.write_text(captions.read_text().splitlines()[0])
    elif fault == "negative weight":
        captions.write_text(captions.read_text().replace('"weight": 3', '"weight": -3'))
    else:
        for path in (root / "data").iterdir():
            path.unlink()
    with pytest.raises(TrainingError, match=str(root / "data")):
        train(root, AUTOENCODER, steps=1)
    assert not (root / "vae").exists()


def test_a_folder_of_images_is_a_data_set(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "one.png")
    Image.new("L", (64, 64), 77).save(tmp_path / "two.jpg")
    (tmp_path / "one.txt").write_text("a red field\n")
    data = open_pictures(tmp_path)
    assert data.pictures.shape == (2, 24, 24, 3)
    assert data.captions == [("a red field",), ("",)]
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(TrainingError, match=r"bad\.png"):
        open_pictures(tmp_path)
