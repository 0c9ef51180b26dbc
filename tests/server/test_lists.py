"""What AUTOMATIC1111's clients are told: the keys they read, what they can use again, and no secrets."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from tests.weights.adapters.conftest import kohya_lora

from sfumato.app.engine import Engine
from sfumato.diffusion.samplers import SAMPLERS
from sfumato.diffusion.schedules import SCHEDULES
from sfumato.server.options import DEFAULTS, FIELDS, OptionStore
from sfumato.weights.files import write_safetensors


def get(client: TestClient, route: str) -> Any:
    answer = client.get(f"/sdapi/v1/{route}")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("route", "keys"),
    [
        ("samplers", {"name", "aliases", "options"}),
        ("schedulers", {"name", "label", "aliases", "default_rho", "need_inner_model"}),
        ("upscalers", {"name", "model_name", "model_path", "model_url", "scale"}),
        ("latent-upscale-modes", {"name"}),
        ("sd-models", {"title", "model_name", "hash", "sha256", "filename", "config"}),
        ("sd-vae", {"model_name", "filename"}),
        ("hypernetworks", {"name", "path"}),
        ("face-restorers", {"name", "cmd_dir"}),
        ("realesrgan-models", {"name", "path", "scale"}),
        ("prompt-styles", {"name", "prompt", "negative_prompt"}),
        ("loras", {"name", "alias", "path", "metadata"}),
        ("script-info", {"name", "is_alwayson", "is_img2img", "args"}),
        ("extensions", {"name", "remote", "branch", "commit_hash", "version", "commit_date", "enabled"}),
    ],
)
def test_lists_have_the_keys_that_clients_read(client: TestClient, route: str, keys: set[str]) -> None:
    rows = get(client, route)
    assert isinstance(rows, list)
    for row in rows:
        assert set(row) == keys
    if route not in ("hypernetworks", "extensions", "loras", "sd-vae", "face-restorers", "realesrgan-models"):
        assert rows


def test_samplers_and_schedules_are_those_of_the_tables(client: TestClient) -> None:
    assert [row["name"] for row in get(client, "samplers")] == list(SAMPLERS)
    assert [row["label"] for row in get(client, "schedulers")] == list(SCHEDULES)


def test_every_schedule_is_found_by_the_name_that_is_told(client: TestClient) -> None:
    for row in get(client, "schedulers"):
        body = {"sampler_name": "Euler", "scheduler": row["name"], "steps": 1, "width": 32, "height": 32}
        assert client.post("/sdapi/v1/txt2img", json=body).status_code == 200, row


def test_a_checkpoint_is_chosen_by_whatever_it_is_called(client: TestClient) -> None:
    row = next(row for row in get(client, "sd-models") if row["model_name"] == "tiny")
    assert row["title"] == f"tiny.safetensors [{row['sha256'][:10]}]"
    for name in (
        row["title"],
        "tiny",
        "tiny.safetensors",
        row["hash"],
        row["sha256"],
        row["sha256"][:8],
        "ny.saf",
    ):
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "sfumato-mini"})
        assert get(client, "options")["sd_model_checkpoint"].startswith("sfumato-mini.safetensors [")
        answer = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": name})
        assert answer.status_code == 200, answer.text
        assert answer.json() is None
        assert get(client, "options")["sd_model_checkpoint"] == row["title"], name
    missing = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "no such"})
    assert missing.status_code == 404


def test_settings_are_kept_for_requests_that_come_later(client: TestClient, engine: Engine) -> None:
    before = get(client, "options")
    assert set(before) == set(DEFAULTS)
    client.post(
        "/sdapi/v1/options", json={"send_seed": not before["send_seed"], "CLIP_stop_at_last_layers": 2}
    )
    assert get(client, "options")["send_seed"] is not before["send_seed"]
    body = {"steps": 1, "width": 32, "height": 32, "prompt": "a"}
    assert "Clip skip: 2" in client.post("/sdapi/v1/txt2img", json=body).text
    body["override_settings"] = {"CLIP_stop_at_last_layers": 1}
    assert "Clip skip" not in client.post("/sdapi/v1/txt2img", json=body).text
    assert get(client, "options")["CLIP_stop_at_last_layers"] == 2
    kept = OptionStore(engine.settings.data / "options.json")
    assert kept.values("local")["CLIP_stop_at_last_layers"] == 2
    assert kept.values("somebody else")["CLIP_stop_at_last_layers"] == 1
    client.post("/sdapi/v1/options", json={"send_seed": True, "CLIP_stop_at_last_layers": 1})
    assert get(client, "options") == before


@pytest.mark.parametrize(
    "given",
    [
        {"CLIP_stop_at_last_layers": 99},
        {"CLIP_stop_at_last_layers": "two"},
        {"randn_source": "dice"},
        {"emphasis": "No such"},
        {"send_seed": "x"},
        {"samples_filename_pattern": "x" * 2**21},
    ],
)
def test_settings_that_make_no_sense_are_refused(client: TestClient, given: dict[str, Any]) -> None:
    answer = client.post("/sdapi/v1/options", json=given)
    assert answer.status_code == 422
    assert get(client, "options")["CLIP_stop_at_last_layers"] == 1


def test_what_the_api_may_not_set_stays(client: TestClient) -> None:
    answer = client.post("/sdapi/v1/options", json={"api_enable_requests": True, "unheard_of": 1})
    assert answer.status_code == 200
    options = get(client, "options")
    assert options["api_enable_requests"] is False
    assert "unheard_of" not in options


def test_settings_with_a_field_have_a_default() -> None:
    assert set(FIELDS) <= set(DEFAULTS)


def test_flags_tell_neither_secrets_nor_places(client: TestClient, engine: Engine, tmp_path: Path) -> None:
    told = client.get("/sdapi/v1/cmd-flags").text + client.get("/internal/sysinfo").text
    assert str(engine.settings.data.parent) not in told
    assert str(Path.home()) not in told


def test_memory_is_told_and_models_are_put_away(client: TestClient) -> None:
    memory = get(client, "memory")
    assert set(memory) == {"ram", "cuda"}
    assert set(memory["ram"]) == {"free", "used", "total"}
    for route in ("unload-checkpoint", "reload-checkpoint"):
        assert client.post(f"/sdapi/v1/{route}").json() == {}


@pytest.mark.parametrize("route", ["checkpoints", "vae", "loras", "embeddings"])
def test_lists_are_always_fresh(client: TestClient, route: str) -> None:
    answer = client.post(f"/sdapi/v1/refresh-{route}")
    assert (answer.status_code, answer.json()) == (200, None)


@pytest.mark.parametrize("route", ["server-kill", "server-restart", "server-stop"])
def test_nobody_stops_the_server_over_the_api(client: TestClient, route: str) -> None:
    assert client.post(f"/sdapi/v1/{route}").status_code == 404


@pytest.mark.parametrize(
    "route", ["create/embedding", "train/embedding", "create/hypernetwork", "train/hypernetwork"]
)
def test_what_is_not_there_yet_says_so(client: TestClient, route: str) -> None:
    answer = client.post(f"/sdapi/v1/{route}", json={"name": "x"})
    assert answer.status_code == 404
    assert "yet" in answer.json()["detail"]


def test_scripts_are_told_with_their_arguments(client: TestClient) -> None:
    scripts = get(client, "scripts")
    assert set(scripts) == {"txt2img", "img2img"}
    assert "sd upscale" in scripts["img2img"]
    assert "sd upscale" not in scripts["txt2img"]
    told = get(client, "script-info")
    assert {row["name"] for row in told if row["is_img2img"]} == set(scripts["img2img"])
    assert {row["name"] for row in told if not row["is_img2img"]} == set(scripts["txt2img"])


def test_adapters_are_listed_for_the_checkpoint_in_use(client: TestClient, engine: Engine) -> None:
    """Of two embeddings the tiny checkpoint's text encoder, 16 wide, can read one."""
    folder = engine.settings.models
    made = [
        folder / "embeddings" / "qjy.pt",
        folder / "wide.safetensors",
        folder / "hypernetworks" / "oil.pt",
    ]
    made.append(folder / "fur.safetensors")
    for each in made:
        each.parent.mkdir(exist_ok=True)
    try:
        torch.save(
            {"string_to_param": {"*": torch.ones(2, 16)}, "step": 5, "sd_checkpoint_name": "t"}, made[0]
        )
        write_safetensors(made[1], {"emb_params": torch.ones(1, 32)})
        torch.save({16: ({"linear.0.weight": torch.ones(16, 16)},) * 2}, made[2])
        write_safetensors(made[3], kohya_lora(), {"ss_output_name": "soft fur"})
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "tiny"})
        told = get(client, "embeddings")
        assert told["loaded"] == {
            "qjy": {"step": 5, "sd_checkpoint": None, "sd_checkpoint_name": "t", "shape": 16, "vectors": 2}
        }
        assert list(told["skipped"]) == ["wide"]
        assert get(client, "hypernetworks") == [{"name": "oil", "path": "hypernetworks/oil.pt"}]
        (lora,) = get(client, "loras")
        assert (lora["name"], lora["alias"], lora["path"]) == ("fur", "soft fur", "fur.safetensors")
        body = {"prompt": "a qjy cat<lora:soft fur:0.5><hypernet:oil>", "steps": 1, "width": 32, "height": 32}
        answer = client.post("/sdapi/v1/txt2img", json=body)
        assert answer.status_code == 200, answer.text
        assert all(
            f'{key} hashes: "' in json.loads(answer.json()["info"])["infotexts"][0] for key in ("Lora", "TI")
        )
    finally:
        for each in made:
            each.unlink(missing_ok=True)
