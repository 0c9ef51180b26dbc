from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.diffusion.guidance import Contexts, Part
from sfumato.errors import OutputError, RequestError
from sfumato.pipeline import infotext
from sfumato.pipeline.generate import generate
from sfumato.pipeline.scripts import interpolate, video
from sfumato.pipeline.scripts.interpolate import Way, blend
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, ModelChoice, Prompt, Request, Result, Sampling, Variation


def context(seed: int, chunks: int = 1) -> torch.Tensor:
    return torch.randn(1, 77 * chunks, 4, generator=torch.Generator().manual_seed(seed)).double()


EMPTY = context(0)


def test_contexts_go_along_a_straight_line_to_both_ends() -> None:
    a = Contexts(positive=(Part(context=context(1)),), negative=context(2))
    b = Contexts(positive=(Part(context=context(3)),), negative=context(4))
    for share in (0.0, 0.25, 1.0):
        between = blend(a, b, share, EMPTY)
        assert a.negative is not None
        assert b.negative is not None
        assert between.negative is not None
        for got, first, last in (
            (between.positive[0].context, a.positive[0].context, b.positive[0].context),
            (between.negative, a.negative, b.negative),
        ):
            assert torch.allclose(got, (1 - share) * first + share * last, atol=1e-12)  # double precision


def test_the_shorter_text_is_filled_up_with_empty_chunks() -> None:
    a = Contexts(positive=(Part(context=context(1)),), negative=None)
    b = Contexts(positive=(Part(context=context(2, chunks=3)),), negative=None)
    (part,) = blend(a, b, 0.5, EMPTY).positive
    filled = torch.cat([context(1), EMPTY, EMPTY], 1)
    assert torch.allclose(part.context, (filled + context(2, chunks=3)) / 2, atol=1e-12)


def test_a_part_of_one_prompt_only_fades_with_its_weight() -> None:
    a = Contexts(positive=(Part(context=context(1)),), negative=EMPTY)
    b = Contexts(positive=(Part(context=context(2)), Part(context=context(3), weight=0.8)), negative=EMPTY)
    weights = [[part.weight for part in blend(a, b, share, EMPTY).positive] for share in (0.0, 0.5, 1.0)]
    assert weights == [[1.0, 0.0], [1.0, 0.4], [1.0, 0.8]]
    assert torch.equal(blend(a, b, 0.5, EMPTY).positive[1].context, context(3))


@pytest.fixture
def shelf(tiny_checkpoint: Path) -> ModelShelf:
    return ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32")


def request(text: str = "a [red:blue:0.5] cat", seed: int = 3) -> Request:
    return Request(
        prompt=Prompt(text=text),
        canvas=Canvas(width=64, height=64, seed=seed),
        sampling=Sampling(steps=2),
        model=ModelChoice(checkpoint="tiny"),
    )


def frames(way: Way, asked: Request, shelf: ModelShelf) -> list[Result]:
    events: Iterator[object] = interpolate.run(way, asked, lambda each: partial(generate, shelf=each), shelf)
    return [event for event in events if isinstance(event, Result)]


def pixels(image: Image.Image) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(image).astype(int)


def test_frames_begin_and_end_with_the_pictures_of_the_ends(shelf: ModelShelf) -> None:
    made = frames(Way(frames=5, prompt="a dog AND a tree :0.5", seed=8), request(), shelf)
    ends = [
        next(e for e in generate(each, shelf) if isinstance(e, Result))
        for each in (
            request(),
            request("a dog AND a tree :0.5", seed=8),
        )
    ]
    assert [each.index for each in made] == list(range(5))
    for frame, end in ((made[0], ends[0]), (made[-1], ends[1])):
        assert np.abs(pixels(frame.image) - pixels(end.image)).max() <= 1  # the slerp rounds once more
    steps = [np.abs(pixels(a.image) - pixels(b.image)).mean() for a, b in pairwise(made)]
    assert min(steps) > 0


def test_a_frame_says_what_its_request_cannot(shelf: ModelShelf) -> None:
    made = frames(Way(frames=3, prompt="a dog"), request(), shelf)
    told = [infotext.parse(each.infotext) for each in made]
    assert [each.text("Blend share") for each in told] == [None, "0.5", "1"]
    assert told[1].text("Blend prompt") == "a dog"
    seeds = frames(Way(frames=3, seed=9), request(), shelf)
    assert infotext.parse(seeds[1].infotext).text("Variation seed strength") == "0.5"


def test_ways_that_cannot_be_gone_are_refused(shelf: ModelShelf) -> None:
    with pytest.raises(RequestError, match="nowhere"):
        Way()
    with pytest.raises(RequestError, match="frames=1"):
        Way(frames=1, seed=1)
    with pytest.raises(RequestError, match="held at once: 7,629"):
        Way(frames=9999, seed=1).check((256, 256))
    Way(frames=7629, seed=1).check((256, 256))
    for bad, named in (
        (replace(request(), canvas=Canvas(batch_count=2)), "one picture a frame"),
        (replace(request(), variation=Variation(strength=0.5)), "variation"),
    ):
        with pytest.raises(RequestError, match=named):
            frames(Way(seed=1), bad, shelf)


FRAMES = [Image.new("RGB", (64, 48), (80 * k, 255 - 80 * k, 128)) for k in range(4)]


@pytest.mark.parametrize("file_format", ["gif", "webp"])
def test_moving_pictures_hold_their_frames_and_speed(tmp_path: Path, file_format: str) -> None:
    path = video.save(FRAMES, 5, "told: é", tmp_path, file_format)
    with Image.open(path) as moving:
        assert moving.n_frames == len(FRAMES)  # type: ignore[attr-defined]
        assert moving.info["loop"] == 0
        for place, frame in enumerate(FRAMES):
            moving.seek(place)
            moving.load()
            assert moving.info["duration"] == 200
            assert np.abs(pixels(moving.convert("RGB")) - pixels(frame)).max() <= 4  # WebP is lossy


def test_a_film_holds_its_frames_and_speed(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(video.save(FRAMES, 5, "told", tmp_path, "mp4")) as film:
        made = [frame.to_image() for frame in film.decode(video=0)]
        assert film.metadata["comment"] == "told"
        assert film.streams.video[0].average_rate == 5
    assert len(made) == len(FRAMES)
    for got, wanted in zip(made, FRAMES, strict=True):
        assert np.abs(pixels(got) - pixels(wanted)).max() <= 8  # lossy, colours in another space


def test_films_that_cannot_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="gif, webp, mp4"):
        video.check("avi", 8)
    with pytest.raises(RequestError, match="fps=0"):
        video.check("gif", 0)
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install"):
        video.check("mp4", 8)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        video.save(FRAMES, 5, "", tmp_path / "file", "gif")


def test_the_way_back_leaves_the_ends_out() -> None:
    assert interpolate.there_and_back(list(range(4))) == [0, 1, 2, 3, 2, 1]  # type: ignore[arg-type, comparison-overlap]
