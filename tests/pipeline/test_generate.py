from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import SCHEDULES
from sfumato.errors import ModelNotFoundError, OutOfMemoryError, RequestError, WeightsError
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.pipeline import memory, metadata
from sfumato.pipeline.enlarge import LATENT_UPSCALERS
from sfumato.pipeline.generate import generate, prepare, until_enough
from sfumato.pipeline.latents import decode, encode
from sfumato.pipeline.models import Models
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import (
    MAX_SEED,
    Canvas,
    Hires,
    Mask,
    ModelChoice,
    Prompt,
    Request,
    Result,
    Sampling,
    SoftInpainting,
    Source,
    StepInfo,
)


@pytest.fixture(scope="module")
def shelf(tiny_checkpoint: Path) -> ModelShelf:
    return ModelShelf(tiny_checkpoint.parent, device="cpu", dtype="float32", default=str(tiny_checkpoint))


@pytest.fixture(scope="module")
def models(shelf: ModelShelf) -> Models:
    return shelf.load(ModelChoice())


def request(**canvas: object) -> Request:
    return Request(
        prompt=Prompt(text="a cat", negative="blurry"),
        sampling=Sampling(steps=3),
        canvas=Canvas(**({"seed": 7, "width": 32, "height": 24} | canvas)),  # type: ignore[arg-type]
    )


def results(request: Request, shelf: ModelShelf) -> list[Result]:
    return [event for event in generate(request, shelf) if isinstance(event, Result)]


def test_steps_are_told_before_pictures(shelf: ModelShelf) -> None:
    events = list(generate(request(batch_size=2, batch_count=2), shelf))
    kinds = [(each.batch, each.step) if isinstance(each, StepInfo) else each.index for each in events]
    assert kinds == [(1, 1), (1, 2), (1, 3), 0, 1, (2, 1), (2, 2), (2, 3), 2, 3]
    for each in events:
        if isinstance(each, StepInfo):
            assert each.latents.shape == (2, 4, 3, 4)
            assert (each.steps, each.batches) == (3, 2)


def test_nothing_is_computed_that_nobody_waits_for(
    shelf: ModelShelf, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(models.checkpoint.unet, "forward", lambda x, *args: calls.append(1) or x)
    for step in generate(request(), shelf):
        if isinstance(step, StepInfo) and step.step == 2:
            break
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("sampling", "rows"),
    [
        (Sampling(sampler="Euler", steps=4), [2, 2, 2, 2]),
        (Sampling(sampler="Euler", steps=4, guidance=1), [1, 1, 1, 1]),
        (Sampling(sampler="Euler", steps=4, skip_early_guidance=0.3), [1, 1, 2, 2]),
        (Sampling(sampler="Heun", steps=2, skip_early_guidance=0.3), [1, 1, 2]),
        (Sampling(sampler="Euler", steps=4, negative_min_sigma=2), [2, 2, 2, 1]),
        (Sampling(sampler="DDIM CFG++", steps=5, guidance=1), [2, 2, 2, 2]),
        (Sampling(sampler="DDIM CFG++", steps=5, guidance=12.5), [2, 2, 2, 2]),
    ],
)
def test_the_network_runs_no_more_prompts_than_the_arithmetic_needs(
    shelf: ModelShelf,
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    sampling: Sampling,
    rows: list[int],
) -> None:
    seen = []
    monkeypatch.setattr(models.checkpoint.unet, "forward", lambda x, *args: seen.append(len(x)) or x)
    results(replace(request(), sampling=sampling), shelf)
    assert seen == rows


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_makes_a_picture_that_tells_how(shelf: ModelShelf, sampler: str) -> None:
    asked = replace(request(), sampling=Sampling(sampler=sampler, steps=2))
    (result,) = results(asked, shelf)
    assert result.image.size == (32, 24)
    assert metadata.read(result.infotext) == result.request
    assert result.request.sampling.schedule == SAMPLERS[sampler].default_schedule
    assert result.request.model == ModelChoice(checkpoint="tiny")


# DPM adaptive chooses its steps by numbers whose rounding differs between batches. A random network shows it,
# a trained one does not. Its law with exactly rounded arithmetic is in tests/diffusion/test_samplers.py.
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not SAMPLERS[name].estimated])
def test_a_picture_of_a_batch_is_the_one_made_alone(shelf: ModelShelf, sampler: str) -> None:
    asked = replace(request(batch_size=3), sampling=Sampling(sampler=sampler, steps=3))
    for result in results(asked, shelf):
        (alone,) = results(result.request, shelf)
        assert alone.request == result.request
        difference = np.asarray(alone.image).astype(int) - np.asarray(result.image)
        assert np.abs(difference).max() <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(shelf: ModelShelf) -> None:
    first, again, other = (results(request(seed=seed), shelf)[0].image.tobytes() for seed in (7, 7, 8))
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
def test_what_is_asked_for_reaches_the_picture(shelf: ModelShelf, change: dict[str, object]) -> None:
    plain = request()
    changed = replace(plain, prompt=replace(plain.prompt, **change))
    pixels = [np.asarray(results(each, shelf)[0].image).astype(int) for each in (plain, changed)]
    assert np.abs(pixels[0] - pixels[1]).max() > 1


def test_the_negative_prompt_counts_for_nothing_without_guidance(shelf: ModelShelf) -> None:
    plain = replace(request(), sampling=Sampling(steps=2, guidance=1))
    other = replace(plain, prompt=replace(plain.prompt, negative="a dog"))
    assert results(plain, shelf)[0].image.tobytes() == results(other, shelf)[0].image.tobytes()


def test_open_choices_are_settled_once(shelf: ModelShelf, models: Models) -> None:
    plan = prepare(Request(), shelf)
    assert plan.request.canvas.width == plan.request.canvas.height == models.spec.native_size
    assert 0 <= plan.request.canvas.seed < 2**32
    assert plan.request.sampling.schedule in SCHEDULES
    plan = prepare(Request(canvas=Canvas(seed=MAX_SEED, batch_count=2)), shelf)
    assert [seed for seed, _ in plan.seeds] == [MAX_SEED, 0]


def test_a_checkpoint_of_unknown_inputs_is_refused(
    shelf: ModelShelf, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(models.spec, unet=replace(models.spec.unet, in_channels=7))
    other = replace(models, checkpoint=replace(models.checkpoint, spec=spec))
    monkeypatch.setattr(shelf, "load", lambda choice: other)
    with pytest.raises(RequestError, match="7 input channels"):
        prepare(Request(), shelf)


HIRES = Hires(enabled=True, scale=1.5, steps=4)


def test_a_second_pass_enlarges(shelf: ModelShelf) -> None:
    events = list(generate(replace(request(batch_size=2), hires=HIRES), shelf))
    steps = [(each.pass_, each.step, each.steps) for each in events if isinstance(each, StepInfo)]
    assert steps == [(1, 1, 3), (1, 2, 3), (1, 3, 3), *((2, k, 4) for k in range(1, 5))]
    shares = [each.share for each in events if isinstance(each, StepInfo)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert [each.image.size for each in events if isinstance(each, Result)] == [(48, 32), (48, 32)]


@pytest.mark.parametrize("upscaler", [*LATENT_UPSCALERS, "Lanczos", "Nearest"])
def test_every_upscaler_leads_to_another_picture(shelf: ModelShelf, upscaler: str) -> None:
    plain = replace(
        request(width=32, height=32), hires=Hires(enabled=True, denoising_strength=0, width=40, height=64)
    )
    other = replace(plain, hires=replace(plain.hires, upscaler=upscaler))
    (result,) = results(other, shelf)
    assert result.image.size == (40, 64)
    assert upscaler == "Latent" or result.image.tobytes() != results(plain, shelf)[0].image.tobytes()


def test_a_second_pass_without_noise_is_only_enlarged(shelf: ModelShelf) -> None:
    still = replace(request(), hires=replace(HIRES, denoising_strength=0))
    steps = [each for each in generate(still, shelf) if isinstance(each, StepInfo)]
    assert all(each.pass_ == 1 for each in steps)
    assert results(still, shelf)[0].image.size == (48, 32)


def test_the_second_pass_has_its_own_prompt_and_sampler(shelf: ModelShelf) -> None:
    plain = replace(request(), hires=HIRES)
    pictures = {results(plain, shelf)[0].image.tobytes()}
    for change in ({"prompt": "a dog"}, {"sampler": "Euler"}, {"schedule": "Simple"}, {"steps": 2}):
        pictures.add(results(replace(plain, hires=replace(HIRES, **change)), shelf)[0].image.tobytes())
    assert len(pictures) == 5


def test_an_unknown_upscaler_is_refused_before_the_first_step(shelf: ModelShelf) -> None:
    with pytest.raises(ModelNotFoundError, match="Lanczos"):
        next(generate(replace(request(), hires=replace(HIRES, upscaler="Lanczo")), shelf))


def source(width: int = 32, height: int = 24) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def changed(image: Image.Image | None = None, **of_source: object) -> Request:
    return replace(request(), source=Source(image=image or source(), **of_source))  # type: ignore[arg-type]


def test_a_source_gives_its_size(shelf: ModelShelf) -> None:
    asked = replace(changed(source(45, 37)), canvas=Canvas(seed=1))
    assert results(asked, shelf)[0].image.size == (40, 32)


@pytest.mark.parametrize(
    ("steps", "strength", "exact", "taken"),
    [(20, 0.75, False, 16), (20, 0.5, False, 11), (20, 1, False, 20), (20, 0, False, 1), (7, 0.3, True, 7)],
)
def test_the_strength_decides_how_many_steps_are_taken(
    shelf: ModelShelf, steps: int, strength: float, exact: bool, taken: int
) -> None:
    asked = replace(
        changed(denoising_strength=strength, exact_steps=exact),
        sampling=Sampling(sampler="Euler", steps=steps),
    )
    assert sum(isinstance(each, StepInfo) for each in generate(asked, shelf)) == taken


def test_no_strength_gives_the_source_back(shelf: ModelShelf, models: Models) -> None:
    asked = changed(denoising_strength=0, exact_steps=True)
    pixels = torch.from_numpy(np.array(source()))[None]
    assert np.array_equal(
        np.asarray(results(asked, shelf)[0].image), decode(encode(pixels, models.vae), models.vae)[0].numpy()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"denoising_strength": 0.4},
        {"resize_mode": "Crop and resize"},
        {"resize_mode": "Resize and fill"},
        {"resize_mode": "Just resize (latent upscale)"},
        {"noise_multiplier": 0.9},
        {"extra_noise": 0.2},
        {"color_correction": True},
        {"image": Image.new("RGB", (64, 40), "red")},
    ],
)
def test_every_choice_about_the_source_reaches_the_picture(
    shelf: ModelShelf, change: dict[str, object]
) -> None:
    plain = changed(source(64, 40))
    other = replace(plain, source=replace(plain.source, **change))
    assert results(plain, shelf)[0].image.tobytes() != results(other, shelf)[0].image.tobytes()


def test_a_source_of_a_batch_gives_the_picture_made_alone(shelf: ModelShelf) -> None:
    asked = changed()
    for result in results(replace(asked, canvas=replace(asked.canvas, batch_size=2)), shelf):
        (alone,) = results(result.request, shelf)
        assert np.abs(np.asarray(alone.image).astype(int) - np.asarray(result.image)).max() <= 1


def half(width: int = 32, height: int = 24) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask


def test_outside_the_mask_the_source_is_kept_bit_for_bit(shelf: ModelShelf) -> None:
    asked = replace(changed(), mask=Mask(image=half(), blur_x=0, blur_y=0))
    (result,) = results(asked, shelf)
    before, after = np.asarray(source()), np.asarray(result.image)
    assert np.array_equal(before[:, :16], after[:, :16])
    assert not np.array_equal(before[:, 16:], after[:, 16:])


@pytest.mark.parametrize(
    "change",
    [
        {"invert": True},
        {"blur_x": 0},
        {"blur_y": 30},
        {"area": "Only masked", "padding": 0},
        {"content": "fill"},
        {"content": "latent noise"},
        {"content": "latent nothing"},
        {"round": False},
        {"overlay": False},
    ],
)
def test_every_choice_about_the_mask_reaches_the_picture(
    shelf: ModelShelf, change: dict[str, object]
) -> None:
    mask = half()
    mask.paste(0, (0, 0, 32, 4))
    plain = replace(changed(), mask=Mask(image=mask))
    other = replace(plain, mask=replace(plain.mask, **change))
    assert results(plain, shelf)[0].image.tobytes() != results(other, shelf)[0].image.tobytes()


def test_a_soft_mask_makes_another_picture_of_the_same_size(shelf: ModelShelf) -> None:
    plain = replace(changed(), mask=Mask(image=half(), round=False))
    soft = replace(plain, soft=SoftInpainting(enabled=True))
    one, other = results(plain, shelf)[0].image, results(soft, shelf)[0].image
    assert one.size == other.size
    assert one.tobytes() != other.tobytes()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_keeps_what_is_masked_and_starts_from_a_source(shelf: ModelShelf, sampler: str) -> None:
    asked = replace(
        changed(), mask=Mask(image=half(), overlay=False), sampling=Sampling(sampler=sampler, steps=4)
    )
    kept = np.asarray(results(replace(asked, mask=replace(asked.mask, image=None)), shelf)[0].image)
    masked = np.asarray(results(asked, shelf)[0].image).astype(int)
    still = np.asarray(results(changed(denoising_strength=0, exact_steps=True), shelf)[0].image).astype(int)
    assert np.abs(masked - still)[:, :6].mean() < np.abs(kept.astype(int) - still)[:, :6].mean()


def test_parts_that_contradict_one_another_are_refused(shelf: ModelShelf) -> None:
    for asked, named in (
        (replace(request(), mask=Mask(invert=True)), "mask needs a source"),
        (replace(changed(), hires=HIRES), "second pass of text to image"),
    ):
        with pytest.raises(RequestError, match=named):
            next(generate(asked, shelf))


def test_what_does_not_fit_is_refused_before_the_first_step(
    shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**20)
    with pytest.raises(OutOfMemoryError, match="1 MiB are free"):
        next(generate(request(), shelf))


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


def stopped_at(
    request: Request, shelf: ModelShelf, step: int, pass_: int = 1
) -> tuple[StepInfo, list[Result]]:
    """The step at which it was said to be enough, and what came then."""
    last: list[StepInfo] = []
    made = []
    for event in until_enough(
        generate(request, shelf), lambda: bool(last) and (last[-1].pass_, last[-1].step) >= (pass_, step)
    ):
        if isinstance(event, Result):
            made.append(event)
        else:
            last.append(event)
    return last[-1], made


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "DDIM", "DPM adaptive"])
def test_what_is_enough_is_decoded_as_far_as_it_has_come(
    shelf: ModelShelf, models: Models, sampler: str
) -> None:
    asked = replace(request(batch_size=2, batch_count=3), sampling=Sampling(sampler=sampler, steps=6))
    step, made = stopped_at(asked, shelf, 2)
    assert (step.batch, step.step) == (1, 2)
    assert [each.index for each in made] == [0, 1]
    for latents, each in zip(step.latents, made, strict=True):
        pixels = decode(latents[None], models.vae)[0]
        assert np.array_equal(np.asarray(each.image), pixels.numpy())
        assert f"Interrupted: 2/{step.steps}" in each.infotext
        assert metadata.read(each.infotext) == each.request


def test_enough_at_the_last_step_is_a_whole_picture_and_the_last(shelf: ModelShelf) -> None:
    asked = request(batch_count=2)
    step, made = stopped_at(asked, shelf, 3)
    assert (step.batch, step.step) == (1, 3)
    whole = results(asked, shelf)[0]
    assert [each.infotext for each in made] == [whole.infotext]
    assert made[0].image.tobytes() == whole.image.tobytes()


@pytest.mark.parametrize(
    ("pass_", "step", "size", "cut"),
    [
        (1, 2, (32, 24), "2/3"),
        (1, 3, (32, 24), "first pass"),
        (2, 1, (64, 48), "1/3"),
    ],
)
def test_enough_in_either_of_two_passes_gives_that_pass_as_far_as_it_is(
    shelf: ModelShelf, pass_: int, step: int, size: tuple[int, int], cut: str
) -> None:
    asked = replace(request(), hires=Hires(enabled=True, scale=2, denoising_strength=1.0))
    last, (made,) = stopped_at(asked, shelf, step, pass_)
    assert (last.pass_, last.step) == (pass_, step)
    assert made.image.size == size
    assert f"Interrupted: {cut}," in made.infotext


def test_what_is_enough_stays_as_it_was_outside_a_mask(shelf: ModelShelf) -> None:
    source = Image.new("RGB", (32, 24), "red")
    mask = Image.new("L", (32, 24))
    mask.paste(255, (16, 0, 32, 24))
    asked = replace(
        request(),
        source=Source(image=source, denoising_strength=1.0),
        mask=Mask(image=mask, blur_x=0, blur_y=0),
    )
    _, (made,) = stopped_at(asked, shelf, 1)
    assert np.array_equal(np.asarray(made.image)[:, :16], np.asarray(source)[:, :16])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_while_sampling_is_told_in_words(
    shelf: ModelShelf, models: Models, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def forward(*_: object) -> None:
        raise error

    monkeypatch.setattr(models.checkpoint.unet, "forward", forward)
    with pytest.raises(
        OutOfMemoryError, match=r"32×24, 1 at once: memory ran out .*iB are free; choose"
    ) as told:
        results(request(), shelf)
    assert "\n" not in str(told.value)
    monkeypatch.setattr(models.checkpoint.unet, "forward", lambda *_: 1 / 0)  # any other error stays itself
    with pytest.raises(ZeroDivisionError):
        results(request(), shelf)
