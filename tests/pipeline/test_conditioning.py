import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.diffusion.guidance import Contexts
from sfumato.errors import PromptError
from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.pipeline import conditioning
from sfumato.pipeline.conditioning import PromptReader, Script, emphasise
from sfumato.text.tokenizer import END_ID, START_ID, Tokenizer
from sfumato.types import Prompt


@pytest.fixture(scope="module")
def encoder() -> CLIPText:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPText(CLIPTextConfig(width=8, layers=3, heads=2)).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


@pytest.fixture
def reader(encoder: CLIPText, tokenizer: Tokenizer) -> PromptReader:
    return PromptReader(encoder, tokenizer, END_ID)


def told(script: Script, call: int = 0) -> Contexts:
    return script.contexts if isinstance(script.contexts, Contexts) else script.contexts(call)


def context(reader: PromptReader, text: str, call: int = 0, calls: int = 10, **how: object) -> torch.Tensor:
    return told(reader.read(Prompt(text=text, **how), calls, 7.0), call).positive[0].context  # type: ignore[arg-type]


def encoded(encoder: CLIPText, ids: list[int], pad: int = END_ID, clip_skip: int = 1) -> torch.Tensor:
    row = [START_ID, *ids, END_ID]
    return encoder(torch.tensor([row + [pad] * (77 - len(row))]), clip_skip)


def test_a_plain_prompt_is_the_encoder_s_output(
    reader: PromptReader, encoder: CLIPText, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("a photo of a cat")
    assert torch.equal(context(reader, "a photo of a cat"), encoded(encoder, ids))
    assert torch.equal(context(reader, "a photo of a cat", clip_skip=2), encoded(encoder, ids, clip_skip=2))


def test_the_padding_is_the_checkpoint_s(encoder: CLIPText, tokenizer: Tokenizer) -> None:
    reader = PromptReader(encoder, tokenizer, 0)
    assert torch.equal(context(reader, "cat"), encoded(encoder, tokenizer.encode("cat"), pad=0))


def test_chunks_are_encoded_apart_and_laid_side_by_side(
    reader: PromptReader, encoder: CLIPText, tokenizer: Tokenizer
) -> None:
    parts = [encoded(encoder, tokenizer.encode(text)) for text in ("a cat", "a dog")]
    assert torch.equal(context(reader, "a cat BREAK a dog"), torch.cat(parts, 1))


def test_comments_are_not_read(reader: PromptReader) -> None:
    assert torch.equal(context(reader, "a cat # a dog\n"), context(reader, "a cat"))


@pytest.mark.parametrize(
    ("guidance", "text", "encodes"),
    [(7.0, "a", True), (1.0, "a", False), (1.0, "a AND b", True), (0.0, "a", True)],
)
def test_the_negative_prompt_is_read_where_it_counts(
    reader: PromptReader, guidance: float, text: str, encodes: bool
) -> None:
    script = reader.read(Prompt(text=text, negative="b"), 10, guidance)
    assert (told(script).negative is not None) == encodes
    assert script.prompts == len(told(script).positive) + encodes


def test_parts_keep_their_weights(reader: PromptReader) -> None:
    parts = told(reader.read(Prompt(text="a cat :1.2 AND a dog AND a hat :-0.5"), 10, 7)).positive
    assert [part.weight for part in parts] == [1.2, 1.0, -0.5]
    assert torch.equal(parts[0].context, context(reader, "a cat"))


def test_an_edited_prompt_changes_after_its_step(reader: PromptReader) -> None:
    before, after = context(reader, "a cat"), context(reader, "a dog")
    for call in range(10):
        expected = before if call < 4 else after
        assert torch.equal(context(reader, "a [cat:dog:4]", call), expected)
        assert torch.equal(context(reader, "a [cat:dog:0.4]", call), expected)


def test_alternation_takes_turns(reader: PromptReader) -> None:
    texts = [context(reader, text) for text in ("cat", "dog", "hat")]
    for call in range(10):
        assert torch.equal(context(reader, "[cat|dog|hat]", call), texts[call % 3])


def test_a_negative_prompt_can_be_edited_too(reader: PromptReader) -> None:
    script = reader.read(Prompt(text="a", negative="[cat:dog:1]"), 2, 7)
    negatives = [told(script, call).negative for call in range(2)]
    for found, text in zip(negatives, ("cat", "dog"), strict=True):
        assert found is not None
        assert torch.equal(found, context(reader, text))


def test_texts_of_one_timeline_are_of_one_length(reader: PromptReader) -> None:
    text = "[cat:dog BREAK hat:5]"
    assert {context(reader, text, call).shape for call in range(10)} == {(1, 154, 8)}


def test_what_was_encoded_is_remembered(reader: PromptReader, monkeypatch: pytest.MonkeyPatch) -> None:
    first = context(reader, "a cat")
    monkeypatch.setattr(reader, "encoder", None)
    assert context(reader, "a cat") is first


def test_only_so_much_is_remembered(reader: PromptReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditioning, "REMEMBERED", 3)
    for word in ("one", "two", "three", "four"):
        context(reader, word)
    assert len(reader._remembered) == 3


@pytest.mark.parametrize("tag", ["<lora:fur:0.8>", "<hypernet:x>"])
def test_networks_that_cannot_be_loaded_are_not_passed_over(reader: PromptReader, tag: str) -> None:
    with pytest.raises(PromptError, match=tag):
        context(reader, f"a cat {tag}")


states = torch.linspace(-1, 3, 2 * 5 * 4).view(2, 5, 4)
weights = torch.tensor([[1, 1.5, 1.5, 1, 1], [1, 1, 0.5, 1, 1]])
once = torch.ones(2)


def test_no_norm_is_a_factor_for_each_token() -> None:
    assert torch.equal(emphasise(states, weights, once, "No norm"), states * weights[:, :, None])


def test_original_restores_the_mean_over_everything() -> None:
    found = emphasise(states, weights, once, "Original")
    plain = states * weights[:, :, None]
    assert torch.allclose(found, plain * (states.mean() / plain.mean()))
    assert torch.allclose(found.mean(), states.mean())


def test_a_text_counts_as_often_as_it_stands_in_the_timeline() -> None:
    rows = torch.tensor([0, 1, 0])
    expected = emphasise(states[rows], weights[rows], torch.ones(3), "Original")
    found = emphasise(states, weights, torch.tensor([2.0, 1.0]), "Original")
    assert torch.allclose(found, expected[:2])


@pytest.mark.parametrize("mode", ["None", "Ignore"])
def test_none_and_ignore_weight_nothing(mode: str) -> None:
    assert emphasise(states, weights, once, mode) is states  # type: ignore[arg-type]


@given(st.floats(-10, 10, width=16))
def test_the_arithmetic_is_finite_and_keeps_the_dtype(weight: float) -> None:
    found = emphasise(states.bfloat16(), torch.full((2, 5), weight), once, "Original")
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_modes_differ_where_brackets_stand(reader: PromptReader) -> None:
    texts = {
        mode: context(reader, "a (cat:1.5)", emphasis=mode)
        for mode in ("Original", "No norm", "Ignore", "None")
    }
    assert torch.equal(texts["Ignore"], context(reader, "a cat"))
    assert len({round(float(each.abs().sum()), 3) for each in texts.values()}) == 4


def test_a_prompt_as_one_vector_is_the_state_at_its_end(
    reader: PromptReader, encoder: CLIPText, tokenizer: Tokenizer
) -> None:
    def end(text: str) -> torch.Tensor:
        ids = tokenizer.encode(text)
        return encoded(encoder, ids)[0, len(ids) + 1]

    assert torch.allclose(reader.pooled("a cat"), end("a cat"), atol=1e-6)  # float32
    assert torch.allclose(reader.pooled("a (cat:1.3) <lora:fur:1># x"), end("a cat"), atol=1e-6)
    assert torch.allclose(reader.pooled("[dog:a cat:0.5]"), end("a cat"), atol=1e-6)
    both = (end("a cat") + end("a dog")) / 2
    for text in ("a cat AND a dog", "a cat BREAK a dog"):
        assert torch.allclose(reader.pooled(text), both, atol=1e-6)
