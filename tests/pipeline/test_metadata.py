import json
from dataclasses import fields, is_dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sd_parsers.parsers import AUTOMATIC1111Parser

from sfumato.errors import RequestError
from sfumato.pipeline import metadata
from sfumato.types import MAX_SEED, Canvas, ModelChoice, Prompt, Request, Sampling, Solver

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
numbers = st.floats(0, 100) | st.integers(0, 30).map(float)
requests = st.builds(
    Request,
    prompt=st.builds(
        Prompt,
        text=texts,
        negative=texts,
        clip_skip=st.integers(1, 12),
        emphasis=st.sampled_from(["None", "Ignore", "Original", "No norm"]),
    ),
    sampling=st.builds(
        Sampling,
        sampler=st.sampled_from(["DPM++ 2M", "Euler a", "DDIM"]),
        schedule=st.sampled_from(["Automatic", "Karras"]),
        steps=st.integers(1, 1000),
        guidance=numbers,
        guidance_rescale=st.floats(0, 1),
        eta=st.none() | st.floats(0, 1),
    ),
    canvas=st.builds(
        Canvas,
        width=st.integers(1, 200).map(lambda n: 8 * n),
        height=st.integers(1, 200).map(lambda n: 8 * n),
        seed=st.integers(0, MAX_SEED),
        noise_source=st.sampled_from(["philox", "cpu"]),
    ),
    model=st.builds(ModelChoice, checkpoint=names, vae=names, prediction=st.sampled_from([None, "eps", "v"])),
)


@given(requests)
def test_every_request_comes_back_equal(request_: Request) -> None:
    assert metadata.read(metadata.write(request_)) == request_


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
        "Clip skip: 2, RNG: NV, "
        "Eta: 0.5, CFG rescale: 0.25, Emphasis: No norm"
    )
    assert version.startswith("Sfumato ")


def test_the_published_example_is_read_whole() -> None:
    info = metadata.parse(EXAMPLE)
    assert info.prompt == "a photo of a cat, (fluffy:1.2) <lora:fur:0.8>"
    assert info.negative == "blurry, [grain]"
    assert info.fields["Lora hashes"] == "fur: 0123456789ab"
    assert (info.fields["Size-1"], info.fields["Size-2"]) == ("512", "512")
    assert metadata.read(EXAMPLE) == Request(
        prompt=Prompt(text=info.prompt, negative=info.negative, clip_skip=2),
        sampling=Sampling(schedule="Karras"),
        canvas=Canvas(width=512, height=512, seed=965400086),
        model=ModelChoice(checkpoint="v1-5-pruned-emaonly"),
    )


def test_layout_reproduces_the_published_example_to_the_byte() -> None:
    info = metadata.parse(EXAMPLE)
    pairs = [
        (key.removesuffix("-1"), info.text(key.removesuffix("-1"))) for key in info.fields if key != "Size-2"
    ]
    assert metadata.layout(info.prompt, info.negative, pairs) == EXAMPLE


@pytest.mark.parametrize(
    ("last", "is_prompt"),
    [
        ("Steps: 20, Sampler: Euler", True),
        ("Steps: 20, Sampler: Euler, Seed: 1", False),
        ("a: 1, b: 2, c: 3", True),
    ],
)
def test_three_matches_make_a_parameter_line(last: str, is_prompt: bool) -> None:
    info = metadata.parse(f"cat\n{last}")
    assert info.prompt == (f"cat\n{last}" if is_prompt else "cat")
    assert bool(info.fields) != is_prompt


def test_all_lines_from_the_negative_prompt_on_are_negative() -> None:
    info = metadata.parse(" a \n\nb\nNegative prompt: c\nd\nSteps: 1, Seed: 2, Sampler: x")
    assert (info.prompt, info.negative) == ("a\n\nb", "c\nd")


@pytest.mark.parametrize("value", ["a, b", "a: b", "a\nb", 'say "x", now', "é: ü", "back\\slash, x"])
def test_values_with_separators_are_json(value: str) -> None:
    line = metadata.layout("", "", [("Steps", 1), ("Seed", 2), ("Model", value)])
    assert line == f"Steps: 1, Seed: 2, Model: {json.dumps(value, ensure_ascii=False)}"
    assert metadata.parse(line).text("Model") == value


def test_broken_quotes_stay_as_they_are() -> None:
    info = metadata.parse(r'Steps: 1, Seed: 2, Model: "a\q", VAE: "open, RNG: "x" y')
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
    metadata.parse(unit * (2_000_000 // len(unit)))


def test_text_beyond_the_limit_is_refused() -> None:
    with pytest.raises(RequestError, match="at most"):
        metadata.parse("a" * (metadata.MAX_CHARS + 1))


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
