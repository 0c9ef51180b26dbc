"""Batches of latents: which pixels they come from, that they are the same again, and what is kept."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import TrainingError
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.train.batches import Batch, Batches
from sfumato.train.caches import TensorStore
from sfumato.train.catalogue import Scanned
from sfumato.train.data import open_pictures
from sfumato.train.dataset import find_pictures
from sfumato.train.diffusion import cached_latents
from sfumato.train.latents import Encoder, LatentBatches, open_latents, vae_encoder
from sfumato.train.picture_config import PicturesConfig
from sfumato.train.pictures import frame, mask_weights


class Blocks:
    """An encoder whose latents are the means of 8×8 pixels, which counts what it encodes."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        assert len(images) == 1
        return torch.nn.functional.avg_pool2d(images, 8)


def picture(path: Path, seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> None:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, len(mode)), np.uint8)
    Image.fromarray(small.squeeze()).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number, size in enumerate([(64, 64), (70, 60), (128, 64), (64, 128), (64, 64), (200, 100)]):
        picture(folder / f"{number}.png", number, size)
        (folder / f"{number}.txt").write_text(f"number {number}, a, b, c", "utf-8")
    return folder


def batches(
    folder: Path, encode: Blocks | None = None, *, size: int = 2, seed: int = 0, **fields: object
) -> LatentBatches:
    config = PicturesConfig.model_validate({"source": folder, "resolution": 64, **fields})
    found = find_pictures(config)
    for _ in found.look():
        pass
    encoder = Encoder(encode=encode or Blocks(), name="blocks", reduction=8)
    return LatentBatches(found, encoder, TensorStore(folder.parent / "cache"), size=size, seed=seed)


def same(one: Batch, other: Batch) -> bool:
    assert (one.mask is None) == (other.mask is None)
    return (
        torch.equal(one.latents, other.latents)
        and one.prompts == other.prompts
        and one.rows == other.rows
        and torch.equal(one.weights, other.weights)
        and (one.mask is None or other.mask is None or torch.equal(one.mask, other.mask))
    )


VARIATIONS: Mapping[str, Mapping[str, object]] = {
    "plain": {},
    "flip": {"flip": True},
    "random crop": {"random_crop": True, "flip": True},
    "captions": {"captions": {"shuffle": True, "dropout": 0.2, "keep_tokens": 1, "tag_dropout": 0.1}},
    "squares": {"buckets": False},
}


def test_they_fit_the_seam(folder: Path) -> None:
    seam: Batches = batches(folder)
    assert len(seam) == 6


@pytest.mark.parametrize("fields", VARIATIONS.values(), ids=VARIATIONS)
def test_batch_k_is_the_same_whatever_was_drawn_before_and_whether_it_was_kept(
    folder: Path, fields: Mapping[str, object]
) -> None:
    straight = batches(folder, **fields)
    drawn = [straight.draw(number) for number in range(12)]
    for number in (11, 3, 7):
        assert same(batches(folder, **fields).draw(number), drawn[number])
    (folder.parent / "cache" / "tensors.sqlite").unlink()
    assert same(batches(folder, **fields).draw(5), drawn[5])
    assert not all(
        same(one, other)
        for one, other in zip(drawn, map(batches(folder, seed=1, **fields).draw, range(12)), strict=True)
    )


def test_every_picture_is_encoded_once_and_its_mirror_image_too(folder: Path) -> None:
    encode = Blocks()
    data = batches(folder, encode, flip=True)
    assert [each.done for each in data.prepare()] == [1, 2, 3, 4, 5, 6]
    assert encode.calls == 12
    for number in range(20):
        data.draw(number)
    again = batches(folder, encode, flip=True, seed=5)
    for _ in again.prepare():
        pass
    assert encode.calls == 12


def test_stopping_the_preparation_loses_nothing_that_was_done(folder: Path) -> None:
    encode = Blocks()
    for step in batches(folder, encode).prepare():
        if step.done == 3:
            break
    for _ in batches(folder, encode).prepare():
        pass
    assert encode.calls == 6


def test_another_network_or_picture_finds_nothing_that_was_kept(folder: Path) -> None:
    encode = Blocks()
    data = batches(folder, encode)
    for _ in data.prepare():
        pass
    data.encoder = Encoder(encode=encode, name="another", reduction=8)
    for _ in data.prepare():
        pass
    assert encode.calls == 12
    picture(folder / "0.png", 77)
    for _ in batches(folder, encode).prepare():
        pass
    assert encode.calls == 13


def test_latents_are_those_of_the_resized_middle(folder: Path) -> None:
    data = batches(folder, size=1)
    for number in range(6):
        batch = data.draw(number)
        (row,) = batch.rows
        image = Image.open(folder / f"{row}.png")
        fit = data.catalogue.fit(data.catalogue.picture(row))
        left, top = fit.room[0] // 2, fit.room[1] // 2
        seen = image.resize(fit.resized, Image.Resampling.LANCZOS).crop(
            (left, top, left + fit.bucket[0], top + fit.bucket[1])
        )
        wanted = torch.from_numpy(np.asarray(seen, np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        pooled = torch.nn.functional.avg_pool2d(wanted, 8)
        assert batch.latents.shape == pooled.shape
        # Kept as float16, whose spacing below 1 is at most 2^-11.
        torch.testing.assert_close(batch.latents, pooled, atol=2**-11, rtol=0)


def test_half_of_all_visits_see_the_mirror_image(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    picture(tmp_path / "set" / "a.png", 0)
    data = batches(tmp_path / "set", size=1, flip=True, repeats=100)
    plain, mirrored = None, 0
    for number in range(100):
        latents = data.draw(number).latents
        plain = latents if plain is None else plain
        assert torch.equal(latents, plain) or torch.allclose(latents, plain.flip(3), atol=2**-10)
        mirrored += int(not torch.equal(latents, plain))
    assert abs(mirrored - 50) <= 25  # five standard deviations of a fair coin


def test_random_crops_reach_both_ends_and_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (64, 100, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "set" / "a.png")
    encode = Blocks()
    data = batches(tmp_path / "set", encode, size=1, random_crop=True, buckets=False, repeats=200)
    for _ in data.prepare():
        pass
    lefts = {data.visits(number)[0].corner for number in range(200)}
    assert min(lefts) == (0, 0)
    assert max(lefts) == (36, 0)
    data.draw(0)
    data.draw(0)
    assert encode.calls == 2


def test_a_mask_is_cropped_and_mirrored_with_its_picture(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "m").mkdir(parents=True)
    half = Image.new("L", (96, 64), 0)
    half.paste(255, (0, 0, 48, 64))
    half.save(folder / "m" / "a.png")
    Image.merge("RGB", (half, half, half)).save(folder / "a.png")
    picture(folder / "b.png", 1, (96, 64))
    data = batches(folder, size=2, flip=True, masks="m", buckets=False, repeats=20)
    seen = set()
    for number in range(10):
        batch = data.draw(number)
        assert (batch.mask is None) == (0 not in batch.rows)
        if batch.mask is None:
            continue
        for latents, mask, row in zip(batch.latents, batch.mask, batch.rows, strict=True):
            if row == 0:  # white where the mask is: the picture is its own mask
                torch.testing.assert_close(mask, latents[:1] / 2 + 0.5, atol=2**-9, rtol=0)
                seen.add(float(mask[0, 0, 0]))
            else:
                assert torch.equal(mask, torch.ones_like(mask))
    assert seen == {0.0, 1.0}


def test_where_a_picture_is_transparent_its_loss_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, 32, 64))
    image.save(folder / "a.png")
    (batch,) = (batches(folder, size=1, masks="alpha").draw(0),)
    assert batch.mask is not None
    assert torch.equal(batch.mask[0, 0].mean(0), torch.tensor([0.0] * 4 + [1.0] * 4))
    assert torch.equal(batch.latents[0, :, 0, 0], torch.ones(3))  # white below
    assert batches(folder, size=1).draw(0).mask is None


def test_regularisation_pictures_are_seen_as_often_and_weigh_as_told(folder: Path) -> None:
    (folder.parent / "class").mkdir()
    for number in range(4):
        picture(folder.parent / "class" / f"{number}.png", 50 + number)
    data = batches(
        folder,
        regularisation=folder.parent / "class",
        prior_weight=0.5,
        captions={"prefix": "sks"},
        prior_prompt="x",
        repeats=2,
    )
    assert len(data) == 24
    drawn = [data.draw(number) for number in range(data.order.batches)]
    weights = torch.cat([batch.weights for batch in drawn])
    assert sorted(set(weights.tolist())) == [0.5, 1.0]
    assert (weights == 0.5).sum() == 12
    prompts = [prompt for batch in drawn for prompt in batch.prompts]
    assert prompts.count("x") == 12
    assert sum(prompt.startswith("sks number") for prompt in prompts) == 12


def test_a_picture_that_changes_or_goes_while_training_stops_it(folder: Path) -> None:
    data = batches(folder)
    picture(folder / "0.png", 88)
    with pytest.raises(TrainingError, match=r"0\.png has changed"):
        list(data.prepare())
    (folder / "0.png").unlink()
    with pytest.raises(TrainingError, match=r"0\.png cannot be read"):
        list(data.prepare())


def test_latents_that_are_not_finite_are_refused(folder: Path) -> None:
    data = batches(folder)
    data.encoder = Encoder(encode=lambda images: images * torch.inf, name="broken", reduction=8)
    with pytest.raises(TrainingError, match="not finite"):
        data.draw(0)


def test_sides_that_the_network_cannot_halve_are_refused(folder: Path) -> None:
    data = batches(folder)
    with pytest.raises(TrainingError, match="multiples of 16"):
        LatentBatches(
            data.found, Encoder(encode=Blocks(), name="b", reduction=16), data.store, size=1, seed=0
        )


def test_metadata_counts_what_a_round_sees(folder: Path) -> None:
    told = batches(folder, repeats=3).metadata()
    assert told["ss_num_train_images"] == "18"
    assert '"number 0": 3' in told["ss_tag_frequency"]
    assert '"a": 18' in told["ss_tag_frequency"]
    assert all(name.startswith("ss_") and isinstance(value, str) for name, value in told.items())


def test_masks_are_averaged_over_the_pixels_of_a_latent() -> None:
    mask = Image.new("L", (16, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    assert torch.equal(mask_weights(mask, 8), torch.tensor([[[0.5, 0.0]]]))


def test_a_frame_takes_the_corner_it_is_given() -> None:
    from sfumato.train.buckets import Fit

    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 6))
    fit = Fit(resized=(6, 2), bucket=(4, 2))
    assert np.array_equal(np.asarray(frame(image, fit, (1, 0), flip=False)), [[1, 2, 3, 4], [7, 8, 9, 10]])
    assert np.array_equal(np.asarray(frame(image, fit, (2, 0), flip=True)), [[5, 4, 3, 2], [11, 10, 9, 8]])


def test_an_autoencoder_gives_the_latents_that_the_packed_trainer_makes(folder: Path, tmp_path: Path) -> None:
    vae = AutoencoderKL(VAEConfig(channels=(8, 8, 8, 8), res_blocks=1, groups=4, scale_factor=0.3)).eval()
    squares = tmp_path / "squares"
    squares.mkdir()
    for number in range(3):
        picture(squares / f"{number}.png", number)
    packed = open_pictures(squares)
    wanted = cached_latents(vae, packed, tmp_path / "packed", "0" * 64)
    config = PicturesConfig(source=squares, resolution=64)
    opening = open_latents(config, vae_encoder(vae, "0"), tmp_path / "cache", size=1, seed=0)
    try:
        while True:
            assert isinstance(next(opening), Scanned)
    except StopIteration as end:
        data = end.value
    for number in range(3):
        batch = data.draw(number)
        # Rounded to float16: half a unit in its 11th digit, of values below 4.
        torch.testing.assert_close(batch.latents[0], wanted[batch.rows[0]], atol=2**-9, rtol=2**-11)
