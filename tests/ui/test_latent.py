"""The tab Latent space: a map of the visitor's own pictures, walks as jobs whose frames can be seen."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from sfumato.app.engine import Engine
from sfumato.app.gallery_table import Filter
from sfumato.app.jobs import Job
from sfumato.app.walks import between_prompts
from sfumato.errors import PictureNotFoundError, RequestError
from sfumato.types import Canvas, Prompt, Request, Sampling
from sfumato.ui import latent_space
from sfumato.ui.latent_space import map_told, walk_told
from sfumato.ui.live import tab_of
from sfumato.ui.site import Site, Visit
from sfumato.ui.tabs.latent import Walking

SMALL = Request(
    prompt=Prompt(text="a cat"), canvas=Canvas(width=64, height=64, seed=1), sampling=Sampling(steps=1)
)
ANN, BOB = Visit(owner="ann", role="user"), Visit(owner="bob", role="user")


def made(engine: Engine, owner: str, *texts: str) -> list[str]:
    """Ids of the pictures of these prompts, made for an owner."""
    asked = [replace(SMALL, prompt=Prompt(text=each)) for each in texts]
    jobs = [engine.wait(engine.submit(each, owner=owner).id, 100) for each in asked]
    return [engine.gallery.search(Filter(job=each.id)).pictures[0].id for each in jobs]


def walked(engine: Engine, owner: str, **how: Any) -> Job:
    request, script = between_prompts(SMALL, ["a cat", "the  sea", "a tree"], frames=2, **how)
    return engine.wait(engine.submit(request, owner=owner, script=script).id, 100)


def test_the_map_has_its_owners_pictures_alone(engine: Engine) -> None:
    mine = made(engine, "ann", "a cat", "a red house", "the sea")
    made(engine, "bob", "a dog")
    for by in ("looks", "words"):
        told = map_told(engine, ANN, by)
        assert (set(told["ids"]), told["total"], told["left"]) == (set(mine), 3, 0)
        assert max(abs(each) for point in told["points"] for each in point) == 1
    assert map_told(engine, Visit(owner="carl"), "looks")["ids"] == ()


def test_a_map_by_meaning_grows_with_every_question(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made(engine, "dora", "a bridge", "a boat", "a bird")
    monkeypatch.setattr(latent_space, "READS", 0.0)
    dora = Visit(owner="dora", role="user")
    seen: list[tuple[int, int]] = []
    while not seen or seen[-1][0]:
        told = map_told(engine, dora, "meaning")
        seen.append((told["left"], len(told["ids"])))
        monkeypatch.setattr(latent_space, "READS", 60.0)
    assert seen == [(3, 0), (0, 3)]


def test_a_walk_is_told_frame_by_frame(engine: Engine) -> None:
    assert walk_told(engine, ANN)["frames"] == []
    job = walked(engine, "ann", cells=True)
    told = walk_told(engine, ANN)
    assert told["frames"] == [f"api/v1/pictures/{job.id}/{place}" for place in range(5)]
    assert told["moving"] == f"api/v1/pictures/{job.id}/5"
    assert told["sheet"] == f"api/v1/pictures/{job.id}/-1"
    assert (told["stops"], told["leg"]) == (["a cat", "the sea", "a tree"], 2)
    assert walk_told(engine, BOB)["job"] == ""
    plain = walked(engine, "ann", file_format="gif")
    told = walk_told(engine, ANN)
    assert (told["frames"], told["moving"]) == ([], f"api/v1/pictures/{plain.id}/0")


@pytest.fixture(scope="module")
def walking(engine: Engine) -> Walking:
    async def build() -> Walking:  # in a running event loop, else Gradio leaves some of its own open
        site = Site(engine=engine)
        with gr.Blocks():
            site.checkpoint_choice = gr.Dropdown([site.checkpoint], value=site.checkpoint)
            return Walking(site, gr.Textbox())

    return asyncio.run(build())


def send(walking: Walking, visit: Visit, mode: str, ids: str = "", prompts: Sequence[str] = ()) -> None:
    values = {field: each.value for field, each in walking.form.components.items()}
    values |= {"canvas.width": 64, "canvas.height": 64, "sampling.steps": 1, "canvas.seed": "3"}
    texts = [*prompts, *[""] * (4 - len(prompts))]
    assert walking._send(visit, "ticket", mode, ids, 2, 8, True, "webp", *texts, *values.values())


def test_the_form_walks_between_prompts_and_between_ones_own_pictures(
    engine: Engine, walking: Walking
) -> None:
    erna = Visit(owner="erna", role="user")
    for _ in range(2):  # sent twice, it is one job
        send(walking, erna, "prompts", prompts=("a cat", " ", "a house"))
    (job,) = engine.jobs(owner="erna")
    assert job.script is not None
    assert [each["prompt"] for each in job.script.arguments["stops"]] == ["a cat", "a house"]
    assert tab_of(job) == "latent"
    assert engine.wait(job.id, 100).state == "done"
    send(walking, erna, "pictures", ids=" ".join(made(engine, "erna", "a cat", "a house")))
    last = engine.wait(engine.jobs(owner="erna")[0].id, 100)
    assert (last.kind, last.state, len(last.made)) == ("walk", "done", 5)


@pytest.mark.parametrize(
    ("mode", "ids", "prompts", "words"),
    [
        ("prompts", "", ("a cat",), "a walk of 1 stops"),
        ("prompts", "", ("a cat", "a cat"), "are the same"),
        ("pictures", "", (), "choose 2 to 4"),
        ("pictures", "nosuch other", (), "no picture"),
    ],
)
def test_what_cannot_be_walked_is_refused_at_once(
    engine: Engine, walking: Walking, mode: str, ids: str, prompts: Sequence[str], words: str
) -> None:
    fritz = Visit(owner="fritz", role="user")
    with pytest.raises((RequestError, PictureNotFoundError), match=words):
        send(walking, fritz, mode, ids, prompts)
    assert engine.jobs(owner="fritz") == []


def test_anothers_pictures_are_not_walked_between(engine: Engine, walking: Walking) -> None:
    foreign = made(engine, "gerd", "a hill", "a lake")
    with pytest.raises(PictureNotFoundError):
        send(walking, Visit(owner="fritz", role="admin"), "pictures", " ".join(foreign))
