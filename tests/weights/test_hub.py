"""Pulling, from a small server that speaks the hub's protocol: whole and verified, or a line of advice."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from sfumato.errors import DownloadError, ModelNotFoundError, WeightsError
from sfumato.weights import convert, files, hub, store

REPO = "some/model"
COMMIT = "c" * 40


@dataclass
class Server:
    """A hub with one repository, and what is wrong with it."""

    contents: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[["Handler"], bool] = lambda handler: False  # answers itself and gives True
    cuts: list[int] = field(default_factory=list)  # bytes after which each next body is cut off
    wrong_hash: bool = False
    ignores_ranges: bool = False
    redirects_to: str | None = None
    log: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def gets(self) -> list[str | None]:
        """Give the ranges of the downloads so far."""
        return [span for method, path, span, _ in self.log if method == "GET" and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    hub: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def reply(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer(self, *, body: bool) -> None:
        span = self.headers.get("Range")
        self.hub.log.append((self.command, self.path, span, self.headers.get("Authorization")))
        if self.hub.fault(self):
            return
        if self.path.startswith(f"/api/models/{REPO}"):
            self.listing()
            return
        match = re.fullmatch(rf"/(?:{REPO}/resolve/[^/]+|cdn)/(.+)", self.path)
        data = self.hub.contents.get(match[1]) if match else None
        if match is None or data is None:
            self.reply(404, X_Error_Code="EntryNotFound" if match else "RepoNotFound")
            return
        digest = hashlib.sha256(data).hexdigest()
        tag = {"ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        if not match[1].endswith((".safetensors", ".ckpt")):  # a small file: git's hash
            small = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            tag = {"ETag": f'"{small}"'}
        if self.hub.redirects_to and "/resolve/" in self.path:
            self.reply(302, Location=f"{self.hub.redirects_to}/{match[1]}", X_Repo_Commit=COMMIT, **tag)
            return
        if self.hub.wrong_hash and body:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.data(data, span if body and not self.hub.ignores_ranges else None, tag)

    def listing(self) -> None:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.hub.contents.items()]
        listed = {
            "id": REPO,
            "modelId": REPO,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }
        if "/tree/" in self.path:
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": "0" * 40}
                for n, d in self.hub.contents.items()
            ]
            self.reply(200, json.dumps(tree).encode(), Content_Type="application/json")
        else:
            self.reply(200, json.dumps(listed).encode(), Content_Type="application/json")

    def data(self, data: bytes, span: str | None, tag: dict[str, str]) -> None:
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("X-Repo-Commit", COMMIT)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for name, value in tag.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cuts:
            self.wfile.write(data[start : start + self.hub.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(data[start:])


def serve(server: Server) -> ThreadingHTTPServer:
    handler = type("BoundHandler", (Handler,), {"hub": server})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    server.endpoint = f"http://127.0.0.1:{listener.server_port}"
    Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return listener


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(hub, "WAITS", (0.0,) * len(hub.WAITS))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    made = Server()
    listener = serve(made)
    yield made
    listener.shutdown()
    listener.server_close()


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    path = tmp_path / "made.safetensors"
    generator = torch.Generator().manual_seed(0)
    files.write_safetensors(path, {"decoder.w": torch.randn(700_000, generator=generator)})
    return path.read_bytes()


def pull(server: Server, tmp_path: Path, file: str | None = "model.safetensors", **more: str) -> Path:
    *_, last = hub.pull(REPO, file, folder=tmp_path / "models", endpoint=server.endpoint, **more)
    assert last.path is not None
    return last.path


def visible(tmp_path: Path) -> list[str]:
    return sorted(info.name for info in store.scan(tmp_path / "models"))


def test_a_pulled_file_is_whole_and_the_steps_count_up(
    server: Server, weights: bytes, tmp_path: Path
) -> None:
    server.contents = {"model.safetensors": weights}
    steps = list(hub.pull(REPO, "model.safetensors", folder=tmp_path / "models", endpoint=server.endpoint))
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[-1].done, steps[-1].total) == (len(weights), len(weights))
    assert all(step.path is None for step in steps[:-1])
    assert steps[-1].path == tmp_path / "models" / "model.safetensors"
    assert steps[-1].path.read_bytes() == weights
    assert list((tmp_path / "models").iterdir()) == [steps[-1].path]


def test_nothing_is_visible_before_the_end_and_a_stopped_pull_goes_on(
    server: Server, weights: bytes, tmp_path: Path
) -> None:
    server.contents = {"model.safetensors": weights}
    pulling = hub.pull(REPO, "model.safetensors", folder=tmp_path / "models", endpoint=server.endpoint)
    done = [next(pulling).done for _ in range(2)][-1]
    assert 0 < done < len(weights)
    assert visible(tmp_path) == []
    pulling.close()
    assert pull(server, tmp_path).read_bytes() == weights
    assert server.gets()[0] is None
    assert server.gets()[1] not in (None, "bytes=0-")


def test_a_cut_connection_is_taken_up_where_it_was(server: Server, weights: bytes, tmp_path: Path) -> None:
    server.contents = {"model.safetensors": weights}
    server.cuts = [100_000, 0, 1, 500_000]
    assert pull(server, tmp_path).read_bytes() == weights
    assert server.gets() == [None, "bytes=100000-", "bytes=100000-", "bytes=100001-", "bytes=600001-"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(
    server: Server, weights: bytes, tmp_path: Path
) -> None:
    server.contents, server.ignores_ranges, server.cuts = {"model.safetensors": weights}, True, [100_000]
    assert pull(server, tmp_path).read_bytes() == weights


def test_a_connection_that_stays_cut_says_how_far_it_came(
    server: Server, weights: bytes, tmp_path: Path
) -> None:
    server.contents, server.cuts = {"model.safetensors": weights}, [1000, *[0] * 20]
    with pytest.raises(DownloadError, match=rf"cut off at 1000 of {len(weights)} bytes.*pull again"):
        pull(server, tmp_path)
    assert visible(tmp_path) == []
    server.cuts.clear()
    assert pull(server, tmp_path).read_bytes() == weights
    assert server.gets()[-1] == "bytes=1000-"


def test_a_wrong_hash_is_thrown_away(server: Server, weights: bytes, tmp_path: Path) -> None:
    server.contents, server.wrong_hash = {"model.safetensors": weights}, True
    with pytest.raises(DownloadError, match=r"hash .* expected .* thrown away"):
        pull(server, tmp_path)
    assert visible(tmp_path) == []
    server.wrong_hash = False
    assert pull(server, tmp_path).read_bytes() == weights
    assert server.gets()[-1] is None  # nothing of the wrong one was kept


def test_a_whole_file_that_is_no_weights_file_never_becomes_visible(server: Server, tmp_path: Path) -> None:
    server.contents = {"model.safetensors": b"<html>not weights</html>" * 100}
    with pytest.raises(WeightsError, match="web page"):
        pull(server, tmp_path)
    assert visible(tmp_path) == []


def test_the_token_goes_to_the_hub_and_not_to_the_host_of_the_files(
    server: Server, weights: bytes, tmp_path: Path
) -> None:
    server.contents = {"model.safetensors": weights}
    elsewhere = Server(contents=server.contents)
    listener = serve(elsewhere)
    server.redirects_to = elsewhere.endpoint.replace("127.0.0.1", "localhost") + "/cdn"
    assert pull(server, tmp_path, token="hf_secret").read_bytes() == weights
    listener.shutdown()
    listener.server_close()
    assert {token for *_, token in server.log} == {"Bearer hf_secret"}
    assert {token for *_, token in elsewhere.log} == {None}


def answers(status: int, **headers: str) -> Callable[[Handler], bool]:
    def fault(handler: Handler) -> bool:
        handler.reply(status, **headers)
        return True

    return fault


REFUSALS = {
    "gated": (answers(403, X_Error_Code="GatedRepo"), "gated: accept its conditions at http"),
    "unknown or private": (answers(401), "answered 401.*private or not there.*HF_TOKEN"),
    "no repository": (answers(404, X_Error_Code="RepoNotFound"), "no repository some/model"),
    "no revision": (answers(404, X_Error_Code="RevisionNotFound"), "no such revision"),
    "bad token": (
        answers(401, X_Error_Message="Invalid credentials in Authorization header"),
        "check the name and HF_TOKEN",
    ),
    "forbidden": (answers(403), "answered 403.*permission"),
    "too many": (answers(429), "answered 429.*too many requests"),
    "not the hub": (answers(200), "does not speak the hub's protocol|gives no size or hash"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_in_one_line_what_to_do(name: str, server: Server, tmp_path: Path) -> None:
    server.fault, reason = REFUSALS[name]
    with pytest.raises(DownloadError, match=reason) as caught:
        pull(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert visible(tmp_path) == []


def test_a_missing_file_names_the_nearest(server: Server, weights: bytes, tmp_path: Path) -> None:
    server.contents = {"v1-5-pruned-emaonly.safetensors": weights, "README.md": b"x"}
    with pytest.raises(
        DownloadError, match=r"no file 'v1-5-pruned\.safetensors'; the nearest are v1-5-pruned-ema"
    ):
        pull(server, tmp_path, "v1-5-pruned.safetensors")


def test_no_server_is_said_with_the_reason(tmp_path: Path) -> None:
    dead = Server(endpoint="http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9 cannot be reached"):
        pull(dead, tmp_path)


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", "a b", "-x/y"])
def test_a_repository_that_cannot_be_one_is_refused(repo: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"owner/name|no repository|answered"):
        list(hub.pull(repo, "x.safetensors", folder=tmp_path, endpoint=server.endpoint))


def test_a_file_outside_the_repository_is_refused(server: Server, tmp_path: Path) -> None:
    for file in ("../x.safetensors", "/etc/passwd", "a/../../x"):
        with pytest.raises(DownloadError, match="not a path within"):
            pull(server, tmp_path, file)


def test_what_is_there_already_is_not_replaced(server: Server, weights: bytes, tmp_path: Path) -> None:
    server.contents = {"model.safetensors": weights}
    path = pull(server, tmp_path)
    with pytest.raises(DownloadError, match="exists already"):
        pull(server, tmp_path)
    assert path.read_bytes() == weights


OFFERS = {
    "v1-5-pruned-emaonly.safetensors": ("v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "vae.safetensors"),
    "v2-1_768-ema-pruned.safetensors": ("v2-1_768-nonema-pruned.safetensors", "v2-1_768-ema-pruned.ckpt"),
    "dream.safetensors": ("dream_lora.safetensors", "unet/diffusion_pytorch_model.safetensors", "README.md"),
    "model-pruned.safetensors": ("model-full.safetensors",),
}


@pytest.mark.parametrize("best", OFFERS)
def test_the_best_single_file_is_chosen(best: str, server: Server, weights: bytes, tmp_path: Path) -> None:
    server.contents = dict.fromkeys(OFFERS[best], b"not this") | {best: weights}
    assert pull(server, tmp_path, None).name == best


def test_a_repository_with_a_folder_only_is_pulled_whole(
    server: Server, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    convert.convert(tiny_checkpoint, tmp_path / "made")
    made = tmp_path / "made"
    server.contents = {
        path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()
    }
    server.contents |= {
        "unet/diffusion_pytorch_model.bin": b"no",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"no",
        "safety_checker/model.safetensors": b"no",
    }
    path = pull(server, tmp_path, None)
    assert path == tmp_path / "models" / "model"
    assert visible(tmp_path) == ["model"]
    assert not store.scan(tmp_path / "models")[0].fault
    assert not list(path.rglob("*.bin"))


def test_a_repository_without_safetensors_says_what_there_is(server: Server, tmp_path: Path) -> None:
    server.contents = {"model.ckpt": b"x", "README.md": b"x"}
    with pytest.raises(DownloadError, match=r"name one file of it: model\.ckpt"):
        pull(server, tmp_path, None)


def test_a_pickle_is_pulled_only_when_it_executes_nothing(server: Server, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(3)}}, tmp_path / "good.ckpt")
    server.contents = {
        "good.ckpt": (tmp_path / "good.ckpt").read_bytes(),
        "bad.ckpt": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    }
    assert pull(server, tmp_path, "good.ckpt").is_file()
    with pytest.raises(WeightsError, match=r"os\.system"):
        pull(server, tmp_path, "bad.ckpt")
    assert visible(tmp_path) == ["good"]


def test_too_little_room_is_said_before_anything_is_downloaded(
    server: Server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.contents = {"model.safetensors": weights}
    monkeypatch.setattr(hub, "_free_bytes", lambda _: 1000)
    with pytest.raises(DownloadError, match="make room"):
        pull(server, tmp_path)
    assert server.gets() == []


def test_pulled_models_are_found_by_name(server: Server, weights: bytes, tmp_path: Path) -> None:
    server.contents = {"model.safetensors": weights}
    path = pull(server, tmp_path)
    assert store.find(tmp_path / "models", "model") == path
    with pytest.raises(ModelNotFoundError):
        store.find(tmp_path / "models", "other")


def test_files_come_into_the_hubs_own_cache_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    server.contents |= {"a.csv": b"a table", "b.csv": b"another"}
    for _ in range(2):
        found = hub.cached_files(REPO, ("a.csv", "b.csv"), endpoint=server.endpoint)
        assert found is not None
        assert [path.read_bytes() for path in found] == [b"a table", b"another"]
    assert len(server.gets()) == 2
    assert hub.cached_files(REPO, ("a.csv", "c.csv"), endpoint=server.endpoint) is None
    with pytest.raises(DownloadError, match="no repository"):
        hub.cached_files("no/such", ("a.csv",), endpoint=server.endpoint)
