"""The question of the first start is an admin's alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from sfumato.app.engine import Engine
from sfumato.app.first_start import MARK
from sfumato.app.settings import Settings
from sfumato.errors import RequestError
from sfumato.ui.first_start import FirstStart
from sfumato.ui.site import Site, Visit

ADMIN, USER = Visit(), Visit(owner="ann", role="user")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One without models."""
    engine = Engine(
        Settings(data=tmp_path / "data", models=tmp_path / "models", outputs=tmp_path / "outputs")
    )
    yield engine
    engine.close()


@pytest.fixture
def first(engine: Engine) -> FirstStart:
    async def build() -> FirstStart:  # in a running event loop, else Gradio leaves some of its own open
        with gr.Blocks():
            return FirstStart(Site(engine=engine))

    return asyncio.run(build())


def asked(first: FirstStart, visit: Visit) -> bool:
    """Whether the question is seen."""
    panel, _ = first._first(visit)
    assert isinstance(panel, gr.Column)
    return bool(panel.visible)


def test_only_admins_are_asked_and_once(first: FirstStart) -> None:
    assert asked(first, ADMIN)
    assert not asked(first, USER)
    first._embed(ADMIN)
    assert not asked(first, ADMIN)


def test_a_folder_is_used_with_its_first_checkpoint(
    first: FirstStart, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    place = tmp_path / "ComfyUI" / "models" / "checkpoints"
    place.mkdir(parents=True)
    (place / "mine.safetensors").symlink_to(tiny_checkpoint)
    assert "checkpoints: 1 · " in first._look(ADMIN, str(tmp_path / "ComfyUI")).value
    panel, choice = first._use_folder(ADMIN, f" {tmp_path / 'ComfyUI'} ")
    assert not panel.visible
    assert choice.value == "ComfyUI/checkpoints/mine"
    assert not asked(first, ADMIN)


@pytest.mark.parametrize("folder", [None, "", " ", "a\0b", "x" * 2000])
def test_what_is_no_name_of_a_folder_is_refused(first: FirstStart, folder: str | None) -> None:
    with pytest.raises(RequestError, match="Name a folder"):
        first._look(ADMIN, folder)


def test_others_may_do_nothing_of_it(first: FirstStart, engine: Engine, tmp_path: Path) -> None:
    deeds: list[tuple[Any, ...]] = [
        (first._embed,),
        (first._look, str(tmp_path)),
        (first._use_folder, str(tmp_path)),
        (first._pull, "some/model", ""),
        (first._cancel, "x"),
        (first._use_model, "x"),
    ]
    for deed, *values in deeds:
        with pytest.raises(RequestError, match="Only an admin"):
            deed(USER, *values)
    assert not (tmp_path / "data" / MARK).exists()
    assert engine.pulls.all() == []
