"""Buckets against lists that are published, and against what defines them."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import TrainingError
from sfumato.train.buckets import Buckets, usual_buckets

SIDES = st.integers(1, 5000)
RESOLUTIONS = [64, 128, 256, 512, 640, 768, 1024]


def test_sizes_at_512_are_those_of_kohya() -> None:
    wide = [(832, 256), (896, 256), (960, 256), (1024, 256), (704, 320), (768, 320), (640, 384), (576, 448)]
    assert usual_buckets(512).sizes == tuple(sorted([(512, 512), *wide, *((h, w) for w, h in wide)]))


def test_sizes_at_1024_hold_those_that_sdxl_was_trained_on() -> None:
    published = [(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (1536, 640)]
    assert {*published, *((h, w) for w, h in published)} <= set(usual_buckets(1024).sizes)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_no_side_could_be_a_step_longer(resolution: int) -> None:
    buckets = usual_buckets(resolution)
    for width, height in buckets.sizes:
        assert width % buckets.step == height % buckets.step == 0
        assert buckets.smallest <= min(width, height) <= max(width, height) <= buckets.largest
        assert width * height <= resolution**2
        short = min(width, height)
        assert max(width, height) * (short + buckets.step) > resolution**2 or short == buckets.largest
    assert set(buckets.sizes) == {(height, width) for width, height in buckets.sizes}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize(("enabled", "upscale"), [(True, True), (True, False), (False, True)])
@given(width=SIDES, height=SIDES)
@settings(max_examples=30)
def test_every_picture_covers_its_bucket(
    resolution: int, enabled: bool, upscale: bool, width: int, height: int
) -> None:
    buckets = usual_buckets(resolution, enabled=enabled, upscale=upscale)
    fit = buckets.fit(width, height)
    assert all(side % buckets.step == 0 and side > 0 for side in fit.bucket)
    assert min(fit.room) >= 0
    assert 0 <= fit.lost < 1
    if upscale:
        assert fit.bucket in buckets.sizes
        assert min(fit.room) == 0  # it covers, and no more


@given(width=st.integers(200, 3000), height=st.integers(200, 3000))
def test_the_nearest_shape_is_chosen_and_kept(width: int, height: int) -> None:
    buckets = usual_buckets(512)
    fit = buckets.fit(width, height)
    errors = {size: abs(size[0] / size[1] - width / height) for size in buckets.sizes}
    assert errors[fit.bucket] == min(errors.values())
    # Sides are rounded to whole pixels, half a pixel of at least 256.
    assert math.isclose(fit.resized[0] / fit.resized[1], width / height, rel_tol=1 / 256)


@pytest.mark.parametrize(
    ("size", "resized", "bucket"),
    [
        ((512, 512), (512, 512), (512, 512)),
        ((1000, 1000), (512, 512), (512, 512)),
        ((1920, 1080), (683, 384), (640, 384)),  # 1.78 is nearer to 640/384 = 1.67 than to 704/320 = 2.2
        ((3000, 1000), (832, 277), (832, 256)),  # 3 lies 0.25 from 3.25, and 0.6 from 768/320
        ((1000, 3000), (277, 832), (256, 832)),
    ],
)
def test_examples(size: tuple[int, int], resized: tuple[int, int], bucket: tuple[int, int]) -> None:
    fit = usual_buckets(512).fit(*size)
    assert (fit.resized, fit.bucket) == (resized, bucket)


def test_without_upscaling_a_small_picture_keeps_its_size() -> None:
    buckets = usual_buckets(512, upscale=False)
    assert buckets.fit(300, 200).resized == (300, 200)
    assert buckets.fit(300, 200).bucket == (256, 192)
    assert buckets.fit(1024, 1024).bucket == (512, 512)
    # √(512²·4/3) = 591 wide, √(512²·3/4) = 443 high: 576 × 384, or the truer 512 × 384.
    assert buckets.fit(4000, 3000).resized == buckets.fit(4000, 3000).bucket == (512, 384)
    # 4/3.3: 564 and 465 give 512 × 384 (1.33) or 512 × 448 (1.14), of which the truer to 1.21 is kept whole.
    assert buckets.fit(4000, 3300).resized == (543, 448)
    assert buckets.fit(4000, 3300).bucket == (512, 448)


def test_no_bucket_is_narrower_than_may_be() -> None:
    buckets = Buckets(resolution=512, step=64, smallest=320, largest=2048)
    assert min(min(size) for size in buckets.sizes) == 320
    assert max(max(size) for size in buckets.sizes) == 768


def test_squares_alone() -> None:
    assert usual_buckets(512, enabled=False).sizes == ((512, 512),)


@pytest.mark.parametrize(
    ("resolution", "step", "smallest", "largest", "named"),
    [
        (512, 0, 256, 1024, "at least 1"),
        (512, 1024, 256, 2048, "larger than the resolution"),
        (512, 64, 768, 1024, "not between"),
        (512, 64, 256, 448, "not between"),
    ],
)
def test_limits_that_fit_nothing_are_refused(
    resolution: int, step: int, smallest: int, largest: int, named: str
) -> None:
    with pytest.raises(TrainingError, match=named):
        Buckets(resolution=resolution, step=step, smallest=smallest, largest=largest)


def test_a_resolution_too_small_to_divide_is_refused() -> None:
    with pytest.raises(TrainingError, match="64 or more"):
        usual_buckets(63)
