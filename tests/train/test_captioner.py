"""Captions by models: tiny ones of each kind, held to what the libraries themselves say."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner

from sfumato.cli import app
from sfumato.errors import ModelNotFoundError, TrainingError, WeightsError
from sfumato.train.captioner import NETWORK, TAGS, Choice, Describer, Tagger, caption_folder, open_captioner

ROWS = "tag_id,name,category\n1,general,9\n2,red_thing,0\n3,green_thing,0\n4,^_^,0\n5,hero_(tale),4\n"


def tagger(folder: Path, *, side: int = 4, channels: int = 3, rows: str = ROWS) -> Path:
    """A network whose probabilities are the means of blue, green and red, in this order, and a fixed 0.4."""
    shape = ["N", side, side, channels]
    weights = np.zeros((channels, 5), np.float32)
    weights[2, 1] = weights[1, 2] = weights[0, 4] = 1 / 255  # red_thing, green_thing, and the hero is blue
    nodes = [
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["tags"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("tags", TensorProto.FLOAT, ["N", 5])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("weights", TensorProto.FLOAT, [channels, 5], weights.ravel().tolist()),
            helper.make_tensor("bias", TensorProto.FLOAT, [5], [0.9, 0, 0, 0.4, 0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / NETWORK)
    (folder / TAGS).write_text(rows, "utf-8")
    return folder


@pytest.fixture(scope="module")
def describer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BLIP with a few random weights."""
    folder = tmp_path_factory.mktemp("blip")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        "[ENC]",
        "a",
        "cat",
        "dog",
        "of",
        "the",
        "on",
        "red",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    small = {"hidden_size": 16, "intermediate_size": 16, "projection_dim": 16}
    small |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    config = transformers.BlipConfig(
        text_config={"vocab_size": len(words), "encoder_hidden_size": 16, **small, **ids},
        vision_config={"image_size": 32, "patch_size": 16, **small},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    transformers.BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_tags_are_those_above_their_threshold_by_probability(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), (255, 128, 204))
    model = str(tagger(tmp_path / "m"))
    assert open_captioner(model, Choice()).describe(image) == "hero (tale), red thing, green thing, ^_^"
    strict = Choice(threshold=0.45, character_threshold=0.9, unwanted=("green thing",))
    assert open_captioner(model, strict).describe(image) == "red thing"
    assert isinstance(open_captioner(f"{model}/{NETWORK}", Choice()), Tagger)


def test_a_picture_of_another_shape_is_laid_on_a_white_square(tmp_path: Path) -> None:
    found = Tagger(tagger(tmp_path / "m") / NETWORK, tmp_path / "m" / TAGS, Choice())
    pixels = found._pixels(Image.new("RGB", (16, 8), (10, 20, 30)))
    assert pixels.shape == (1, 4, 4, 3)
    assert pixels.dtype == np.float32
    inner = pixels[0, 1:3].mean((0, 1))
    assert inner[0] > inner[1] > inner[2]  # blue first: 30, 20, 10, each with a little white beside
    assert max(inner) < 60 < 200 < pixels[0, [0, 3]].min()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"channels": 4}, "takes pictures"),
        ({"rows": ROWS + "6,more,0\n"}, "the 6 of"),
        ({"rows": "name\nx\n"}, "no table of tags"),
        ({"rows": "name,category\nx,y\n"}, "no table of tags"),
    ],
)
def test_files_that_are_no_tagger_are_refused(tmp_path: Path, change: dict[str, object], named: str) -> None:
    folder = tagger(tmp_path / "m", **change)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=named):
        open_captioner(str(folder), Choice())


def test_a_network_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = tagger(tmp_path / "m")
    (folder / NETWORK).write_bytes(b"no network")
    with pytest.raises(WeightsError, match="no ONNX network"):
        open_captioner(str(folder), Choice())
    (folder / TAGS).unlink()
    with pytest.raises(ModelNotFoundError, match="is missing"):
        open_captioner(str(folder), Choice())


def test_a_describer_says_what_transformers_makes_of_the_picture(describer: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    processor = transformers.BlipProcessor.from_pretrained(describer, backend="pil")
    network = transformers.BlipForConditionalGeneration.from_pretrained(describer).eval()
    ids = network.generate(
        **processor(images=image, return_tensors="pt"), max_new_tokens=75, num_beams=3, do_sample=False
    )
    wanted = processor.decode(ids[0], skip_special_tokens=True)
    assert wanted
    assert open_captioner(str(describer), Choice()).describe(image) == wanted


@pytest.mark.parametrize("model", ["nothing", "no/such/model", "./no/where"])
def test_a_model_that_is_not_there_is_said_so_without_the_network(model: str) -> None:
    with pytest.raises(ModelNotFoundError, match="give a folder"):
        open_captioner(model, Choice())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}), "utf-8")
    with pytest.raises((ModelNotFoundError, WeightsError), match=str(tmp_path)):
        Describer(str(tmp_path))


class Named:
    """Says the size of a picture."""

    def describe(self, image: Image.Image) -> str:
        return f"{image.mode} {image.width}x{image.height}"


def pictures(folder: Path) -> Path:
    (folder / "2_cat").mkdir(parents=True)
    Image.new("RGBA", (8, 9)).save(folder / "a.png")
    Image.new("RGB", (9, 8)).save(folder / "2_cat" / "b.jpg")
    Image.new("RGB", (8, 8)).save(folder / "c.png")
    (folder / "c.txt").write_text("mine", "utf-8")
    Image.new("RGB", (8, 8)).save(folder / "d.png")
    (folder / "d.txt").write_bytes(b"\xff\xff")
    (folder / "e.png").write_bytes(b"broken")
    return folder


def test_captions_are_written_where_there_are_none(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    done = list(caption_folder(folder, Named(), prefix="sks"))
    assert [(each.name, each.caption, each.fault) for each in done] == [
        ("a.png", "sks, RGB 8x9", ""),
        ("e.png", "", "not a PNG, JPEG or WebP picture"),
        ("2_cat/b.jpg", "sks, RGB 9x8", ""),
    ]
    assert (folder / "a.txt").read_text("utf-8") == "sks, RGB 8x9"
    assert (folder / "c.txt").read_text("utf-8") == "mine"
    assert (folder / "d.txt").read_bytes() == b"\xff\xff"
    assert [each.name for each in caption_folder(folder, Named())] == ["e.png"]
    assert len(list(caption_folder(folder, Named(), overwrite=True))) == 5
    assert (folder / "c.txt").read_text("utf-8") == "RGB 8x8"
    with pytest.raises(TrainingError, match="unpack it"):
        list(caption_folder(tmp_path / "set.zip", Named()))


def test_the_command_writes_captions(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set")
    model = tagger(tmp_path / "m")
    done = CliRunner().invoke(
        app, ["dataset", "caption", str(folder), "--model", str(model), "--leave-out", "^_^"]
    )
    assert done.exit_code == 1
    assert "a.png: hero (tale), green thing, red thing" in done.output  # white below: all of them, by name
    assert "e.png: not a PNG" in done.output
