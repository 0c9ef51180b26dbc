"""Other programs' folders: recognised, counted, read in place, and never changed."""

import os
from pathlib import Path

import pytest

from sfumato.errors import ModelNotFoundError, OutputError
from sfumato.weights import convert, model_folders, store, trees


def fill(root: Path, *names: str, weights: Path | None = None) -> Path:
    """Files below a folder: links to real weights, or three bytes."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if weights:
            os.link(weights, path)
        else:
            path.write_bytes(b"abc")
    return root


def counted(path: Path) -> dict[str, tuple[str, int, int]]:
    found = trees.survey(trees.recognise(path))
    return {each.place.name: (each.place.holds, each.files, each.size) for each in found}


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    return fill(
        tmp_path / "stable-diffusion-webui",
        "models/Stable-diffusion/dream.safetensors",
        "models/Stable-diffusion/anime/other.ckpt",
        "models/Stable-diffusion/Put Stable Diffusion checkpoints here.txt",
        "models/VAE/mse.vae.pt",
        "models/Lora/style.safetensors",
        "models/ESRGAN/4x.pth",
        "embeddings/bad.pt",
        "outputs/00001.png",
        "venv/lib/something.bin",
    )


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    return fill(
        tmp_path / "ComfyUI",
        "models/checkpoints/dream.safetensors",
        "models/vae/mse.safetensors",
        "models/loras/style.safetensors",
        "models/upscale_models/4x.pth",
        "models/embeddings/bad.pt",
        "models/clip/clip_l.safetensors",
        "custom_nodes/x/weights.bin",
    )


WEBUI = {
    "Stable-diffusion": ("checkpoints", 2, 6),
    "VAE": ("vae", 1, 3),
    "Lora": ("lora", 1, 3),
    "ESRGAN": ("upscalers", 1, 3),
    "embeddings": ("embeddings", 1, 3),
}
COMFY = {
    "checkpoints": ("checkpoints", 1, 3),
    "vae": ("vae", 1, 3),
    "loras": ("lora", 1, 3),
    "upscale_models": ("upscalers", 1, 3),
    "embeddings": ("embeddings", 1, 3),
}


def test_a_webui_is_recognised_from_its_folder_or_its_models(webui: Path) -> None:
    assert counted(webui) == counted(webui / "models") == WEBUI
    tree = trees.recognise(webui / "models")
    assert (tree.program, tree.path) == ("AUTOMATIC1111", webui)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("webui-user.sh", "export COMMANDLINE_ARGS=\"--api --ckpt-dir=DIR/big --lora-dir 'DIR/my loras'\""),
        (
            "webui-user.sh",
            '#export COMMANDLINE_ARGS="--vae-dir DIR/no"\n'
            "COMMANDLINE_ARGS=\"--ckpt-dir DIR/big --lora-dir 'DIR/my loras'\"\n",
        ),
        (
            "webui-user.bat",
            '@echo off\r\nset COMMANDLINE_ARGS=--ckpt-dir DIR/big --lora-dir "DIR/my loras"\r\n',
        ),
    ],
)
def test_what_a_webuis_start_script_names_counts(webui: Path, tmp_path: Path, script: str, text: str) -> None:
    fill(tmp_path, "big/huge.safetensors", "my loras/one.safetensors", "no/x.pt")
    (webui / script).write_bytes(text.replace("DIR", str(tmp_path)).encode())
    more = {"big": ("checkpoints", 1, 3), "my loras": ("lora", 1, 3)}
    assert counted(webui) == WEBUI | more


def test_comfyui_is_recognised_however_it_is_given(comfy: Path, tmp_path: Path) -> None:
    portable = tmp_path / "portable"
    portable.mkdir()
    (portable / "ComfyUI").symlink_to(comfy)
    for path in (comfy, comfy / "models", portable):
        assert counted(path) == COMFY
        assert trees.recognise(path).program == "ComfyUI"


def test_extra_model_paths_count(comfy: Path, webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", str(webui))
    (comfy / "extra_model_paths.yaml").write_text(
        "a111:\n  base_path: ../stable-diffusion-webui/\n  checkpoints: models/Stable-diffusion\n"
        "  loras: |\n    models/Lora\n    models/LyCORIS\n"
        "other:\n  vae: $ELSEWHERE/models/VAE\n  upscale_models: models/upscale_models\n  is_default: true\n"
        "odd: 3\n"
    )
    assert counted(comfy) == COMFY | {
        "Stable-diffusion": ("checkpoints", 2, 6),
        "Lora": ("lora", 1, 3),
        "VAE": ("vae", 1, 3),
    }


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: &a [*a]", "!!python/object:os.system {}", "\0", ""])
def test_settings_that_cannot_be_read_are_passed_over(comfy: Path, text: str) -> None:
    (comfy / "extra_model_paths.yaml").write_text(text)
    assert counted(comfy) == COMFY


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ("schema_version: 4.0.2", "models"),
        ("models_dir: my models", "my models"),
        ("InvokeAI:\n  Paths:\n    models_dir: old", "old"),
    ],
)
def test_invokeai_says_where_its_models_are(tmp_path: Path, settings: str, place: str) -> None:
    root = fill(tmp_path / "invokeai", f"{place}/sd-1/vae/a.pt", f"{place}/sd-1/main/b.safetensors")
    (root / "invokeai.yaml").write_text(settings)
    assert trees.recognise(root).program == "InvokeAI"
    assert counted(root) == {"": ("models", 2, 6)}


def test_a_folder_in_diffusers_layout_is_one_model(tmp_path: Path, tiny_checkpoint: Path) -> None:
    convert.convert(tiny_checkpoint, tmp_path / "tiny")
    assert trees.recognise(tmp_path / "tiny").program == "diffusers"
    (found,) = trees.survey(trees.recognise(tmp_path / "tiny"))
    assert (found.files, found.place.holds) == (1, "checkpoints")
    weights = (tmp_path / "tiny").glob("*/*.safetensors")
    assert found.size == sum(path.stat().st_size for path in weights)
    assert store.scan(tmp_path / "tiny") != [], "as the models folder it is looked into"


def test_any_folder_with_models_will_do_and_one_without_is_refused(tmp_path: Path, webui: Path) -> None:
    assert trees.recognise(webui / "models" / "Stable-diffusion").program == "folder"
    with pytest.raises(ModelNotFoundError, match="holds no models"):
        trees.recognise(webui / "outputs")
    for nothing in (tmp_path / "none", webui / "outputs" / "00001.png"):
        with pytest.raises(ModelNotFoundError, match="is no folder"):
            trees.recognise(nothing)


def test_links_are_followed_once(tmp_path: Path) -> None:
    fill(tmp_path / "real", "deep/a.pt")
    (tmp_path / "real" / "deep" / "up").symlink_to(tmp_path / "real")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "real")
    assert [name for name, _ in trees.walk(tmp_path / "models")] == ["link/deep/a"]


def test_listed_models_are_found_in_place(tmp_path: Path, tiny_checkpoint: Path) -> None:
    models = tmp_path / "models"
    tree = fill(
        tmp_path / "webui",
        "models/Stable-diffusion/dream.safetensors",
        "models/Stable-diffusion/photo/dream.safetensors",
        "models/Stable-diffusion/only.safetensors",
        weights=tiny_checkpoint,
    )
    before = sorted(tree.rglob("*"))
    assert model_folders.add(models, tree).name == "webui"
    assert sorted(tree.rglob("*")) == before
    assert [each.name for each in store.scan(models) if each.usable] == [
        "webui/Stable-diffusion/dream",
        "webui/Stable-diffusion/only",
        "webui/Stable-diffusion/photo/dream",
    ]
    for name in ("only", "webui/stable-diffusion/ONLY", "only.safetensors"):
        assert store.find(models, name, paths=False) == tree / "models/Stable-diffusion/only.safetensors"
    with pytest.raises(
        ModelNotFoundError, match=r"ambiguous: webui/Stable-diffusion/dream\.safetensors, webui"
    ):
        store.find(models, "dream")
    path = tree / "models/Stable-diffusion/photo/dream.safetensors"
    assert store.find(models, store.name_of(models, path), paths=False) == path
    fill(tree, "models/VAE/new.safetensors", weights=tiny_checkpoint)
    assert store.find(models, "new", paths=False).parent.name == "VAE", "made after the folder was listed"


def test_upscalers_and_restorers_of_a_listed_folder_are_found(tmp_path: Path, webui: Path) -> None:
    from sfumato.pipeline.faces import find_restorer
    from sfumato.pipeline.upscalers import upscalers

    fill(webui, "models/GFPGAN/GFPGANv1.4.pth")
    models = tmp_path / "models"
    assert find_restorer("GFPGAN", models) is None
    model_folders.add(models, webui)
    assert "4x" in [each.name for each in upscalers(models)]
    assert find_restorer("GFPGAN", models) == webui / "models/GFPGAN/GFPGANv1.4.pth"


def test_folders_are_named_listed_and_taken_off(tmp_path: Path, webui: Path, comfy: Path) -> None:
    models = fill(tmp_path / "models", "ComfyUI/x.pt")
    assert model_folders.listed(models) == []
    first, second = model_folders.add(models, webui, "old"), model_folders.add(models, comfy)
    assert (first.name, second.name) == ("old", "ComfyUI-2")
    assert model_folders.add(models, webui / "models").name == "old", "the same folder keeps its name"
    assert model_folders.listed(models) == [second, first]
    assert model_folders.remove(models, "old") == first
    assert model_folders.remove(models, str(comfy)) == second
    with pytest.raises(ModelNotFoundError, match="no folder 'old' is listed; there are none"):
        model_folders.remove(models, "old")
    assert sorted(path.name for path in webui.iterdir()) == ["embeddings", "models", "outputs", "venv"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", ".hidden", "x" * 61, "own"])
def test_a_name_that_is_none_or_taken_is_refused(tmp_path: Path, webui: Path, name: str) -> None:
    models = fill(tmp_path / "models", "own/x.pt")
    with pytest.raises(OutputError, match="is taken or no name"):
        model_folders.add(models, webui, name)
    assert model_folders.listed(models) == []


def test_a_folder_within_or_around_the_models_folder_is_refused(tmp_path: Path) -> None:
    models = fill(tmp_path / "models", "sub/x.pt")
    for path in (models, models / "sub", tmp_path):
        with pytest.raises(OutputError, match="overlaps the models folder"):
            model_folders.add(models, path)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"name": "a"}]', "3"])
def test_a_damaged_list_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / model_folders.FILE).write_text(text)
    with pytest.raises(OutputError, match="is no list of folders"):
        store.scan(tmp_path)
