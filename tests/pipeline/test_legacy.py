import pytest

from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import SCHEDULES
from sfumato.pipeline import legacy, metadata
from sfumato.types import Hires, Sampling


def line(*parameters: str) -> str:
    return ", ".join(("Steps: 20", "Seed: 1", *parameters))


def test_every_schedule_may_stand_behind_a_sampler() -> None:
    assert set(SCHEDULES) - {"Automatic"} <= set(legacy.SCHEDULES)


@pytest.mark.parametrize("schedule", legacy.SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_old_names_carry_their_schedule(sampler: str, schedule: str) -> None:
    sampling = metadata.read(line(f"Sampler: {sampler} {schedule}")).sampling
    assert (sampling.sampler, sampling.schedule) == (sampler, schedule)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_names_of_today_stay(sampler: str) -> None:
    assert metadata.read(line(f"Sampler: {sampler}")).sampling == Sampling(sampler=sampler)


@pytest.mark.parametrize(
    ("version", "schedule"),
    [
        ("v1.5.1", "Uniform"),
        ("v1.8.0-RC", "Uniform"),
        ("v1.9.0", "Automatic"),
        ("v1.10.1", "Automatic"),
        ("f2.0.1v1.10.1", "Automatic"),
        ("ComfyUI", "Automatic"),
    ],
)
def test_before_schedules_a_sampler_had_the_models_own(version: str, schedule: str) -> None:
    text = line("Sampler: DPM++ 2M", f"Version: {version}")
    assert metadata.read(text).sampling.schedule == schedule


@pytest.mark.parametrize(
    ("old", "first", "end"),
    [
        ("Size: 1024x768, First pass size: 512x384", (512, 384), (1024, 768)),
        ("Size: 1024x1024, First pass size: 0x0", (512, 512), (1024, 1024)),
        ("Size: 1280x720, First pass size: 0x0", (704, 384), (1280, 720)),
    ],
)
def test_the_old_second_pass_is_understood(old: str, first: tuple[int, int], end: tuple[int, int]) -> None:
    request = metadata.read(line("Sampler: Euler a", old, "Denoising strength: 0.6"))
    assert (request.canvas.width, request.canvas.height) == first
    width, height = end
    assert request.hires == Hires(enabled=True, width=width, height=height, denoising_strength=0.6)


def test_both_spellings_of_the_beta_schedule_are_read() -> None:
    levels = metadata.read(
        line("Sampler: Euler", "Beta scheduler alpha: 0.5, Beta schedule beta: 0.7")
    ).levels
    assert (levels.beta_alpha, levels.beta_beta) == (0.5, 0.7)


def test_the_devices_noise_is_read_as_what_most_devices_draw() -> None:
    by_web_ui = line("Sampler: Euler", "RNG: GPU", "Version: v1.10.1")
    by_us = line("Sampler: Euler", "RNG: GPU", "Version: Sfumato 0.1.0")
    assert metadata.read(by_web_ui).canvas.noise_source == "philox"
    assert metadata.read(by_us).canvas.noise_source == "device"
