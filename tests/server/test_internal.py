"""Tasks by name, previews beside models, and who may see what."""

import base64
import io
import json
import threading
from collections.abc import Iterator

import pytest
from httpx import Response
from PIL import Image
from starlette.testclient import TestClient

from sfumato.app.engine import Engine
from sfumato.types import Canvas, Request, Sampling

LONG = Request(sampling=Sampling(steps=900), canvas=Canvas(seed=1, width=64, height=64))


@pytest.fixture
def running(engine: Engine) -> Iterator[str]:
    """A job that runs, and one that waits behind it."""
    job = engine.submit(LONG)
    for event in engine.watch(job.id, every=0):
        if event.kind == "progress" and event.progress and event.progress.step:
            break
    yield job.id
    for each in engine.jobs(states=["running", "queued"]):
        engine.cancel(each.id)
        engine.wait(each.id, 600)


def test_a_named_task_is_followed_to_its_end(client: TestClient, engine: Engine) -> None:
    body = {"steps": 2, "width": 32, "height": 32, "force_task_id": "task(abc)"}
    assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200
    told = client.post("/internal/progress", json={"id_task": "task(abc)"}).json()
    assert (told["active"], told["queued"], told["completed"]) == (False, False, True)
    unknown = client.post("/internal/progress", json={"id_task": "task(no such)"}).json()
    assert (unknown["active"], unknown["queued"], unknown["completed"]) == (False, False, False)


def test_a_task_of_many_jobs_is_over_when_its_last_one_is(client: TestClient, engine: Engine) -> None:
    jobs = [engine.submit(LONG) for _ in range(2)]
    desk = client.app.state.desk  # type: ignore[attr-defined]
    desk.name_task("local", "task(two)", [job.id for job in jobs])
    ask = {"id_task": "task(two)"}
    pending = client.get("/internal/pending-tasks").json()
    assert pending["tasks"].count("task(two)") == 1
    for job, done in zip(jobs, (False, True), strict=True):
        engine.cancel(job.id)
        engine.wait(job.id, 600)
        told = client.post("/internal/progress", json=ask).json()
        assert told["completed"] is done
        assert done or told["queued"] or told["progress"] >= 0.5
        assert client.get("/internal/pending-tasks").json()["size"] == (not done)


def test_names_of_tasks_are_kept_while_many_come_in_and_are_listed(client: TestClient) -> None:
    desk = client.app.state.desk  # type: ignore[attr-defined]

    def name(first: int) -> None:
        for number in range(first, first + 3000):
            desk.name_task("crowd", f"task({number})", [str(number)])

    threads = [threading.Thread(target=name, args=(first,)) for first in (0, 3000)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        desk.tasks("crowd")
    assert 0 < len(desk.tasks("crowd")) <= 2000


def test_a_running_job_tells_how_far_it_is(client: TestClient, engine: Engine, running: str) -> None:
    waiting = engine.submit(LONG)
    told = client.post("/internal/progress", json={"id_task": running}).json()
    assert told["active"]
    assert 0 < told["progress"] < 1
    assert told["live_preview"].startswith("data:image/jpeg;base64,")
    queued = client.post("/internal/progress", json={"id_task": waiting.id}).json()
    assert (queued["queued"], queued["textinfo"]) == (True, "In queue: 1/1")
    assert client.get("/internal/pending-tasks").json() == {"size": 2, "tasks": [running, waiting.id]}
    progress = client.get("/sdapi/v1/progress").json()
    assert 0 < progress["progress"] < 1
    assert progress["eta_relative"] > 0
    assert progress["state"]["sampling_steps"] == 900
    assert progress["state"]["job_count"] == 2
    assert progress["current_image"]
    assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None


def test_another_owner_sees_and_stops_nothing(client: TestClient, engine: Engine, running: str) -> None:
    theirs = {"X-Test-Owner": "another"}
    assert client.get("/sdapi/v1/progress", headers=theirs).json()["progress"] == 0
    assert (
        client.post("/internal/progress", json={"id_task": running}, headers=theirs).json()["active"] is False
    )
    assert client.get("/internal/pending-tasks", headers=theirs).json()["size"] == 0
    assert client.post("/sdapi/v1/interrupt", headers=theirs).json() == {}
    assert client.post("/sdapi/v1/skip", headers=theirs).json() is None
    assert engine.job(running).state == "running"
    assert client.post("/sdapi/v1/interrupt").json() == {}
    ended = engine.wait(running, 600)
    assert (ended.state, ended.interrupted) == ("done", True)


def test_an_interrupted_call_is_answered_with_the_picture_as_far_as_it_had_come(
    client: TestClient, engine: Engine
) -> None:
    body = {"steps": 900, "n_iter": 3, "width": 32, "height": 48}
    answers: list[Response] = []
    call = threading.Thread(target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=body)))
    call.start()
    while not client.get("/sdapi/v1/progress").json()["state"]["sampling_step"]:
        pass
    assert client.post("/sdapi/v1/interrupt").json() == {}
    call.join()
    answer = answers[0].json()
    (picture,) = answer["images"]
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    assert image.size == (32, 48)
    (infotext,) = json.loads(answer["info"])["infotexts"]
    assert "Interrupted: " in infotext


def test_interrupt_and_skip_of_nothing_do_nothing(client: TestClient) -> None:
    for _ in range(2):
        assert client.post("/sdapi/v1/interrupt").json() == {}
        assert client.post("/sdapi/v1/skip").json() is None
    idle = client.get("/sdapi/v1/progress").json()
    assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)


def test_the_server_answers_a_ping_and_says_what_it_is(client: TestClient) -> None:
    assert client.get("/internal/ping").json() == {}
    told = client.get("/internal/sysinfo").json()
    assert told["Device"] == "cpu"
    download = client.get("/internal/sysinfo-download")
    assert download.headers["content-disposition"].startswith("attachment")
    assert client.get("/internal/quicksettings-hint").json()


def test_a_model_shows_its_picture_and_its_header(client: TestClient, engine: Engine) -> None:
    preview = engine.settings.models / "tiny.png"
    assert client.get("/sd_extra_networks/thumb?filename=tiny").status_code == 404
    Image.new("RGB", (4, 4), "red").save(preview)
    try:
        shown = client.get("/sd_extra_networks/thumb?filename=tiny")
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/png")
        assert shown.content == preview.read_bytes()
    finally:
        preview.unlink()
    assert "sfumato" in client.get("/sd_extra_networks/metadata?item=tiny").json()["metadata"]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../etc/passwd", "..%2f..%2fetc", "", "no such", "tiny%00.png"]
)
def test_no_name_leads_out_of_the_models_folder(client: TestClient, name: str) -> None:
    for route in ("thumb?filename=", "metadata?item="):
        assert client.get(f"/sd_extra_networks/{route}{name}").status_code == 404
