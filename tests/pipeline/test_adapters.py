"""`<lora:…>` in a prompt: from the folder to the picture, and gone with the request."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.weights.adapters.conftest import kohya_lora

from sfumato.errors import ModelNotFoundError, PromptError, UnknownModelError
from sfumato.pipeline.generate import generate
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Hires, ModelChoice, Prompt, Request, Result, Sampling, StepInfo
from sfumato.weights.adapters.read import adapter_sha256
from sfumato.weights.files import write_safetensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.safetensors").symlink_to(tiny_checkpoint)
    (folder / "style").mkdir()
    write_safetensors(
        folder / "style" / "fur.safetensors", kohya_lora(seed=1), {"ss_output_name": "soft fur"}
    )
    write_safetensors(
        folder / "style" / "tiny.safetensors", kohya_lora(seed=2)
    )  # as the checkpoint is called
    wide = {"lora_unet_x_attn2_to_k.lora_down.weight": torch.ones(4, 2048)}
    wide["lora_unet_x_attn2_to_k.lora_up.weight"] = torch.ones(4, 4)
    write_safetensors(folder / "big.safetensors", wide)
    return folder


@pytest.fixture(scope="module")
def shelf(folder: Path) -> ModelShelf:
    return ModelShelf(folder, device="cpu", dtype="float32", default="tiny", paths=False)


def request(prompt: str, **more: object) -> Request:
    return Request(
        prompt=Prompt(text=prompt, negative="dull"),
        sampling=Sampling(steps=2, sampler="Euler"),
        canvas=Canvas(seed=1, width=32, height=32),
        **more,  # type: ignore[arg-type]
    )


def picture(shelf: ModelShelf, prompt: str, **more: object) -> Result:
    *_, result = generate(request(prompt, **more), shelf)
    assert isinstance(result, Result)
    return result


def pixels(shelf: ModelShelf, prompt: str) -> list[int]:
    return np.asarray(picture(shelf, prompt).image).ravel().tolist()


@pytest.mark.parametrize("tag", ["<lora:fur:0.8>", "<lyco:fur>", "<lora:style/fur:1>", "<lora:soft fur:-1>"])
def test_a_tag_changes_the_picture_and_is_gone_after_it(shelf: ModelShelf, tag: str) -> None:
    plain = pixels(shelf, "a cat")
    changed = pixels(shelf, f"a cat{tag}")
    assert changed != plain
    assert pixels(shelf, "a cat") == plain
    assert pixels(shelf, f"a cat{tag}") == changed


def test_both_parts_of_an_adapter_have_weights_of_their_own(shelf: ModelShelf) -> None:
    plain = pixels(shelf, "a cat")
    tags = ("<lora:fur:0.8>", "<lora:fur:0.8:0>", "<lora:fur:0:0.8>")
    pictures = [pixels(shelf, f"a cat{tag}") for tag in tags]
    assert len({tuple(each) for each in (*pictures, plain)}) == 4
    assert pixels(shelf, "a cat<lora:fur:unet=0.8:te=0>") == pictures[2]
    assert pixels(shelf, "a cat<lora:fur:0>") == plain
    assert pixels(shelf, "<lora:fur:0.8>a cat") == pictures[0]


def test_a_name_that_a_checkpoint_has_too_is_the_adapter_s(shelf: ModelShelf) -> None:
    assert pixels(shelf, "a cat<lora:tiny>") != pixels(shelf, "a cat")


def test_the_same_adapter_twice_counts_twice(shelf: ModelShelf) -> None:
    twice, double = (
        np.asarray(picture(shelf, f"a cat{tag}").image).astype(int)
        for tag in ("<lora:fur:0.4><lora:fur:0.4>", "<lora:fur:0.8>")
    )
    assert abs(twice - double).max() <= 1  # sums in another order, rounded to bytes


def test_two_requests_by_turns_do_not_see_each_other(shelf: ModelShelf) -> None:
    alone = [pixels(shelf, prompt) for prompt in ("a cat", "a cat<lora:fur:1>")]
    runs: list[Iterator[StepInfo | Result]] = [
        generate(request(prompt), shelf) for prompt in ("a cat", "a cat<lora:fur:1>")
    ]
    made: dict[int, list[int]] = {}
    while len(made) < 2:
        for number, run in enumerate(runs):
            event = next(run, None)
            if isinstance(event, Result):
                made[number] = np.asarray(event.image).ravel().tolist()
    assert [made[0], made[1]] == alone


def test_stopping_on_the_way_leaves_nothing_behind(shelf: ModelShelf) -> None:
    plain = pixels(shelf, "a cat")
    run = generate(request("a cat<lora:fur:1>"), shelf)
    next(run)
    del run
    assert pixels(shelf, "a cat") == plain


def test_the_hash_stands_in_the_picture(shelf: ModelShelf, folder: Path) -> None:
    digest = adapter_sha256(folder / "style" / "fur.safetensors")[:12]
    assert f'Lora hashes: "fur: {digest}"' in picture(shelf, "a cat<lora:soft fur:0.5>").infotext
    assert "Lora hashes" not in picture(shelf, "a cat").infotext


def test_keys_that_change_nothing_are_counted_in_the_picture(
    shelf: ModelShelf, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = {"lora_unet_nowhere.lora_down.weight": torch.ones(4, 8)}
    write_safetensors(folder / "odd.safetensors", kohya_lora() | strange)
    assert 'Lora keys unmatched: "odd: 1"' in picture(shelf, "a cat<lora:odd:1>").infotext
    assert "1 keys change nothing in this checkpoint: lora_unet_nowhere" in caplog.text
    assert "unmatched" not in picture(shelf, "a cat<lora:fur:1>").infotext


def test_what_is_merged_already_counts_as_room(shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    models = shelf.load(ModelChoice())
    picture(shelf, "a cat<lora:fur:1>")
    copied = models.adapted.copied_bytes + models.reader.adapted.copied_bytes
    assert copied > 0
    monkeypatch.setattr("sfumato.pipeline.adapters.memory", SimpleNamespace(available_bytes=lambda device: 0))
    assert "Lora method" not in picture(shelf, "a cat<lora:fur:0.5>").infotext
    picture(shelf, "a cat")
    assert models.adapted.copied_bytes == 0
    assert "Lora method" in picture(shelf, "a cat<lora:fur:0.5>").infotext


def test_the_second_pass_wears_what_its_own_prompt_says(shelf: ModelShelf) -> None:
    hires = Hires(enabled=True, scale=1.5, upscaler="Latent", steps=2, prompt="a cat<lora:tiny:1>")
    told = picture(shelf, "a cat<lora:fur:1>", hires=hires).infotext
    assert "fur: " in told.partition("Lora hashes")[2]
    assert "tiny: " in told.partition("Lora hashes")[2]


def test_a_tag_in_the_negative_prompt_is_text(shelf: ModelShelf) -> None:
    plain = request("a cat")
    *_, result = generate(replace(plain, prompt=replace(plain.prompt, negative="<lora:nothing:1>")), shelf)
    assert isinstance(result, Result)


def test_a_strength_may_change_on_the_way(shelf: ModelShelf) -> None:
    plain, whole = pixels(shelf, "a cat"), pixels(shelf, "a cat<lora:fur:0:1>")
    first, second = pixels(shelf, "a cat<lora:fur:0:1:stop=1>"), pixels(shelf, "a cat<lora:fur:0:1:start=1>")
    assert len({tuple(each) for each in (plain, whole, first, second)}) == 4
    assert pixels(shelf, "a cat<lora:fur:0:1@0,0@1>") == first  # of two steps the second begins at 1
    assert pixels(shelf, "a cat<lora:fur:0:1:start=1.0>") == plain
    assert "Lora method: on the fly" in picture(shelf, "a cat<lora:fur:0:1:stop=0.5>").infotext
    assert "Lora method" not in picture(shelf, "a cat<lora:fur:1>").infotext


def test_where_memory_is_short_nothing_is_merged(shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = np.asarray(picture(shelf, "a cat<lora:fur:1>").image).astype(int)
    monkeypatch.setattr("sfumato.weights.adapters.apply.Adapted.bytes_of", lambda adapted, uses: 2**60)
    beside = picture(shelf, "a cat<lora:fur:1>", hires=Hires())
    assert abs(np.asarray(beside.image).astype(int) - merged).max() <= 1  # rounded to bytes
    assert "Lora method: on the fly" in beside.infotext


def test_a_hypernetwork_is_worn_likewise(shelf: ModelShelf, folder: Path) -> None:
    draw = torch.Generator().manual_seed(2)
    net = {f"linear.{n}.weight": torch.randn(16, 16, generator=draw) for n in (0, 1)}
    torch.save({16: (net, net), "activation_func": "relu"}, folder / "oil.pt")
    plain, changed = pixels(shelf, "a cat"), pixels(shelf, "a cat<hypernet:oil:0.5>")
    assert changed != plain
    assert pixels(shelf, "a cat") == plain
    assert pixels(shelf, "a cat<hypernet:oil:0.5>") == changed
    both = picture(shelf, "a cat<hypernet:oil:0.5><lora:fur:0.5>")
    assert np.asarray(both.image).ravel().tolist() not in (plain, changed)
    assert "Hypernet hashes: " in both.infotext
    assert "Lora method" not in picture(shelf, "a cat<hypernet:oil:0.5:stop=0.5>").infotext


def test_the_same_again_merges_nothing_anew(shelf: ModelShelf, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(shelf, "a bird<lora:fur:1>")
    monkeypatch.delattr("sfumato.weights.adapters.apply.merged")
    picture(shelf, "a dog<lora:fur:1>")


@pytest.mark.parametrize(
    ("tag", "error", "said"),
    [
        ("<lora:style/fru:1>", ModelNotFoundError, "did you mean"),
        ("<lora:../tiny:1>", ModelNotFoundError, "no model"),
        ("<lora::1>", PromptError, "names no file"),
        ("<lora:fur:much>", PromptError, "not a number"),
        ("<lora:fur:1e9>", PromptError, "1000"),
        ("<spell:fur:1>", PromptError, "'spell'"),
        ("<lora:fur:1:lbw=1,2>", PromptError, "has 2 block weights, this checkpoint takes 5 or 10"),
        ("<lora:fur:1:dyn=0>", PromptError, "not a number of ranks"),
        ("<lora:fur:1:start=-1>", PromptError, "before the start"),
        ("<lora:fur:1:weight=2>", PromptError, "known are te, unet"),
        ("<lora:fur:1:1:4:1>", PromptError, "an argument that is none"),
        ("<lora:big:1>", UnknownModelError, "an adapter for SDXL"),
    ],
)
def test_what_cannot_be_worn_is_refused_before_the_first_step(
    shelf: ModelShelf, tag: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        next(generate(request(f"a cat{tag}"), shelf))
