"""The gallery over HTTP: found, shown, changed, deleted and brought back, by its owner alone."""

import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from sfumato.app.engine import Engine
from sfumato.pipeline import images
from sfumato.server.app import create_app
from sfumato.types import Canvas, Prompt, Request, Sampling

ROOT = "/api/v1/gallery"


class Visitors:
    """Stands for the guard: says who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            owner = headers.get(b"x-test-owner", b"ann").decode()
            role = headers.get(b"x-test-role", b"user").decode()
            scope.setdefault("state", {}).update(owner=owner, role=role)
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    app = create_app(engine)
    app.add_middleware(Visitors)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


BOB = {"x-test-owner": "bob"}
ADMIN = {"x-test-owner": "root", "x-test-role": "admin"}


@pytest.fixture(scope="module")
def pictures(engine: Engine) -> list[dict[str, Any]]:
    for owner, text in (("ann", "=a red cat, 苹果"), ("bob", "a dog")):
        request = Request(
            prompt=Prompt(text=text),
            sampling=Sampling(steps=1),
            canvas=Canvas(seed=5, width=32, height=32, batch_count=3 if owner == "ann" else 1),
        )
        engine.wait(engine.submit(request, owner=owner).id, 60)
    return []


@pytest.fixture
def mine(client: TestClient, pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(client.get(ROOT).json()["pictures"])


def test_pages_go_on_where_the_one_before_ended(client: TestClient, mine: list[dict[str, Any]]) -> None:
    assert [each["seed"] for each in mine] == [7, 6, 5]
    first = client.get(ROOT, params={"limit": 2}).json()
    second = client.get(ROOT, params={"limit": 2, "before": first["more"]}).json()
    assert [*first["pictures"], *second["pictures"]] == mine
    assert second["more"] is None


def test_a_list_is_told_where_its_pages_begin(client: TestClient, mine: list[dict[str, Any]]) -> None:
    params: dict[str, Any] = {"limit": 2, "order": "oldest"}
    told = client.get(f"{ROOT}/places", params=params).json()
    assert (told["total"], len(told["before"])) == (3, 1)
    (last,) = client.get(ROOT, params={**params, "before": told["before"][0]}).json()["pictures"]
    assert last == mine[0]
    brief = client.get(ROOT, params={"brief": True}).json()["pictures"]
    assert [each["id"] for each in brief] == [each["id"] for each in mine]
    assert brief[0]["title"] == "=a red cat, 苹果"
    assert "infotext" not in brief[0]
    assert client.get(f"{ROOT}/places", params={"text": "dog"}).json() == {"total": 0, "before": []}


def test_the_callers_values_are_listed(client: TestClient, mine: list[dict[str, Any]]) -> None:
    told = client.get(f"{ROOT}/values").json()
    assert told == {"models": [mine[0]["model"]], "samplers": ["DPM++ 2M"], "tags": []}
    assert client.get(f"{ROOT}/values", headers=BOB).json()["samplers"] == ["DPM++ 2M"]


@pytest.mark.parametrize(
    ("params", "seeds"),
    [
        ({"text": "苹果"}, [7, 6, 5]),
        ({"text": "dog"}, []),
        ({"text": "cat", "seed": 6}, [6]),
        ({"sampler": "DPM++ 2M", "width": 32, "height": 32}, [7, 6, 5]),
        ({"model": "another"}, []),
        ({"since": 1e12}, []),
        ({"tag": ["a", "b"]}, []),
        ({"state": "trash"}, []),
    ],
)
def test_pictures_are_found_by_words_and_values(
    client: TestClient, mine: list[dict[str, Any]], params: dict[str, Any], seeds: list[int]
) -> None:
    assert [each["seed"] for each in client.get(ROOT, params=params).json()["pictures"]] == seeds


@pytest.mark.parametrize(
    "params",
    [
        *({"limit": 0}, {"limit": 501}, {"before": 2**63}, {"seed": 2**64}, {"since": "nan"}),
        *({"state": "gone"}, {"width": 2**31}, {"rating": 6}, {"scope": "x"}, {"tag": [""]}),
        *({"order": "best"}, {"brief": "perhaps"}),
        *({"unknown": 1}, {"text": "x" * 2001}),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_answered_in_words(client: TestClient, params: dict[str, Any]) -> None:
    assert client.get(ROOT, params=params).status_code == 422


def test_files_and_small_pictures_are_sent_once(client: TestClient, mine: list[dict[str, Any]]) -> None:
    for name, size in (("url", (32, 32)), ("thumbnail", (32, 32))):
        answer = client.get(mine[0][name])
        assert images.open_image(answer.content).size == size
        assert answer.headers["cache-control"].startswith("private")
        again = client.get(mine[0][name], headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for side, status in ((100, 422), ("x", 422), (128, 200)):
        assert client.get(mine[0]["thumbnail"], params={"side": side}).status_code == status


def test_tags_ratings_trash_and_back(client: TestClient, mine: list[dict[str, Any]]) -> None:
    place = f"{ROOT}/{mine[1]['id']}"
    changed = client.patch(place, json={"tags": ["best", "赤"], "rating": 4}).json()
    assert (changed["tags"], changed["rating"]) == (["best", "赤"], 4)
    assert [
        each["id"] for each in client.get(ROOT, params={"tag": "赤", "rating": 4}).json()["pictures"]
    ] == [mine[1]["id"]]
    assert client.patch(place, json={"rating": 6}).status_code == 422
    assert client.patch(place, json={"tags": [" "]}).status_code == 422
    assert client.delete(place).json()["state"] == "trash"
    assert len(client.get(ROOT).json()["pictures"]) == 2
    assert client.get(changed["url"]).status_code == 200  # to see what may be brought back
    by_job = f"/api/v1/pictures/{changed['job']}/{changed['seed'] - 5}"
    assert client.get(by_job).status_code == 404
    assert client.post(f"{place}/restore").json() == changed
    assert client.get(by_job).status_code == 200
    assert len(client.get(ROOT).json()["pictures"]) == 3


def test_similar_pictures_are_the_callers_own(
    client: TestClient, mine: list[dict[str, Any]], engine: Engine
) -> None:
    found = client.get(f"{ROOT}/{mine[0]['id']}/similar").json()["pictures"]
    assert {each["id"] for each in found} == {each["id"] for each in mine[1:]}
    data = (engine.settings.outputs / mine[0]["file"]).read_bytes()
    sent = {"image": base64.b64encode(data).decode(), "limit": 1}
    (nearest,) = client.post(f"{ROOT}/similar", json=sent).json()["pictures"]
    assert (nearest["id"], nearest["distance"]) == (mine[0]["id"], 0)


def test_another_owners_picture_is_not_there(client: TestClient, mine: list[dict[str, Any]]) -> None:
    picture = mine[0]["id"]
    answers = [
        (client.request(method, f"{ROOT}/{name}{rest}", headers=BOB, json=body).status_code, name)
        for method, rest, body in (
            ("GET", "", None),
            ("PATCH", "", {"rating": 1}),
            ("DELETE", "", None),
            ("POST", "/restore", None),
            ("GET", "/similar", None),
            ("GET", "/file", None),
            ("GET", "/thumbnail", None),
        )
        for name in (picture, "0" * 32)
    ]
    assert {status for status, _ in answers} == {404}
    assert picture not in client.get(ROOT, headers=BOB).text
    assert picture not in client.get(f"{ROOT}/export", headers=BOB).text
    assert len(client.get(ROOT, headers=ADMIN).json()["pictures"]) == 4
    assert client.delete(f"{ROOT}/trash", headers=BOB).json() == {"removed": 0}


def test_exports_are_whole_and_harmless(client: TestClient, mine: list[dict[str, Any]]) -> None:
    lines = client.get(f"{ROOT}/export").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [each["id"] for each in mine]
    answer = client.get(f"{ROOT}/export", params={"form": "csv", "text": "cat"})
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["prompt"] for row in rows] == ["'=a red cat, 苹果"] * 3


def test_admins_alone_import_and_only_folders(client: TestClient, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_bytes(b"")
    body = {"folder": str(tmp_path)}
    assert client.post(f"{ROOT}/import", json=body).status_code == 403
    for wrong in ("", ".", "/", "/etc", "relative", str(tmp_path / "nothing"), "/a\0b/c", "/tmp/../"):
        assert client.post(f"{ROOT}/import", json={"folder": wrong}, headers=ADMIN).status_code == 422, wrong
    answer = client.post(f"{ROOT}/import", json=body, headers=ADMIN)
    outcomes = {each["file"]: each["outcome"] for each in map(json.loads, answer.text.splitlines())}
    assert outcomes == {"blue.png": "new", "broken.png": "broken"}
    again = client.post(f"{ROOT}/import", json=body, headers=ADMIN)
    assert {json.loads(line)["outcome"] for line in again.text.splitlines()} == {"known", "broken"}
    assert str(tmp_path) not in answer.text


def test_a_vanished_file_is_not_served(
    client: TestClient, mine: list[dict[str, Any]], engine: Engine
) -> None:
    path = engine.settings.outputs / mine[2]["file"]
    away = path.rename(path.with_suffix(".away"))
    assert client.get(mine[2]["url"]).status_code == 404
    assert client.get(f"{ROOT}/{mine[2]['id']}").json()["state"] == "missing"
    assert sum(engine.gallery.check()) == 1
    assert len(client.get(ROOT).json()["pictures"]) == 2
    away.rename(path)
    assert client.get(f"{ROOT}/{mine[2]['id']}").json()["state"] == "there"
