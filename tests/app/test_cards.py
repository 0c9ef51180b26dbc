"""Cards say what files tell, and the files beside them; what has changed is read again, no pickle opened."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfumato.app import cards as module
from sfumato.app.cards import Card, Cards
from sfumato.app.counter import PromptCounter
from sfumato.errors import ModelNotFoundError, OutputError
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Prompt
from sfumato.weights.files import write_safetensors

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def lora(path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    down, up = torch.ones(1, 768), torch.ones(320, 1)
    write_safetensors(path, {f"{KEY}.lora_down.weight": down, f"{KEY}.lora_up.weight": up}, metadata or {})
    return path


def embedding(path: Path, vectors: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, {"emb_params": torch.ones(vectors, 768)}, {})
    return path


def png(colour: str, size: tuple[int, int] = (64, 96)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def cards(folder: Path) -> Cards:
    return Cards(ModelShelf(folder, device="cpu"))


def colour(packed: bytes) -> tuple[int, ...]:
    with Image.open(io.BytesIO(packed)) as image:
        assert image.format == "WEBP"
        found = image.convert("RGB").getpixel((5, 5))
    assert isinstance(found, tuple)
    return tuple(round(each / 255) for each in found)


def test_a_file_alone_has_a_card(tmp_path: Path) -> None:
    lora(tmp_path / "animals" / "fur.safetensors")
    (card,) = cards(tmp_path).find("lora")
    assert card == Card(kind="lora", name="animals/fur", call="fur", title="fur", family="SD 1.x")


def test_what_stands_beside_a_file_is_told_before_what_stands_in_it(tmp_path: Path) -> None:
    tags = {"ss_tag_frequency": json.dumps({"1_fur": {"soft": 3, "cat": 9}, "2_fur": {"soft": 8}})}
    path = lora(
        tmp_path / "fur.safetensors",
        {**tags, "modelspec.description": "<p>in the header</p>", "ss_output_name": "Fur", **spec()},
    )
    shown = cards(tmp_path)
    (card,) = shown.find("lora")
    assert (card.title, card.description) == ("Fur", "in the header")
    assert card.words == ("furry", "soft", "cat")
    site = {"description": "of a site", "trainedWords": ["tufted fur", "cat", 7]}
    (tmp_path / "fur.civitai.info").write_text(json.dumps(site))
    (card,) = shown.find("lora")
    assert (card.description, card.words) == ("of a site", ("tufted fur", "cat", "furry", "soft"))
    own = {"description": "my own", "notes": "n", "activation text": "fluffy, soft", "preferred weight": 0.7}
    path.with_suffix(".json").write_text(json.dumps({**own, "negative text": "bald"}))
    (card,) = shown.find("lora")
    assert (card.description, card.notes, card.activation) == ("my own", "n", "fluffy, soft")
    assert (card.negative, card.weight, card.words[:2]) == ("bald", 0.7, ("fluffy", "soft"))


def spec() -> dict[str, str]:
    return {"modelspec.trigger_phrase": "furry"}


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 10_000, '{"preferred weight": true, "notes": 3}', "\xff"]
)
def test_what_cannot_be_read_beside_a_file_is_passed_over(tmp_path: Path, text: str) -> None:
    lora(tmp_path / "fur.safetensors", {"ss_tag_frequency": text, "modelspec.title": text})
    for ending in (".json", ".civitai.info"):
        (tmp_path / f"fur{ending}").write_text(text, "latin-1")
    (card,) = cards(tmp_path).find("lora")
    assert (card.weight, card.notes, card.words) == (1.0, "", ())


def test_all_words_of_a_search_have_to_stand_on_a_card(tmp_path: Path) -> None:
    lora(tmp_path / "fur.safetensors", {"modelspec.description": "Soft as a cat", **spec()})
    lora(tmp_path / "steel.safetensors")
    shown = cards(tmp_path)
    for query, names in {
        "": ["fur", "steel"],
        "CAT furry": ["fur"],
        "cat steel": [],
        "tee": ["steel"],
    }.items():
        assert [each.name for each in shown.find("lora", query)] == names


def test_two_of_one_name_are_called_by_their_places(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        lora(tmp_path / folder / "fur.safetensors")
    shelf = ModelShelf(tmp_path, device="cpu")
    for card in Cards(shelf).find("lora"):
        assert card.call == card.name
        assert shelf.adapters.find(card.call) == tmp_path / f"{card.name}.safetensors"


def test_every_kind_has_its_cards(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    embedding(tmp_path / "embeddings" / "dog.safetensors")
    for name in ("embeddings/old.pt", "hypernetworks/h.pt", "Lora/l.pt", "big.ckpt", "notes.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x80\x02not opened")
    shown = cards(tmp_path)
    named = {kind: [each.name for each in shown.find(kind)] for kind in module.KINDS}
    assert named == {
        "lora": ["Lora/l"],
        "embedding": ["embeddings/dog", "embeddings/old"],
        "hypernet": ["hypernetworks/h"],
        "checkpoint": ["big", "sfumato-mini", "tiny"],
    }
    monkeypatch.setattr(module, "describe", lambda *_, **__: pytest.fail("read again"))
    assert shown.find("lora")[0].call == "l"


def test_a_picture_beside_a_file_is_shown_small_and_anew_when_it_changes(tmp_path: Path) -> None:
    path = lora(tmp_path / "fur.safetensors", {"modelspec.thumbnail": "data:image/png;base64,AAAA"})
    shown = cards(tmp_path)
    beside = path.with_suffix(".preview.png")
    beside.write_bytes(png("red", (2000, 1000)))
    assert colour(shown.picture("lora", "fur")) == (1, 0, 0)
    with pytest.raises(ModelNotFoundError, match="has no picture"):
        shown.picture("embedding", "fur")  # of another kind
    with Image.open(io.BytesIO(shown.picture("lora", "fur"))) as image:
        assert image.size == (module.SIDE, module.SIDE // 2)
    first = shown.find("lora")[0].picture
    beside.write_bytes(png("blue"))
    assert shown.find("lora")[0].picture != first
    assert colour(shown.picture("lora", "fur")) == (0, 0, 1)


@pytest.mark.parametrize("key", ["modelspec.thumbnail", "ssmd_cover_images"])
def test_a_picture_in_a_file_is_shown(tmp_path: Path, key: str) -> None:
    packed = base64.b64encode(png("lime")).decode()
    text = json.dumps([packed]) if key == "ssmd_cover_images" else f"data:image/png;base64,{packed}"
    lora(tmp_path / "fur.safetensors", {key: text})
    assert colour(cards(tmp_path).picture("lora", "fur")) == (0, 1, 0)


def test_what_has_no_picture_says_so(tmp_path: Path) -> None:
    lora(tmp_path / "fur.safetensors")
    lora(tmp_path / "bad.safetensors", {"ssmd_cover_images": '["no picture"]'})
    for name in ("fur", "../fur", "none"):
        with pytest.raises(ModelNotFoundError):
            cards(tmp_path).picture("lora", name)
    with pytest.raises(OutputError):
        cards(tmp_path).picture("lora", "bad")


def test_embeddings_count_by_their_vectors(tmp_path: Path) -> None:
    embedding(tmp_path / "embeddings" / "zqx-style.safetensors", vectors=6)
    counter = PromptCounter(ModelShelf(tmp_path, device="cpu").adapters.embeddings)
    prompt = Prompt(text="a cat, zqx-style", negative="zqx-style")
    counted = counter.count(prompt, width=768)
    assert [each.used for each in counted] == [3 + 6, 6]
    assert counter.count(prompt, width=1024) == counter.count(prompt) != counted
