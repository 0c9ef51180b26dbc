from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import SCHEDULES
from sfumato.errors import OutOfMemoryError, RequestError, WeightsError
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.pipeline import memory, metadata
from sfumato.pipeline.generate import decode, generate, prepare
from sfumato.pipeline.models import Models, load_models
from sfumato.types import MAX_SEED, Canvas, ModelChoice, Prompt, Request, Result, Sampling, StepInfo


@pytest.fixture(scope="module")
def models(tiny_checkpoint: Path) -> Models:
    choice = ModelChoice(checkpoint=str(tiny_checkpoint))
    return load_models(choice, tiny_checkpoint.parent, device="cpu", dtype="float32")


def request(**canvas: object) -> Request:
    return Request(
        prompt=Prompt(text="a cat", negative="blurry"),
        sampling=Sampling(steps=3),
        canvas=Canvas(**({"seed": 7, "width": 32, "height": 24} | canvas)),  # type: ignore[arg-type]
    )


def results(request: Request, models: Models) -> list[Result]:
    return [event for event in generate(request, models) if isinstance(event, Result)]


def test_steps_are_told_before_pictures(models: Models) -> None:
    events = list(generate(request(batch_size=2, batch_count=2), models))
    kinds = [(each.batch, each.step) if isinstance(each, StepInfo) else each.index for each in events]
    assert kinds == [(1, 1), (1, 2), (1, 3), 0, 1, (2, 1), (2, 2), (2, 3), 2, 3]
    for each in events:
        if isinstance(each, StepInfo):
            assert each.latents.shape == (2, 4, 3, 4)
            assert (each.steps, each.batches) == (3, 2)


def test_nothing_is_computed_that_nobody_waits_for(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(models.checkpoint.unet, "forward", lambda x, *args: calls.append(1) or x)
    for step in generate(request(), models):
        if isinstance(step, StepInfo) and step.step == 2:
            break
    assert len(calls) == 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_makes_a_picture_that_tells_how(models: Models, sampler: str) -> None:
    asked = replace(request(), sampling=Sampling(sampler=sampler, steps=2))
    (result,) = results(asked, models)
    assert result.image.size == (32, 24)
    assert metadata.read(result.infotext) == result.request
    assert result.request.sampling.schedule == SAMPLERS[sampler].default_schedule
    assert result.request.model == ModelChoice(checkpoint="tiny")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_of_a_batch_is_the_one_made_alone(models: Models, sampler: str) -> None:
    asked = replace(request(batch_size=3), sampling=Sampling(sampler=sampler, steps=3))
    for result in results(asked, models):
        (alone,) = results(result.request, models)
        assert alone.request == result.request
        difference = np.asarray(alone.image).astype(int) - np.asarray(result.image)
        assert np.abs(difference).max() <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(models: Models) -> None:
    first, again, other = (results(request(seed=seed), models)[0].image.tobytes() for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "change",
    [
        {"text": "a dog"},
        {"negative": ""},
        {"clip_skip": 2},
        {"text": "(a cat:1.5)"},
        {"text": "a cat AND a dog"},
        {"text": "[a cat:a dog:1]"},
        {"text": "a cat " * 80},
    ],
)
def test_what_is_asked_for_reaches_the_picture(models: Models, change: dict[str, object]) -> None:
    plain = request()
    changed = replace(plain, prompt=replace(plain.prompt, **change))
    pixels = [np.asarray(results(each, models)[0].image).astype(int) for each in (plain, changed)]
    assert np.abs(pixels[0] - pixels[1]).max() > 1


def test_the_negative_prompt_counts_for_nothing_without_guidance(models: Models) -> None:
    plain = replace(request(), sampling=Sampling(steps=2, guidance=1))
    other = replace(plain, prompt=replace(plain.prompt, negative="a dog"))
    assert results(plain, models)[0].image.tobytes() == results(other, models)[0].image.tobytes()


def test_open_choices_are_settled_once(models: Models) -> None:
    plan, _ = prepare(Request(), models)
    assert plan.request.canvas.width == plan.request.canvas.height == models.spec.native_size
    assert 0 <= plan.request.canvas.seed < 2**32
    assert plan.request.sampling.schedule in SCHEDULES
    plan, _ = prepare(Request(canvas=Canvas(seed=MAX_SEED, batch_count=2)), models)
    assert plan.seeds == (MAX_SEED, 0)


def test_a_checkpoint_that_wants_a_picture_is_refused(models: Models) -> None:
    spec = replace(models.spec, unet=replace(models.spec.unet, in_channels=9))
    other = replace(models, checkpoint=replace(models.checkpoint, spec=spec))
    with pytest.raises(RequestError, match="9 input channels"):
        prepare(Request(), other)


def test_what_does_not_fit_is_refused_before_the_first_step(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    with pytest.raises(OutOfMemoryError, match="1 MiB are free"):
        next(generate(request(), models))


class Decoder(AutoencoderKL):
    """Gives what the test says instead of a picture."""

    def __init__(self, config: VAEConfig, narrow: float, wide: float) -> None:
        super().__init__(config)
        self.values = {torch.float16: narrow, torch.float32: wide}

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        b, _, h, w = latents.shape
        value = self.values[latents.dtype]
        return torch.full((b, 3, 8 * h, 8 * w), value, dtype=latents.dtype)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-1, 0), (1, 255), (-7, 0), (7, 255), (0, 127), (254.99 / 127.5 - 1, 254), (1 / 127.5 - 1 + 1e-6, 1)],
)
def test_brightness_is_truncated(models: Models, value: float, expected: int) -> None:
    pixels = decode(torch.zeros(1, 4, 2, 3), Decoder(models.spec.vae, 0, value))
    assert pixels.shape == (1, 16, 24, 3)
    assert pixels.unique().tolist() == [expected]


@pytest.mark.parametrize("overflow", [float("inf"), float("nan")])
def test_a_decoder_that_overflows_is_run_again_in_float32(models: Models, overflow: float) -> None:
    vae = Decoder(models.spec.vae, overflow, 1).half()
    assert decode(torch.zeros(1, 4, 1, 1), vae).unique().tolist() == [255]
    assert next(vae.parameters()).dtype == torch.float16  # the caller's stays as it was


def test_values_that_are_no_numbers_never_become_a_picture(models: Models) -> None:
    vae = Decoder(models.spec.vae, float("nan"), float("nan"))
    with pytest.raises(WeightsError, match="autoencoder"):
        decode(torch.zeros(1, 4, 1, 1), vae.half())
    with pytest.raises(WeightsError, match="float32"):
        decode(torch.full((1, 4, 1, 1), float("nan")), vae)
