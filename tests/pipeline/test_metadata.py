import json
import math
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sd_parsers.parsers import AUTOMATIC1111Parser

from sfumato.errors import RequestError
from sfumato.pipeline import infotext, metadata
from sfumato.types import (
    MAX_SEED,
    Canvas,
    Hires,
    Levels,
    Mask,
    ModelChoice,
    Outpaint,
    Prompt,
    Refiner,
    Request,
    Sampling,
    SoftInpainting,
    Solver,
    Source,
    Variation,
    field_types,
)

PICTURE = Path("picture.png")  # never opened

EXAMPLE = """a photo of a cat, (fluffy:1.2) <lora:fur:0.8>
Negative prompt: blurry, [grain]
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 965400086, Size: 512x512, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.5, Clip skip: 2, \
Hires upscale: 2, Hires upscaler: Latent, Lora hashes: "fur: 0123456789ab", Version: v1.10.1"""

texts = st.text(st.characters(), max_size=40) | st.sampled_from(
    [
        "a, (b:1.2)\nc",
        " leading and trailing ",
        "Negative prompt: x",
        "a\nNegative prompt: b\nc",
        "\n\nempty lines\n\n",
        "carriage\r\nreturn",
        "Steps: 1, Sampler: a, Seed: 3",
        "nul\0 \ud800 \u2028 \x85 \x1b[31m",
        "512x512",
        '"quoted"',
        "👩‍👩‍👧 é ﷽",
    ]
)
names = (
    st.none()
    | st.text(st.characters(), min_size=1, max_size=12)
    | st.sampled_from(["8x8", 'a"b', '"a', "a,b"])
)


def some(**fields_: Any) -> Any:
    """Some of these fields, each from its strategy; the others keep their defaults."""
    return st.fixed_dictionaries({}, optional=fields_)


def literals(part: type, name: str) -> Any:
    return st.sampled_from(get_args(field_types(part)[name]))


def number(low: float, high: float) -> Any:
    return st.floats(low, high) | st.integers(math.ceil(low), int(high)).map(float)


seeds = st.integers(0, MAX_SEED)
sides = st.integers(1, 200).map(lambda n: 8 * n)
flags = st.booleans()
upto = st.integers(0, 500)
PARTS: dict[str, Any] = {  # what has no effect is not written: each strategy keeps to what has
    "prompt": st.builds(
        Prompt,
        text=texts,
        negative=texts,
        clip_skip=st.integers(1, 12),
        emphasis=literals(Prompt, "emphasis"),
    ),
    "sampling": some(
        sampler=st.sampled_from(["DPM++ 2M", "Euler a", "DDIM"]),
        schedule=st.sampled_from(["Automatic", "Karras"]),
        steps=st.integers(1, 1000),
        guidance=number(0, 100),
        guidance_rescale=number(0, 1),
        image_guidance=number(0, 100),
        negative_min_sigma=number(0, 100),
        skip_early_guidance=number(0, 1),
    ).map(lambda values: Sampling(**values)),
    "solver": some(
        eta=number(0, 1),
        s_churn=number(0, 1000),
        s_tmin=number(0, 1000),
        s_tmax=number(0, 1e9),
        s_noise=number(0, 1000),
        unipc_variant=literals(Solver, "unipc_variant"),
        unipc_skip=literals(Solver, "unipc_skip"),
        unipc_order=st.integers(1, 50),
        unipc_lower_order_final=flags,
    ).map(lambda values: Solver(**values)),
    "levels": some(
        sigma_min=number(1e-4, 1),
        sigma_max=number(2, 1e4),
        rho=number(1e-4, 1e4),
        beta_alpha=number(0.01, 10),
        beta_beta=number(0.01, 10),
        discard_penultimate=flags,
    ).map(lambda values: Levels(**values)),
    "canvas": st.builds(
        Canvas,
        width=sides,
        height=sides,
        seed=seeds,
        noise_source=literals(Canvas, "noise_source"),
        tiling=flags,
    ),
    "variation": st.builds(
        Variation, seed=seeds, strength=number(0, 1), from_width=upto, from_height=upto, seed_delta=seeds
    ).map(lambda part: part if part.strength else replace(part, seed=-1)),
    "model": st.builds(
        ModelChoice, checkpoint=names, vae=names, prediction=st.sampled_from([None, "eps", "v"])
    ),
    "refiner": st.just(Refiner())
    | st.builds(
        Refiner,
        checkpoint=names.filter(bool),
        switch_at=number(0.01, 1),
        passes=literals(Refiner, "passes"),
    ),
    "source": st.just(Source())
    | st.builds(
        Source,
        image=st.just(PICTURE),
        resize_mode=literals(Source, "resize_mode"),
        denoising_strength=number(0, 1),
        exact_steps=flags,
        noise_multiplier=number(0, 2),
        extra_noise=number(0, 1),
        color_correction=flags,
        background=st.from_regex("#[0-9a-fA-F]{6}", fullmatch=True),
        depth=st.none() | st.just(PICTURE),
    ),
    "mask": st.just(Mask())
    | st.builds(
        Mask,
        image=st.just(PICTURE),
        invert=flags,
        blur_x=upto,
        blur_y=upto,
        area=literals(Mask, "area"),
        padding=upto,
        content=literals(Mask, "content"),
        round=flags,
        conditioning_weight=number(0, 1),
        overlay=flags,
    ),
    "soft": st.just(SoftInpainting())
    | some(
        schedule_bias=number(0, 8),
        preservation_strength=number(0, 8),
        contrast_boost=number(1, 32),
        mask_influence=number(0, 1),
        difference_threshold=number(0, 8),
        difference_contrast=number(0, 8),
    ).map(lambda values: SoftInpainting(enabled=True, **values)),
    "outpaint": st.just(Outpaint())
    | st.builds(
        Outpaint,
        left=upto.map(lambda n: n + 1),
        right=upto,
        up=upto,
        down=upto,
        mask_blur=st.integers(0, 64),
        falloff=number(0, 4),
        color_variation=number(0, 1),
    ),
    "hires": st.just(Hires())
    | st.builds(
        Hires,
        enabled=st.just(True),
        scale=number(1, 8),
        width=st.just(0) | upto,
        height=st.just(0) | upto,
        upscaler=names.filter(bool),
        steps=st.integers(0, 1000),
        denoising_strength=number(0, 1),
        sampler=st.none() | st.sampled_from(["Euler", "DPM++ 2M"]),
        schedule=st.none() | st.sampled_from(["Automatic", "Karras"]),
        checkpoint=names,
        prompt=texts,
        negative=texts,
    ).map(lambda part: replace(part, scale=2.0) if part.width or part.height else part),
}
requests = st.builds(Request, **PARTS)


@given(requests)
def test_every_request_comes_back_equal_but_for_its_pictures(request_: Request) -> None:
    without = replace(
        request_,
        source=replace(request_.source, image=None, depth=None),
        mask=replace(request_.mask, image=None),
    )
    assert metadata.read(metadata.write(request_)) == without


@given(requests)
def test_infotext_can_be_encoded_everywhere(request_: Request) -> None:
    text = metadata.write(request_)
    assert text == text.strip()
    assert "\0" not in text
    text.encode("utf-8")
    text.encode("utf-16-be")


def test_every_field_of_a_request_has_a_place() -> None:
    parts = {part.name: part.default_factory() for part in fields(Request)}  # type: ignore[misc]
    assert all(is_dataclass(part) for part in parts.values())
    named = {f"{name}.{row.name}" for name, part in parts.items() for row in fields(part)}
    assert named == set(metadata.KEYS)


def test_parameters_stand_in_the_fixed_order() -> None:
    request = Request(
        prompt=Prompt(text="a cat", negative="blurry", clip_skip=2, emphasis="No norm"),
        sampling=Sampling(schedule="Karras", guidance=7.5, guidance_rescale=0.25),
        solver=Solver(eta=0.5),
        canvas=Canvas(width=512, height=768, seed=965400086),
        model=ModelChoice(checkpoint="v1-5", vae="ema, new"),
    )
    text = metadata.write(request, model_hash="6ce0161689b3" * 5, vae_hash="0123456789abcdef")
    head, _, version = text.rpartition(", Version: ")
    assert head == (
        "a cat\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, "
        'Size: 512x768, Model hash: 6ce0161689, Model: v1-5, VAE hash: 0123456789, VAE: "ema, new", '
        "Clip skip: 2, RNG: NV, Emphasis: No norm, "
        "Eta: 0.5, CFG rescale: 0.25"
    )
    assert version.startswith("Sfumato ")


def test_what_the_caller_hands_in_has_its_place() -> None:
    extra = [("Lora hashes", "fur: 01"), ("Script", "X/Y/Z plot"), ("Init image hash", "ab"), ("User", "me")]
    request = Request(canvas=Canvas(width=64, height=64, seed=1), prompt=Prompt(emphasis="Ignore"))
    line = metadata.write(request, model_hash="0" * 64, extra=[*extra, ("Seed", 2), ("X Type", None)])
    keys = [part.split(":")[0] for part in line.split(", ")]
    assert line.split(", ")[4] == "Seed: 2"
    assert keys[5:] == [
        "Size", "Model hash", "Init image hash", "RNG", "Lora hashes", "Emphasis", "Script", "Version",
        "User",
    ]  # fmt: skip


def test_the_published_example_is_read_whole() -> None:
    info = infotext.parse(EXAMPLE)
    assert info.prompt == "a photo of a cat, (fluffy:1.2) <lora:fur:0.8>"
    assert info.negative == "blurry, [grain]"
    assert info.fields["Lora hashes"] == "fur: 0123456789ab"
    assert (info.fields["Size-1"], info.fields["Size-2"]) == ("512", "512")
    assert metadata.read(EXAMPLE) == Request(
        prompt=Prompt(text=info.prompt, negative=info.negative, clip_skip=2),
        sampling=Sampling(schedule="Karras"),
        canvas=Canvas(width=512, height=512, seed=965400086),
        model=ModelChoice(checkpoint="v1-5-pruned-emaonly"),
        hires=Hires(enabled=True, denoising_strength=0.5),
    )


def test_layout_reproduces_the_published_example_to_the_byte() -> None:
    info = infotext.parse(EXAMPLE)
    pairs = [
        (key.removesuffix("-1"), info.text(key.removesuffix("-1"))) for key in info.fields if key != "Size-2"
    ]
    assert infotext.layout(info.prompt, info.negative, pairs) == EXAMPLE


@pytest.mark.parametrize(
    ("last", "is_prompt"),
    [
        ("Steps: 20, Sampler: Euler", True),
        ("Steps: 20, Sampler: Euler, Seed: 1", False),
        ("a: 1, b: 2, c: 3", True),
    ],
)
def test_three_matches_make_a_parameter_line(last: str, is_prompt: bool) -> None:
    info = infotext.parse(f"cat\n{last}")
    assert info.prompt == (f"cat\n{last}" if is_prompt else "cat")
    assert bool(info.fields) != is_prompt


def test_all_lines_from_the_negative_prompt_on_are_negative() -> None:
    info = infotext.parse(" a \n\nb\nNegative prompt: c\nd\nSteps: 1, Seed: 2, Sampler: x")
    assert (info.prompt, info.negative) == ("a\n\nb", "c\nd")


@pytest.mark.parametrize("value", ["a, b", "a: b", "a\nb", 'say "x", now', "é: ü", "back\\slash, x"])
def test_values_with_separators_are_json(value: str) -> None:
    line = infotext.layout("", "", [("Steps", 1), ("Seed", 2), ("Model", value)])
    assert line == f"Steps: 1, Seed: 2, Model: {json.dumps(value, ensure_ascii=False)}"
    assert infotext.parse(line).text("Model") == value


def test_broken_quotes_stay_as_they_are() -> None:
    info = infotext.parse(r'Steps: 1, Seed: 2, Model: "a\q", VAE: "open, RNG: "x" y')
    assert info.text("Model") == r'"a\q"'
    assert info.text("VAE") == '"open'
    assert info.text("RNG") == '"x" y'


def test_an_edited_prompt_wins_over_the_exact_one() -> None:
    text = metadata.write(Request(prompt=Prompt(text=" a cat ")))
    assert metadata.read(text).prompt.text == " a cat "
    assert metadata.read(text.replace("a cat \n", "a dog\n")).prompt.text == "a dog"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("Steps: 10^9, Sampler: a, Seed: 1", "Steps"),
        ("Steps: 1000000000, Sampler: a, Seed: 1", "steps"),
        ("Steps: 1, Sampler: a, Seed: " + "9" * 5000, "Seed"),
        ("Steps: 1, Sampler: a, CFG scale: nan", "guidance"),
        ("Steps: 1, Sampler: a, CFG scale: x", "CFG scale"),
        ("Steps: 1, Sampler: a, Size: 99999x8", "width"),
        ("Steps: 1, Sampler: a, Emphasis: <b>", "emphasis"),
    ],
)
def test_values_are_validated_again(line: str, named: str) -> None:
    with pytest.raises(RequestError, match=named) as caught:
        metadata.read(line)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        " ",
        'aa:"',
        'aa:"\\',
        "aa:",
        "a:",
        '"',
        "\\",
        "- /",
        "a, ",
        "1x1,a1: 1x1, ",
        "Negative prompt:",
        "\n",
    ],
)
def test_two_megabytes_of_anything_are_parsed(unit: str) -> None:  # quadratic time would take hours
    infotext.parse(unit * (2_000_000 // len(unit)))


def test_text_beyond_the_limit_is_refused() -> None:
    with pytest.raises(RequestError, match="at most"):
        infotext.parse("a" * (infotext.MAX_CHARS + 1))


def test_sd_parsers_reads_it_too() -> None:
    request = Request(
        prompt=Prompt(text="a cat, (red:1.2)", negative="blurry", clip_skip=2),
        sampling=Sampling(schedule="Karras"),
        solver=Solver(eta=0.5),
        canvas=Canvas(width=512, height=768, seed=7),
        model=ModelChoice(checkpoint="v1-5"),
    )
    info = AUTOMATIC1111Parser().parse({"parameters": metadata.write(request, model_hash="6ce0161689b3")})
    (sampler,) = info.samplers
    assert (sampler.name, sampler.parameters["scheduler"]) == ("DPM++ 2M", "Karras")
    assert [(sampler.parameters[key]) for key in ("steps", "cfg_scale", "seed")] == ["20", "7", "7"]
    assert sampler.model is not None
    assert (sampler.model.name, sampler.model.hash) == ("v1-5", "6ce0161689")
    assert [prompt.value for prompt in sampler.prompts] == ["a cat, (red:1.2)"]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blurry"]
