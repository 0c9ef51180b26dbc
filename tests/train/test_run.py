"""All three methods from pictures on a disk to one checkpoint that loads, in a few steps at toy size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.errors import TrainingError
from sfumato.pipeline.models import embedded_model
from sfumato.train.autoencoder import encode_all, normalise_latents
from sfumato.train.config import read_config
from sfumato.train.data import open_pictures, pixels_to_tensor, tensor_to_pixels
from sfumato.train.run import run
from sfumato.train.state import TrainState
from sfumato.weights.convert import convert
from sfumato.weights.files import read_safetensors
from sfumato.weights.load import load_checkpoint, load_networks, load_vae

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
    for _ in run(read_config(path), models=root / "models", resume=resume):
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


def test_a_text_encoder_goes_on_from_another_of_its_shape(root: Path) -> None:
    train(root, AUTOENCODER, steps=2)
    train(root, TEXT)
    start = f'[text]\nstart = "{root}/text/model.safetensors"'
    slow = TEXT.replace("/text", "/again").replace("[text]", "[optimiser]\nrate = 1e-9\n" + start)
    train(root, slow)
    old, new = (
        load_networks(root / name / "model.safetensors", ["text"], device="cpu", dtype=torch.float32)[1]
        for name in ("text", "again")
    )
    for one, other in zip(old["text"].parameters(), new["text"].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)  # kept in float16
    with pytest.raises(TrainingError, match="text encoder of another shape"):
        train(root, slow.replace("/again", "/other").replace("layers = 1", "layers = 2"))


def test_encoding_in_half_precision_leaves_the_autoencoder_as_it_was(root: Path) -> None:
    train(root, AUTOENCODER, steps=2)
    train(root, TEXT)
    train(root, DIFFUSION, train_text="false")
    (cache,) = (root / "toy" / "cache").iterdir()
    vae, kept = (
        load_vae(root / name / "model.safetensors", device="cpu", dtype=torch.float32)
        for name in ("text", "toy")
    )
    exact = encode_all(vae, open_pictures(root / "data")).numpy()
    error = np.load(cache) - exact
    assert 0 < error.std() < 0.05 * exact.std()  # bfloat16 keeps eight bits, whitening spreads them
    for one, other in zip(vae.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)  # float16 in the file


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
    normalise_latents(vae, encode_all(vae, data))
    after = vae.decode(vae.encode(pixels_to_tensor(np.asarray(data.pictures)))[0])
    torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)  # two float32 matrices and their inverse
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
        (("groups = 8", "groups = 8\nwings = 2"), "autoencoder.wings is not known"),
        (('method = "autoencoder"', 'method = "magic"'), "method"),
        (('method = "autoencoder"', 'method = "text"'), r"needs a table \[text\]"),
        (("[data]", "[data"), "is not TOML"),
        (("steps = {steps}", "step = {steps}"), "step is not known; did you mean steps[?]"),
        (("steps = {steps}", ""), "steps is missing"),
        (("crop = 16", "crops = 16"), "data.crops is not known; did you mean crop[?]"),
        (("res_blocks = 1", "wings = 1"), "autoencoder.wings is not known; there are channels, res_blocks"),
        (("channels = [16, 16, 16, 32]", "channels = [16, 17]"), "autoencoder: a level of 17 channels"),
        (("crop = 16", "crop = 12"), "data.crop=12 is not a multiple of 8"),
        (("crop = 16", "crop = 40"), r"data.crop=40 is larger than the pictures \(32x32\)"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(root: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        train(root, AUTOENCODER.replace(*change), steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fault", ["no captions", "too few captions", "negative weight", "an empty list", "odd sides", "nothing"]
)
def test_bad_data_is_refused_before_anything_starts(root: Path, fault: str) -> None:
    captions = root / "data" / "captions.jsonl"
    if fault == "no captions":
        captions.unlink()
    elif fault == "too few captions":
        captions.write_text(captions.read_text().splitlines()[0])
    elif fault == "negative weight":
        captions.write_text(captions.read_text().replace('"weight": 3', '"weight": -3'))
    elif fault == "an empty list":
        captions.write_text(captions.read_text().replace('["a red square", "square"]', "[]"))
    elif fault == "odd sides":
        np.save(root / "data" / "pictures.npy", np.zeros((12, 20, 32, 3), np.uint8))
    else:
        for path in (root / "data").iterdir():
            path.unlink()
    expected = "height=20 is not a multiple of 8" if fault == "odd sides" else str(root / "data")
    with pytest.raises(TrainingError, match=expected):
        train(root, AUTOENCODER, steps=1)
    assert not (root / "vae").exists()


def test_a_folder_of_images_is_a_data_set(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "one.png")
    Image.new("L", (64, 64), 77).save(tmp_path / "two.jpg")
    (tmp_path / "one.txt").write_text("a red field\n")
    data = open_pictures(tmp_path)
    assert data.pictures.shape == (2, 24, 24, 3)
    assert data.captions == [("a red field",), ("",)]
    (tmp_path / "two.txt").write_bytes("Müll".encode("latin-1"))
    with pytest.raises(TrainingError, match=r"two\.txt cannot be read as UTF-8"):
        open_pictures(tmp_path)
    (tmp_path / "two.txt").unlink()
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(TrainingError, match=r"bad\.png"):
        open_pictures(tmp_path)


@pytest.fixture
def toy(root: Path) -> Path:
    """A run with two of four steps done, on a base in the models folder."""
    (root / "models").mkdir()
    train(root, AUTOENCODER, steps=1)
    train(root, TEXT)
    shutil.copy(root / "text" / "model.safetensors", root / "models" / "base.safetensors")
    train(root, TOY, steps=2)
    return root


TOY = (
    DIFFUSION.replace("{root}/text/model.safetensors", "base")
    .replace("steps = 4", "steps = {steps}", 1)
    .format(root="{root}", steps="{steps}", train_text="false")
    .replace("{ data", "{{ data")
    .replace('"none" }', '"none" }}')
)


def _weights(root: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(root / "toy" / "model.safetensors")


def test_previews_may_come_and_go_and_the_data_may_move_without_changing_a_number(toy: Path) -> None:
    train(toy, TOY.replace("/toy", "/whole"), steps=4)
    (toy / "data").rename(toy / "elsewhere")
    moved = TOY.replace("/data", "/elsewhere")
    silent = moved.replace('prompts = ["a red square", "something else"]', "guidance = 2.0")
    train(toy, silent, steps=4, resume=True)
    assert not (toy / "toy" / "pictures" / "0000004.png").exists()
    whole = read_safetensors(toy / "whole" / "model.safetensors")
    assert all(torch.equal(whole[name], weight) for name, weight in _weights(toy).items())


@pytest.mark.parametrize("changed", ["pictures", "captions", "base"])
def test_a_run_is_not_resumed_on_something_else(toy: Path, changed: str) -> None:
    if changed == "pictures":
        pictures = np.load(toy / "data" / "pictures.npy")
        pictures[5] //= 2
        np.save(toy / "data" / "pictures.npy", pictures)
    elif changed == "captions":
        path = toy / "data" / "captions.jsonl"
        path.write_text(path.read_text().replace("a red square", "a blue square"))
    else:
        train(toy, AUTOENCODER.replace("/vae", "/other").replace("rate = 1e-3", "rate = 1e-2"), steps=2)
        train(toy, TEXT.replace("/vae", "/other").replace("/text", "/text2"))
        shutil.copy(toy / "text2" / "model.safetensors", toy / "models" / "base.safetensors")
    name = "diffusion.base" if changed == "base" else f"data.{changed}"
    with pytest.raises(TrainingError, match=rf"another run: {name} was [0-9a-f]+, is [0-9a-f]+; restore"):
        train(toy, TOY, steps=4, resume=True)


def test_a_finished_run_that_is_resumed_writes_its_model_again(toy: Path) -> None:
    path = toy / "toy" / "model.safetensors"
    before = path.read_bytes()
    path.unlink()
    train(toy, TOY, steps=2, resume=True)
    assert path.read_bytes() == before


def test_a_run_killed_while_it_saves_leaves_no_model_older_than_its_state(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _weights(toy)
    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "save", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            train(toy, TOY, steps=4, resume=True)
    after = _weights(toy)
    assert any(not torch.equal(after[name], weight) for name, weight in before.items())
    train(toy, TOY, steps=4, resume=True)


@pytest.mark.parametrize("base", ["sfumato-mini", "folder"])
def test_a_base_may_be_the_embedded_model_or_a_folder(root: Path, tiny_checkpoint: Path, base: str) -> None:
    (root / "models").mkdir()
    convert(tiny_checkpoint, root / "models" / "folder")
    text = TOY.replace('base = "base"', f'base = "{base}"')
    train(root, text, steps=1)
    checkpoint = load_checkpoint(root / "toy" / "model.safetensors", device="cpu", dtype=torch.float32)
    assert checkpoint.spec.family == "toy"


def test_a_start_of_another_shape_is_one_clear_line(root: Path) -> None:
    train(root, AUTOENCODER, steps=1)
    other = AUTOENCODER.replace("/vae", "/b").replace(
        "res_blocks = 1", 'res_blocks = 2\nstart = "{root}/vae/model.safetensors"'
    )
    with pytest.raises(TrainingError, match="holds an autoencoder of another shape"):
        train(root, other, steps=1)


def test_the_documented_run_works_on_a_folder_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "finetune.toml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 32), (80 * number, 10, 10)).save(tmp_path / "pictures" / f"{number}.png")
    config = read_config(recipe).model_copy(update={"steps": 1, "batch_size": 2})
    list(run(config, models=tmp_path / "models"))
    made = load_checkpoint(tmp_path / config.output / "model.safetensors", device="cpu", dtype=None)
    assert made.spec.unet == load_checkpoint(embedded_model(), device="cpu", dtype=None).spec.unet
