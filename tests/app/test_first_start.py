"""The first start offers what is there, changes nothing before somebody has chosen, and asks once."""

from pathlib import Path

import pytest

from sfumato.app import first_start
from sfumato.app.settings import Settings
from sfumato.errors import ModelNotFoundError
from sfumato.weights import store


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"abc")
    return root


@pytest.fixture
def house(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path / "data", models=tmp_path / "models")


def test_other_programs_are_found_in_their_usual_places(house: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    comfy = fill(home / "ComfyUI", "models/checkpoints/a.pt", "models/loras/b.pt", "models/loras/c.pt")
    fill(home / "stable-diffusion-webui", "models/Stable-diffusion/no models.txt")
    (home / "Documents").mkdir()
    (home / "Documents" / "ComfyUI").symlink_to(comfy)
    before = sorted(tmp_path.rglob("*"))
    found = first_start.offer(house, [home, tmp_path / "none"])
    assert (found.wanted, found.models) == (True, 0)
    assert [(each.tree.program, each.tree.path) for each in found.found] == [("ComfyUI", comfy)]
    assert (found.found[0].files, found.found[0].size) == (3, 9)
    assert [(each.place.holds, each.files) for each in found.found[0].counts] == [
        ("checkpoints", 1),
        ("lora", 2),
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_chosen_folder_is_on_the_shelf_and_offered_no_more(house: Settings, tmp_path: Path) -> None:
    comfy = fill(tmp_path / "ComfyUI", "models/checkpoints/a.pt")
    assert first_start.use_folder(house, comfy).name == "ComfyUI"
    assert store.find(house.models, "a", paths=False) == comfy / "models/checkpoints/a.pt"
    assert first_start.offer(house, [tmp_path]) == first_start.Offer(wanted=False, models=1, found=())


def test_who_has_chosen_is_not_asked_again(house: Settings) -> None:
    assert first_start.offer(house, []).wanted
    first_start.chosen(house)
    first_start.chosen(house)
    assert not first_start.offer(house, []).wanted


def test_who_has_models_is_not_asked(house: Settings) -> None:
    fill(house.models, "mine.pt")
    assert first_start.offer(house, []) == first_start.Offer(wanted=False, models=1, found=())


def test_a_folder_that_will_not_do_leaves_the_question_open(house: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        first_start.use_folder(house, tmp_path / "none")
    assert first_start.offer(house, []).wanted
