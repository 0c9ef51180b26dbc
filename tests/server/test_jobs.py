"""Jobs over HTTP, behind the guard: submitted, listed, followed, stopped; every owner sees its own."""

import base64
import errno
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from sfumato.app.engine import Engine
from sfumato.pipeline.images import read_texts
from sfumato.server import accounts
from sfumato.server.app import create_app
from sfumato.server.gate import add_guard

HOME = "http://127.0.0.1:7860"
SMALL: dict[str, Any] = {
    "prompt": {"text": "a cat"},
    "canvas": {"width": 32, "height": 32, "seed": 7},
    "sampling": {"steps": 2},
}


@pytest.fixture(scope="module")
def clients(engine: Engine) -> Iterator[dict[str, TestClient]]:
    """The same server for ann (admin), bob and eve."""
    folder = engine.settings.data
    accounts.change_user(folder, "ann", "admin", None)
    for name in ("bob", "eve"):
        accounts.change_user(folder, name, "user", None)
    app = create_app(engine)
    add_guard(app, engine.settings.model_copy(update={"rate_limit": 1e6}), "127.0.0.1")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                TestClient(
                    app,
                    base_url=HOME,
                    client=("127.0.0.1", 1),
                    headers={"Authorization": f"Bearer {accounts.new_token(folder, name)}"},
                    raise_server_exceptions=False,
                    follow_redirects=False,
                )
            )
            for name in ("ann", "bob", "eve")
        }


@pytest.fixture
def bob(clients: dict[str, TestClient]) -> TestClient:
    return clients["bob"]


def picture(color: str = "red", mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def submitted(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json={"request": SMALL, **body})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def followed(client: TestClient, job: str, query: str = "") -> list[tuple[str, dict[str, Any]]]:
    """The events of a job to its end."""
    text = client.get(f"/api/v1/jobs/{job}/events{query}").text
    blocks = [block.split("\n") for block in text.split("\n\n") if block and not block.startswith(":")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


def ended(client: TestClient, job: str) -> dict[str, Any]:
    followed(client, job)
    return dict(client.get(f"/api/v1/jobs/{job}").json())


def test_a_job_goes_from_request_to_picture(bob: TestClient) -> None:
    job = submitted(bob, fields={"cfg_scale": 5, "sampling.steps": 3})
    assert job["owner"] == "bob"
    assert job["request"]["sampling"] == {"steps": 3, "guidance": 5.0}
    events = followed(bob, job["id"])
    assert [kind for kind, _ in events if kind != "progress"][-2:] == ["picture", "state"]
    assert events[-1][1]["job"]["state"] == "done"
    done = ended(bob, job["id"])
    (made,) = done["pictures"]
    assert made["seed"] == 7
    assert set(done["timings"]) == {"load", "sample", "save"}
    answer = bob.get(made["url"])
    assert answer.headers["content-type"] == "image/png"
    assert read_texts(answer.content)["parameters"] == made["infotext"]
    assert bob.get(made["url"], headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    for index in (1, -1, 10**30, -(10**30)):
        assert bob.get(f"/api/v1/pictures/{job['id']}/{index}").status_code == 404


def test_a_socket_tells_the_same(bob: TestClient) -> None:
    job = submitted(bob, fields={"steps": 20})
    with bob.websocket_connect(
        f"ws://127.0.0.1:7860/api/v1/jobs/{job['id']}/events?previews=true",
        headers={"Authorization": bob.headers["Authorization"]},
    ) as socket:
        said = [socket.receive_json()]
        while said[-1]["event"] != "state" or said[-1]["job"]["state"] != "done":
            said.append(socket.receive_json())
    assert said[0]["event"] == "state"
    assert [each for each in said if each["event"] == "picture"]
    for each in said:
        if each["event"] == "progress" and "preview" in each:
            assert base64.b64decode(each["preview"]).startswith(b"\xff\xd8")


def test_the_same_key_is_the_same_job_and_another_request_a_conflict(bob: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = bob.post("/api/v1/jobs", json={"request": SMALL}, headers=key)
    again = bob.post("/api/v1/jobs", json={"request": SMALL}, headers=key)
    assert first.json()["id"] == again.json()["id"]
    other = bob.post("/api/v1/jobs", json={"request": SMALL, "fields": {"steps": 4}}, headers=key)
    assert other.status_code == 409
    assert bob.post("/api/v1/jobs", json={"key": "another"}, headers=key).status_code == 422
    assert bob.post("/api/v1/jobs", json={}, headers={"Idempotency-Key": "x" * 300}).status_code == 422


def test_a_page_of_jobs_leads_to_the_next(bob: TestClient) -> None:
    ids = [submitted(bob)["id"] for _ in range(5)]
    first = bob.get("/api/v1/jobs?limit=3").json()
    second = bob.get(f"/api/v1/jobs?limit=3&before={first['next']}").json()
    found = [each["id"] for each in (*first["jobs"], *second["jobs"])]
    assert found[:5] == ids[::-1]
    assert {each["owner"] for each in first["jobs"]} == {"bob"}
    ended(bob, ids[-1])
    states = {each["state"] for each in bob.get("/api/v1/jobs?state=done&state=failed").json()["jobs"]}
    assert states <= {"done", "failed"}
    for wrong in ("limit=0", "limit=1000", "state=x", "before=x", "before=-1"):
        assert bob.get(f"/api/v1/jobs?{wrong}").status_code == 422


def test_many_are_taken_at_once_and_all_are_checked_first(bob: TestClient) -> None:
    before = len(bob.get("/api/v1/jobs?limit=200").json()["jobs"])
    good = {"request": SMALL}
    wrong = bob.post("/api/v1/jobs/batch", json={"jobs": [good, {"fields": {"steps": -1}}]})
    assert wrong.status_code == 422
    assert len(bob.get("/api/v1/jobs?limit=200").json()["jobs"]) == before
    answer = bob.post("/api/v1/jobs/batch", json={"jobs": [good, {**good, "key": "once"}, good]})
    assert [list(each) for each in answer.json()["jobs"]] == [["job"], ["job"], ["job"]]
    places = [each["job"]["position"] for each in answer.json()["jobs"] if each["job"]["state"] == "queued"]
    assert places == sorted(set(places))  # as they are once the last has come in
    for count in (0, 501):
        assert bob.post("/api/v1/jobs/batch", json={"jobs": [good] * count}).status_code == 422


def test_a_job_is_cancelled_and_again_without_effect(bob: TestClient) -> None:
    job = submitted(bob, fields={"steps": 900})["id"]
    for _ in range(2):
        assert bob.post(f"/api/v1/jobs/{job}/cancel").status_code == 200
    assert ended(bob, job)["state"] == "cancelled"
    assert bob.post(f"/api/v1/jobs/{job}/skip").json()["state"] == "cancelled"
    assert bob.get(f"/api/v1/jobs/{job}/preview").status_code == 404


def test_a_job_is_interrupted_and_keeps_its_half_made_picture(bob: TestClient) -> None:
    job = submitted(bob, fields={"steps": 900})["id"]
    while not bob.get(f"/api/v1/jobs/{job}").json()["started"]:
        pass
    assert bob.post(f"/api/v1/jobs/{job}/interrupt").status_code == 200
    told = ended(bob, job)
    assert (told["state"], told["interrupted"], len(told["pictures"])) == ("done", True, 1)


def test_what_is_anothers_is_not_there(clients: dict[str, TestClient]) -> None:
    job = ended(clients["bob"], submitted(clients["bob"])["id"])
    paths = [
        f"/api/v1/jobs/{job['id']}",
        f"/api/v1/jobs/{job['id']}/preview",
        f"/api/v1/jobs/{job['id']}/events",
    ]
    for path in (*paths, job["pictures"][0]["url"]):
        assert clients["eve"].get(path).status_code == 404
    for action in ("cancel", "interrupt", "skip"):
        assert clients["eve"].post(f"/api/v1/jobs/{job['id']}/{action}").status_code == 404
    with (
        pytest.raises(WebSocketDisconnect),
        clients["eve"].websocket_connect(
            f"ws://127.0.0.1:7860/api/v1/jobs/{job['id']}/events",
            headers={"Authorization": clients["eve"].headers["Authorization"]},
        ),
    ):
        pass
    assert job["id"] not in clients["eve"].get("/api/v1/jobs").text
    assert clients["eve"].get("/api/v1/jobs?of=all").status_code == 403
    unknown = clients["eve"].get("/api/v1/jobs/" + "0" * 32).json()
    others = clients["eve"].get(f"/api/v1/jobs/{job['id']}").json()
    own = {"detail": "", "errors": "", "request_id": ""}
    assert {**unknown, **own} == {**others, **own}
    assert clients["ann"].get(job["pictures"][0]["url"]).status_code == 200  # an admin sees everything
    assert job["id"] in clients["ann"].get("/api/v1/jobs?of=all").text


def test_a_job_starts_from_a_picture_that_was_sent_before(bob: TestClient) -> None:
    sent = bob.post("/api/v1/inputs", content=picture(), headers={"Content-Type": "image/png"})
    assert sent.status_code == 201
    name = sent.json()["name"]
    for body in ({"request": {**SMALL, "source": {"image": name}}}, {"fields": {"init_image": name}}):
        job = submitted(bob, **body)
        assert job["kind"] == "img2img"
        assert job["request"]["source"]["image"] == name
        assert ended(bob, job["id"])["state"] == "done"


@pytest.mark.parametrize(
    "field",
    [
        {"init_image": "/etc/passwd"},
        {"init_image": "../data/jobs.sqlite"},
        {"mask": "C:\\x.png"},
        {"source.image": "0" * 64 + ".png"},
        {"source.depth": "file:///etc/passwd"},
        {"source.image": "http://127.0.0.1/x.png"},
        {"source.image": "ftp://127.0.0.1/x.png"},
        {"mask.image": "\\\\host\\share\\x.png"},
        {"init_image": "data:text/html;base64,PHA+"},
        {"mask.image": "x\0.png"},
        {"mask.image": 5},
        {"override_settings": {"init_image": "/etc/passwd"}},
        {"override_settings": {"source.image": "/etc/hostname"}},
        {"steps": "many"},
        {"steps": True},
        {"steps": 1e400},
        {"seed": 2**64},
        {"seed": -2},
        {"seed": 1.5},
        *({"width": side} for side in (7, 0, -8, 1, 65, "64x", -0.5)),
        *({"n_iter": many} for many in (0, -1, 0.5)),
        *({"batch_size": many} for many in (0, -1, 10**6)),
        {"seed": "abc"},
        {"subseed_strength": 1.5},
        {"denoising_strength": -0.1},
        {"denoising_strength": 1.01},
        {"width": 10**6},
        {"cfg_scale": float("nan")},
        {"denoising_strength": float("inf")},
        {"n_iter": 10**6},
        {"nothing": 1},
        {"prompt": 5},
        {"prompt": {"a": 1}},
        {"styles": [1]},
        {"prompt": "x" * 2**21},
    ],
    ids=lambda field: str(field)[:40],
)
def test_what_makes_no_sense_is_refused_in_one_line(bob: TestClient, field: dict[str, Any]) -> None:
    body = json.dumps({"request": SMALL, "fields": field})
    answer = bob.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert "Traceback" not in answer.text
    assert "\n" not in answer.json()["detail"]


def test_work_beyond_the_budget_is_refused_with_the_budget(bob: TestClient) -> None:
    for fields in ({"width": 16384, "height": 16384, "n_iter": 10_000}, {"batch_size": 64, "n_iter": 10_000}):
        answer = bob.post("/api/v1/jobs", json={"fields": fields | {"steps": 1000}})
        assert answer.status_code == 413
        assert "one job may ask for 1,000,000" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"request": {"prompt": "x"}},
        {"request": {"nothing": {}}},
        {"request": {"prompt": {"nothing": 1}}},
        {"request": {"__class__": {"x": 1}}},
        {"script": {"name": "no such"}},
        {"script": {"name": "prompts", "arguments": []}},
        {"priority": 11},
        {"priority": "5"},
        {"kind": "x\ny"},
        {"kind": ""},
        {"owner": "eve"},
        {"key": ""},
        [],
        None,
        "x",
        5,
    ],
    ids=lambda body: str(body)[:40],
)
def test_bodies_of_another_shape_are_refused(bob: TestClient, body: Any) -> None:
    assert bob.post("/api/v1/jobs", json=body).status_code == 422


@pytest.mark.parametrize(
    "data", [b"", b"text", b"<svg/>", b"GIF89a", picture()[:60], b"%PDF-1.4", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_not_kept(bob: TestClient, engine: Engine, data: bytes) -> None:
    before = set(engine.inputs.folder.glob("*"))
    assert bob.post("/api/v1/inputs", content=data).status_code == 422
    assert set(engine.inputs.folder.glob("*")) == before


def test_a_full_disk_is_told_to_who_sends_a_picture(
    bob: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before, used = set(engine.inputs.folder.glob("*")), engine.space.used("bob")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        answer = bob.post("/api/v1/inputs", content=picture("pink"))
        assert answer.status_code == 507
        assert str(engine.settings.data) not in answer.text
    assert (set(engine.inputs.folder.glob("*")), engine.space.used("bob")) == (before, used)
    assert bob.post("/api/v1/inputs", content=picture("pink")).status_code == 201


def test_what_is_beyond_an_owners_share_of_the_disk_is_refused(
    clients: dict[str, TestClient], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    eve = clients["eve"]
    assert eve.get("/api/v1/space").json() == {"used": 0, "limit": None}
    name = eve.post("/api/v1/inputs", content=picture("cyan")).json()["name"]
    used = eve.get("/api/v1/space").json()["used"]
    assert used == engine.inputs.path(name).stat().st_size
    monkeypatch.setattr(engine.space, "limit", used)
    asked = (
        ("/api/v1/inputs", {"content": picture("gold")}),
        ("/api/v1/jobs", {"json": {"request": SMALL}}),
        ("/sdapi/v1/txt2img", {"json": {"steps": 1, "width": 32, "height": 32}}),
        ("/v1/images/generations", {"json": {"prompt": "x"}}),
    )
    for path, given in asked:
        answer = eve.post(path, **given)
        assert (answer.status_code, "are allowed" in answer.text) == (507, True), path
    assert not list(engine.inputs.folder.glob("*.part"))
    assert clients["ann"].post("/api/v1/inputs", content=picture("cyan")).status_code == 201
    assert eve.delete(f"/api/v1/inputs/{name}").status_code == 204
    assert eve.delete(f"/api/v1/inputs/{name}").status_code == 422  # hers no more
    assert engine.inputs.path(name).is_file()  # but ann's
    assert clients["ann"].delete(f"/api/v1/inputs/{name}").status_code == 204
    assert not engine.inputs.path(name).exists()
    assert ended(eve, submitted(eve)["id"])["error"]["code"] == "quota"  # a picture is larger than all of it
    assert eve.get("/api/v1/space").json()["used"] == 0


def test_a_picture_that_a_job_needs_is_not_removed(bob: TestClient) -> None:
    name = bob.post("/api/v1/inputs", content=picture("navy")).json()["name"]
    job = submitted(bob, request=SMALL, fields={"init_image": name, "steps": 900, "denoising_strength": 1})
    assert bob.delete(f"/api/v1/inputs/{name}").status_code == 409
    bob.post(f"/api/v1/jobs/{job['id']}/cancel")
    ended(bob, job["id"])
    assert bob.delete(f"/api/v1/inputs/{name}").status_code == 204


def test_odd_texts_are_kept_as_they_are(bob: TestClient) -> None:
    text = "\ud800 \0 \u202e \u2028 \x1b[31m {x.__class__} $(touch x) <script>"
    body = json.dumps({"request": {**SMALL, "prompt": {"text": text}}})
    answer = bob.post("/api/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202
    assert answer.json()["request"]["prompt"]["text"] == text
    job = ended(bob, answer.json()["id"])
    assert job["state"] in ("done", "failed")


def test_a_model_is_no_path(bob: TestClient) -> None:
    for name in ("/etc/passwd", "../../etc/passwd", "C:\\x", "tiny\0"):
        job = ended(bob, submitted(bob, fields={"sd_model_checkpoint": name})["id"])
        assert job["state"] == "failed"
        assert job["error"]["code"] in ("model_not_found", "request")


def test_metrics_count_jobs_and_phases_for_admins(clients: dict[str, TestClient]) -> None:
    ended(clients["bob"], submitted(clients["bob"])["id"])
    assert clients["bob"].get("/metrics").status_code == 403
    text = clients["ann"].get("/metrics").text
    rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(rows['sfumato_jobs{state="done"}']) >= 1
    assert float(rows['sfumato_job_phase_seconds_sum{phase="sample"}']) > 0
    assert rows['sfumato_request_seconds_bucket{le="+Inf"}'] == rows["sfumato_request_seconds_count"]
    assert clients["bob"].get("/readyz").json() == {"status": "ok"}


def test_an_openai_client_gets_pictures(bob: TestClient) -> None:
    body = {"prompt": "a cat", "n": 2, "size": "32x32", "model": "gpt-image-1", "quality": "high", "steps": 2}
    answer = bob.post("/v1/images/generations", json=body).json()
    assert [Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))).size for each in answer["data"]] == [
        (32, 32)
    ] * 2
    linked = bob.post("/v1/images/generations", json={**body, "n": 1, "response_format": "url"}).json()
    assert bob.get(linked["data"][0]["url"]).headers["content-type"] == "image/png"
    assert "tiny" in bob.get("/v1/models").text


def test_an_openai_client_edits_what_is_transparent_in_a_mask(bob: TestClient) -> None:
    mask = Image.new("RGBA", (32, 32), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 16, 32))
    buffer = io.BytesIO()
    mask.save(buffer, format="PNG")
    files = {"image": ("a.png", picture("red")), "mask": ("m.png", buffer.getvalue())}
    form = {"prompt": "a cat", "steps": "4", "seed": "1", "strength": "1"}
    answer = bob.post("/v1/images/edits", data=form, files=files)
    assert answer.status_code == 200, answer.text
    made = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).convert("RGB")
    assert made.getpixel((31, 16)) == (255, 0, 0)
    assert made.getpixel((2, 16)) != (255, 0, 0)


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ({}, {"image": picture()}),
        ({"prompt": "x"}, {}),
        ({"prompt": "x", "image": "text"}, {"mask": picture()}),
        ({"prompt": "x"}, {"image": b"no picture"}),
        ({"prompt": "x"}, {"image": picture(), "mask": picture()}),
        ({"prompt": "x", "n": "11"}, {"image": picture()}),
        ({"prompt": "x", "size": "9x9"}, {"image": picture()}),
        ({"prompt": "x", "size": "axb"}, {"image": picture()}),
        ({"prompt": "x", "model": "/etc/passwd"}, {"image": picture()}),
        ({str(n): "x" for n in range(60)}, {"image": picture()}),
    ],
)
def test_errors_have_the_shape_that_openais_clients_expect(
    bob: TestClient, form: dict[str, str], files: dict[str, bytes]
) -> None:
    answer = bob.post("/v1/images/edits", data=form, files=files or {"other": b"x"})
    assert answer.status_code in (400, 404, 422)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code", "request_id"}


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\nContent-Disposition: form-data; name=image; filename="
        + b"x" * 2**20
        + b"\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: form-data; name=prompt\r\n\r\n" + b"x" * 2**21 + b"\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: form-data; name=prompt\r\n\r\nno end",
        b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\nx\r\n" * 100_000,
        b"--b" + b"-" * 2**20,
        b"--b\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"--b\r\nContent-Disposition: form-data; name=image; filename=a\0b\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: form-data; name=image\r\n"
        b"Content-Type: multipart/mixed; boundary=c\r\n\r\n"
        + b"--c\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n" * 10_000
        + b"--c--\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: form-data; name=image; filename=a\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" * 10_000 + b"x\r\n--b--\r\n",
        b"",
        b"\0" * 1000,
    ],
    ids=[
        *("name", "field", "no end", "parts", "dashes", "headers", "null", "nested", "nested in itself"),
        *("empty", "zeros"),
    ],
)
def test_forms_that_only_do_harm_are_refused(bob: TestClient, body: bytes) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = bob.post("/v1/images/edits", content=body, headers=kind)
    assert answer.status_code in (400, 413, 422)
    assert bob.get("/healthz").status_code == 200
