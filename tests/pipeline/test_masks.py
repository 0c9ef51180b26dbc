from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from sfumato.errors import OutputError
from sfumato.pipeline.masks import blur, fill, masked_box, overlay, prepare_mask, seen_where_changed
from sfumato.types import Mask, MaskedArea, MaskedContent, Picture


def photo(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def drawn(box: tuple[int, int, int, int] = (16, 16, 32, 32), size: tuple[int, int] = (64, 48)) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
    return mask


def mask(image: Picture, **fields: object) -> Mask:
    return Mask(image=image, **({"blur_x": 0, "blur_y": 0} | fields))  # type: ignore[arg-type]


AREAS: tuple[MaskedArea, ...] = ("Whole picture", "Only masked")


@pytest.mark.parametrize(("sigma_x", "sigma_y"), [(4, 4), (4, 0), (0, 7), (1, 20), (512, 512), (0, 0)])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (1, 9), (5, 1)])
def test_the_blur_is_a_cut_gaussian(sigma_x: int, sigma_y: int, size: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    expected = values.astype(np.float64)
    for axis, sigma in ((1, sigma_x), (0, sigma_y)):
        if sigma:
            reach = int(2.5 * sigma + 0.5)
            expected = ndimage.gaussian_filter1d(expected, sigma, axis, mode="mirror", radius=reach)
    off = np.abs(np.asarray(blur(Image.fromarray(values), sigma_x, sigma_y)) - expected)
    assert off.max() <= 0.51  # rounding to 8 bits


def test_the_blur_ends_where_its_kernel_does() -> None:
    row = np.asarray(blur(drawn((32, 0, 64, 48)), 4, 0))[0]
    assert row[32 - 11] == 0  # 2.5 · 4 + 0.5, rounded down: ten pixels
    assert row[32 - 10] > 0 or row[32 - 9] > 0


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("sigma", [0, 4])
def test_pixels_outside_the_blurred_mask_are_the_sources_own(
    area: MaskedArea, inverted: bool, sigma: int
) -> None:
    source, result, hole = photo(), photo(seed=1), drawn((14, 10, 46, 42))
    prepared = prepare_mask(
        mask(hole, area=area, padding=4, invert=inverted, blur_x=sigma, blur_y=sigma),
        source, 64, 48, "Just resize",
    )  # fmt: skip
    laid = np.asarray(overlay(result, prepared))
    shape = np.asarray(hole) if not inverted else 255 - np.asarray(hole)
    blurred = np.asarray(blur(Image.fromarray(shape), sigma, sigma))
    assert (laid == np.asarray(source))[blurred == 0].all()
    assert (blurred == 0).any()
    if area == "Whole picture":
        assert (laid == np.asarray(result))[blurred > 127].all()
    assert (laid != np.asarray(source))[blurred > 127].mean() > 0.5


@given(st.integers(0, 2**32 - 1), st.sampled_from(AREAS), st.integers(0, 12), st.integers(0, 40))
def test_whatever_the_mask_the_rest_is_the_source(
    seed: int, area: MaskedArea, sigma: int, padding: int
) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(1, 70, 2))
    grey = (rng.integers(0, 256, (height, width)) * (rng.random((height, width)) < 0.1)).astype(np.uint8)
    source = photo(width, height, seed)
    size = tuple(int(side) * 8 for side in rng.integers(1, 9, 2))
    prepared = prepare_mask(
        mask(Image.fromarray(grey), area=area, blur_x=sigma, blur_y=sigma, padding=padding),
        source, size[0], size[1], "Just resize",
    )  # fmt: skip
    assert prepared.picture.size == prepared.mask.size == size
    assert prepared.latent_mask.shape == (1, 1, size[1] // 8, size[0] // 8)
    laid = np.asarray(overlay(photo(*size, seed=seed ^ 1), prepared))
    assert (laid == np.asarray(prepared.base))[np.asarray(prepared.base_mask) == 0].all()
    if prepared.box is not None:
        assert laid.shape == (height, width, 3)


def test_the_whole_picture_is_seen_twice_as_far_as_the_mask() -> None:
    prepared = prepare_mask(mask(drawn(), blur_x=4, blur_y=4), photo(), 64, 48, "Just resize")
    blurred = np.asarray(prepared.mask).astype(int)
    assert np.array_equal(np.asarray(prepared.base_mask), np.minimum(2 * blurred, 255))


def test_only_masked_paints_the_box_alone_and_puts_it_back() -> None:
    source = photo(200, 100)
    prepared = prepare_mask(
        mask(drawn((50, 40, 70, 60), (200, 100)), area="Only masked", padding=6),
        source, 64, 64, "Just resize",
    )  # fmt: skip
    assert prepared.box == (44, 34, 76, 66)
    expected = source.crop(prepared.box).resize((64, 64), Image.Resampling.LANCZOS)
    assert prepared.picture.tobytes() == expected.tobytes()
    laid = overlay(Image.new("RGB", (64, 64), "red"), prepared)
    assert laid.size == (200, 100)
    red = (np.asarray(laid) == (255, 0, 0)).all(-1)
    assert np.array_equal(red, np.asarray(drawn((50, 40, 70, 60), (200, 100))) == 255)


def test_a_box_too_long_for_the_ratio_is_filled_and_cut_again() -> None:
    source = photo(80, 16)
    prepared = prepare_mask(
        mask(Image.new("L", (80, 16), 255), area="Only masked"), source, 40, 40, "Just resize"
    )
    assert prepared.box == (0, 0, 80, 16)
    filled = np.asarray(prepared.picture)
    assert (filled[:16] == filled[16]).all()  # 80×16 at half size is 8 rows in the middle of 40
    laid = overlay(prepared.picture, prepared)
    half = source.resize((40, 8), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(laid.resize((40, 8))).astype(int) - np.asarray(half)).mean() < 16


@given(st.integers(1, 90), st.integers(1, 90), st.data(), st.integers(0, 64), st.floats(0.1, 10))
def test_the_box_holds_the_mask_stays_inside_and_comes_near_the_ratio(
    width: int, height: int, data: st.DataObject, padding: int, ratio: float
) -> None:
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    box = masked_box(drawn((left, top, right, bottom), (width, height)), padding, ratio)
    assert 0 <= box[0] <= max(0, left - padding)
    assert min(width, right + padding) <= box[2] <= width
    assert 0 <= box[1] <= max(0, top - padding)
    assert min(height, bottom + padding) <= box[3] <= height
    wide, high = box[2] - box[0], box[3] - box[1]
    if wide < width and high < height:  # one pixel of rounding on either side
        assert (wide - 1) / (high + 1) <= ratio <= (wide + 1) / max(high - 1, 0.01) or min(wide, high) == 1


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("content", ["fill", "original", "latent noise", "latent nothing"])
def test_an_empty_mask_is_as_none(area: MaskedArea, content: MaskedContent) -> None:
    source = photo()
    prepared = prepare_mask(
        mask(Image.new("L", (64, 48)), area=area, content=content, blur_x=4, blur_y=4),
        source, 32, 24, "Just resize",
    )  # fmt: skip
    assert prepared.blank
    assert (prepared.latent_mask == 1).all()
    result = photo(32, 24, seed=1)
    assert overlay(result, prepared).tobytes() == result.tobytes()
    assert prepared.picture.tobytes() == source.resize((32, 24), Image.Resampling.LANCZOS).tobytes()


@pytest.mark.parametrize("area", AREAS)
def test_a_white_mask_changes_everything(area: MaskedArea) -> None:
    prepared = prepare_mask(mask(Image.new("L", (64, 48), 255), area=area), photo(), 64, 48, "Just resize")
    assert not prepared.blank
    assert (prepared.latent_mask == 1).all()
    result = photo(seed=1)
    assert overlay(result, prepared).tobytes() == result.tobytes()


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("size", [(1, 1), (7, 200), (300, 20)])
def test_a_mask_of_another_size_is_stretched_over_the_source(area: MaskedArea, size: tuple[int, int]) -> None:
    left = Image.new("L", size, 255)
    if size[0] > 1:
        left.paste(0, (size[0] // 2, 0, *size))
    prepared = prepare_mask(mask(left, area=area, padding=0), photo(), 64, 48, "Just resize")
    seen = np.asarray(prepared.base_mask)
    assert seen.shape == (48, 64)
    assert (seen[:, :20] == 255).all()
    assert (seen[:, 44:] == (255 if size[0] == 1 else 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_the_smallest_source_is_painted(size: tuple[int, int]) -> None:
    for area in AREAS:
        prepared = prepare_mask(
            mask(Image.new("L", size, 255), area=area, content="fill", blur_x=4, blur_y=4),
            photo(*size), 16, 8, "Resize and fill",
        )  # fmt: skip
        assert prepared.picture.size == (16, 8)
        assert overlay(photo(16, 8), prepared).size == (size if area == "Only masked" else (16, 8))


def test_alpha_counts_where_there_is_any_else_luminance() -> None:
    shape = drawn()
    transparent = Image.merge("RGBA", (*photo().split(), shape))
    opaque = Image.merge("RGB", (shape, shape, shape)).convert("RGBA")
    for image in (shape, transparent, opaque, shape.convert("1"), shape.convert("P")):
        prepared = prepare_mask(mask(image), photo(), 64, 48, "Just resize")
        assert np.array_equal(np.asarray(prepared.base_mask), np.asarray(shape))


@pytest.mark.parametrize(("rounded", "expected"), [(True, [0, 0, 255]), (False, [100, 128, 129])])
def test_alpha_is_rounded_unless_grey_stays(rounded: bool, expected: list[int]) -> None:
    grey = Image.fromarray(np.repeat(np.array([[100, 128, 129]], np.uint8), 8, 1))  # 24×1
    image = Image.merge("LA", (Image.new("L", grey.size), grey))
    prepared = prepare_mask(mask(image, round=rounded), photo(24, 1), 24, 8, "Just resize")
    assert np.asarray(prepared.mask)[0, [4, 12, 20]].tolist() == expected


def test_latents_are_masked_or_not_unless_grey_stays() -> None:
    left = drawn((0, 0, 36, 48))
    hard = prepare_mask(mask(left, blur_x=8), photo(), 64, 48, "Just resize").latent_mask
    soft = prepare_mask(mask(left, blur_x=8, round=False), photo(), 64, 48, "Just resize")
    assert hard.dtype == torch.float32
    assert sorted(hard.unique().tolist()) == [0, 1]
    assert ((soft.latent_mask > 0) & (soft.latent_mask < 1)).any()
    assert torch.equal(soft.latent_mask.round(), hard)


@pytest.mark.parametrize("mode", ["Crop and resize", "Resize and fill"])
def test_mask_and_source_are_resized_alike(mode: str) -> None:
    source = Image.merge("RGB", (drawn((10, 10, 50, 40)),) * 3)
    prepared = prepare_mask(mask(drawn((10, 10, 50, 40))), source, 40, 64, mode)  # type: ignore[arg-type]
    off = np.abs(np.asarray(prepared.mask).astype(int) - np.asarray(prepared.base.convert("L")))
    assert off.mean() < 3  # filters differ at the edges


def test_filling_needs_nothing_of_what_it_paints_over() -> None:
    shape = drawn((8, 8, 56, 40))
    one, other = photo(), photo()
    other.paste(Image.new("RGB", (64, 48), "lime"), mask=shape)
    filled = fill(one, shape)
    # the mean stands only where no blur reaches, so nothing of the masked pixels is left
    assert filled.tobytes() == fill(other, shape).tobytes()
    outside = np.asarray(shape) == 0
    assert (np.asarray(filled) == np.asarray(one))[outside].all()


def test_filling_continues_the_colours_at_the_edge() -> None:
    image = Image.new("RGB", (128, 64), (200, 30, 30))
    image.paste((30, 30, 200), (64, 0, 128, 64))
    image.paste((0, 255, 0), (16, 16, 112, 48))
    filled = np.asarray(fill(image, drawn((16, 16, 112, 48), (128, 64)))).astype(int)
    assert np.abs(filled[32, 18] - (200, 30, 30)).max() < 30
    assert np.abs(filled[32, 109] - (30, 30, 200)).max() < 30
    assert filled[..., 1].max() < 60


def test_filling_everything_gives_the_mean_colour() -> None:
    filled = fill(photo(), Image.new("L", (64, 48), 255))
    mean = np.asarray(photo()).mean((0, 1))
    assert np.abs(np.asarray(filled) - mean).max() <= 1


def test_without_overlay_the_result_is_seen_everywhere() -> None:
    result = photo(seed=1)
    prepared = prepare_mask(mask(drawn(), overlay=False), photo(), 64, 48, "Just resize")
    assert overlay(result, prepared).tobytes() == result.tobytes()
    boxed = prepare_mask(
        mask(drawn(), overlay=False, area="Only masked", padding=4), photo(), 64, 48, "Just resize"
    )
    assert boxed.box is not None
    laid = np.asarray(overlay(Image.new("RGB", (64, 48), "red"), boxed))
    left, top, right, bottom = boxed.box
    assert (laid[top:bottom, left:right] == (255, 0, 0)).all()
    assert (laid == (255, 0, 0)).all(-1).sum() == (right - left) * (bottom - top)


@pytest.mark.parametrize("area", AREAS)
def test_what_did_not_change_is_not_seen(area: MaskedArea) -> None:
    prepared = prepare_mask(mask(drawn(), area=area, blur_x=4, blur_y=4), photo(), 64, 48, "Just resize")
    result = photo(seed=1)
    for share, expected in ((0.0, photo()), (1.0, None)):
        changed = torch.full((6, 8), share)
        laid = np.asarray(overlay(result, seen_where_changed(prepared, changed)))
        if expected is not None:
            assert np.array_equal(laid, np.asarray(expected))
            continue
        outside = np.asarray(prepared.base_mask) == 0
        assert (laid == np.asarray(photo()))[outside].all()
        assert (laid != np.asarray(photo()))[~outside].mean() > 0.9


def test_a_mask_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_text("white")
    with pytest.raises(OutputError, match=r"mask\.png"):
        prepare_mask(mask(tmp_path / "mask.png"), photo(), 64, 48, "Just resize")


def test_mask_and_source_fill_a_box_alike() -> None:
    shape = drawn((0, 4, 40, 12), (80, 16))
    source = Image.merge("RGB", (shape,) * 3)
    prepared = prepare_mask(mask(shape, area="Only masked", padding=80), source, 40, 40, "Just resize")
    off = np.abs(np.asarray(prepared.mask).astype(int) - np.asarray(prepared.picture.convert("L")))
    assert off.mean() < 3  # filters differ at the edges
