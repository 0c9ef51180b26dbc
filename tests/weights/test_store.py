"""The models folder: everything in it is listed, found by any of its names, brought in whole or not."""

import os
from pathlib import Path

import pytest
import torch

from sfumato.errors import ModelNotFoundError, OutputError, UnsafeFileError, WeightsError
from sfumato.weights import convert, files, store
from sfumato.weights.load import load_checkpoint


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A models folder with something of everything."""
    models = tmp_path / "models"
    for place in ("anime", "photo", ".hidden"):
        (models / place).mkdir(parents=True)
        os.link(tiny_checkpoint, models / place / "dream.safetensors")
    os.link(tiny_checkpoint, models / "Größe One.safetensors")
    files.write_safetensors(models / "style.safetensors", {"lora_unet_a.lora_down.weight": torch.zeros(4, 8)})
    torch.save({"state_dict": {"w": torch.zeros(1)}}, models / "old.ckpt")
    (models / "broken.safetensors").write_bytes(b"1234")
    (models / "notes.txt").write_text("not a model")
    convert.convert(tiny_checkpoint, models / "as folder")
    return models


def test_everything_is_listed_with_what_it_is_and_the_broken_with_its_fault(folder: Path) -> None:
    listed = {info.name: info for info in store.scan(folder)}
    assert list(listed) == sorted(listed)
    assert listed.keys() == {
        "anime/dream", "photo/dream", "Größe One", "style", "old", "broken", "as folder",
    }  # fmt: skip
    assert listed["anime/dream"].usable
    assert listed["as folder"].usable
    assert (listed["style"].kind, listed["old"].kind) == ("LoRA", "pickle")
    assert "truncated header" in listed["broken"].fault
    assert "broken: " in listed["broken"].line()
    assert "tiny" in listed["anime/dream"].line()
    assert listed["as folder"].to_dict()["family"] == "tiny"


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert store.scan(tmp_path / "none") == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_listed_with_its_fault(folder: Path) -> None:
    (folder / "style.safetensors").chmod(0)
    (folder / "photo").chmod(0)
    faults = {info.name: info.fault for info in store.scan(folder) if info.fault}
    (folder / "photo").chmod(0o700)
    assert faults.keys() == {"broken", "style", "photo"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("anime/dream", "anime/dream.safetensors"),
        ("anime/dream.safetensors", "anime/dream.safetensors"),
        ("ANIME/Dream", "anime/dream.safetensors"),
        ("Größe One", "Größe One.safetensors"),
        ("gro\u0308ße one", "Größe One.safetensors"),
        ("style", "style.safetensors"),
        ("old.ckpt", "old.ckpt"),
        ("as folder", "as folder"),
    ],
)
def test_a_model_is_found_by_any_of_its_names(name: str, found: str, folder: Path) -> None:
    assert store.find(folder, name, paths=False) == folder / found


def test_a_model_is_found_by_its_hash_and_by_other_programs_titles(folder: Path) -> None:
    digest = files.file_sha256(folder / "style.safetensors")
    assert store.find(folder, digest[:10]) == folder / "style.safetensors"
    assert store.find(folder, f"style.safetensors [{digest[:10]}]") == folder / "style.safetensors"
    assert store.find(folder, f"renamed.safetensors [{digest[:10]}]") == folder / "style.safetensors"


def test_one_name_in_two_folders_is_ambiguous_and_both_are_named(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"ambiguous: anime/dream\.safetensors, photo/dream"):
        store.find(folder, "dream")


def test_a_name_that_is_not_there_names_the_nearest(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"did you mean style\?"):
        store.find(folder, "styl")
    with pytest.raises(ModelNotFoundError, match="holds 7 models"):
        store.find(folder, "xyzzy")


HOSTILE = [
    "../models/style",
    "..",
    ".",
    "",
    "/etc/passwd",
    "style\0",
    "x" * 5000,
    "~",
    "anime/../style",
    ".hidden/dream",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_reaches_nothing_outside_the_list(name: str, folder: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        store.find(folder, name, paths=False)
    assert len(str(caught.value)) < 1000


def test_a_path_is_taken_as_it_stands_where_paths_are_allowed(folder: Path, tiny_checkpoint: Path) -> None:
    assert store.find(folder, str(tiny_checkpoint)) == tiny_checkpoint
    for name in ("x" * 5000 + ".safetensors", "no/such.safetensors", "bad\0.safetensors"):
        with pytest.raises(ModelNotFoundError):
            store.find(folder, name)


def test_adding_copies_a_file_whole_and_twice_is_once(tmp_path: Path, tiny_checkpoint: Path) -> None:
    models = tmp_path / "new" / "models"
    info = store.add(models, tiny_checkpoint)
    assert info.usable
    assert info.path.read_bytes() == tiny_checkpoint.read_bytes()
    assert store.add(models, tiny_checkpoint) == info
    assert list(models.iterdir()) == [info.path]


def test_adding_does_not_replace_another_model(tmp_path: Path, tiny_checkpoint: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / tiny_checkpoint.name).write_bytes(b"mine")
    with pytest.raises(OutputError, match="another model"):
        store.add(models, tiny_checkpoint)
    assert (models / tiny_checkpoint.name).read_bytes() == b"mine"


def test_adding_under_another_name(tmp_path: Path, tiny_checkpoint: Path) -> None:
    models = tmp_path / "models"
    for name in ("mine", "mine.safetensors"):
        assert store.add(models, tiny_checkpoint, name=name).path == models / "mine.safetensors"
    convert.convert(tiny_checkpoint, tmp_path / "made")
    assert store.add(models, tmp_path / "made", name="v1.5").path == models / "v1.5"
    assert store.find(models, "mine") == models / "mine.safetensors"


@pytest.mark.parametrize("name", ["", "a/b", "../b", "..", ".hidden", "sfumato-mini"])
def test_adding_under_a_name_that_would_not_be_found_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, name: str
) -> None:
    with pytest.raises(OutputError):
        store.add(tmp_path / "models", tiny_checkpoint, name=name)
    assert not (tmp_path / "models").exists()


def test_adding_a_link_makes_no_copy(tmp_path: Path, tiny_checkpoint: Path) -> None:
    info = store.add(tmp_path / "models", tiny_checkpoint, link=True)
    assert info.path.is_symlink()
    assert store.scan(tmp_path / "models")[0].usable
    load_checkpoint(info.path, device="cpu", dtype=None)


def test_adding_a_folder_takes_what_is_needed_of_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = tmp_path / "made"
    convert.convert(tiny_checkpoint, source)
    (source / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    info = store.add(tmp_path / "models", source)
    assert info.usable
    assert not list(info.path.rglob("*.bin"))
    load_checkpoint(info.path, device="cpu", dtype=None)


def test_adding_a_pickle_brings_in_safetensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"decoder.mid.block_1.norm1.weight": torch.ones(4)}}, tmp_path / "vae.pt")
    info = store.add(tmp_path / "models", tmp_path / "vae.pt")
    assert info.path == tmp_path / "models" / "vae.safetensors"
    assert files.read_safetensors(info.path)["decoder.mid.block_1.norm1.weight"].sum() == 4


def test_nothing_broken_unknown_or_hostile_is_added(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (tmp_path / "broken.safetensors").write_bytes(b"1234")
    files.write_safetensors(tmp_path / "odd.safetensors", {"what": torch.zeros(1)})
    (tmp_path / "evil.ckpt").write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    for name, reason in (("broken.safetensors", "truncated"), ("odd.safetensors", "unknown kind")):
        with pytest.raises(WeightsError, match=reason):
            store.add(models, tmp_path / name)
    with pytest.raises((WeightsError, UnsafeFileError), match=r"os\.system"):
        store.add(models, tmp_path / "evil.ckpt")
    with pytest.raises(ModelNotFoundError):
        store.add(models, tmp_path / "none")
    assert not models.exists() or not list(models.iterdir())


def test_a_copy_that_differs_from_the_source_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "file_sha256", lambda _: "0" * 64)
    with pytest.raises(OutputError, match="differs"):
        store.add(tmp_path / "models", tiny_checkpoint)
    assert not list((tmp_path / "models").iterdir())


def test_too_little_room_is_said_before_copying(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_free_bytes", lambda _: 10)
    with pytest.raises(OutputError, match="make room"):
        store.add(tmp_path / "models", tiny_checkpoint)


def test_a_file_that_vanishes_or_changes_after_the_listing_is_an_error_of_ours(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = tmp_path / "model.safetensors"
    os.link(tiny_checkpoint, path)
    found = store.find(tmp_path, "model")
    path.unlink()
    with pytest.raises(ModelNotFoundError):
        load_checkpoint(found, device="cpu", dtype=None)
    path.mkdir()
    with pytest.raises(WeightsError):
        load_checkpoint(found, device="cpu", dtype=None)
