"""Fixtures for all tests: a checkpoint so small that a picture takes a moment, and a home of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from sfumato.nn.clip_text import CLIPText, CLIPTextConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.vae import AutoencoderKL, VAEConfig
from sfumato.weights.load import save_checkpoint
from sfumato.weights.specs import ModelSpec

if TYPE_CHECKING:
    from sfumato.app.engine import Engine
    from sfumato.app.settings import Settings

settings.register_profile("sfumato", deadline=None)  # laws, not timings
settings.load_profile("sfumato")

TINY = ModelSpec(
    family="tiny",
    unet=UNetConfig(
        model_channels=16,
        channel_mult=(1, 2),
        attention_levels=(1,),
        res_blocks=1,
        heads=2,
        context_dim=16,
        groups=4,
    ),
    vae=VAEConfig(channels=(8, 8, 8, 8), res_blocks=1, groups=4),
    text=CLIPTextConfig(width=16, layers=2, heads=2),
    native_size=64,
)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C work in tests, also where a shell started them in the background without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file of random weights that describes itself; its pictures are coloured noise."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, vae, text = UNet(TINY.unet), AutoencoderKL(TINY.vae), CLIPText(TINY.text)
        for name, parameter in unet.named_parameters():  # strong enough that a word changes the picture
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.0 if "attn2" in name else 0.2)
    save_checkpoint(path, spec=TINY, unet=unet, vae=vae, text=text)
    return path


@pytest.fixture(scope="session")
def settings_in(tiny_checkpoint: Path) -> Callable[[Path], Settings]:
    """Gives the settings of an engine with the tiny checkpoint and one style, all below a folder."""

    from sfumato.app.settings import Settings

    def settings(folder: Path) -> Settings:
        (folder / "styles.csv").write_text('name,prompt,negative_prompt\nred,"{prompt}, red",grey\n', "utf-8")
        return Settings(
            data=folder / "data",
            outputs=folder / "outputs",
            models=tiny_checkpoint.parent,
            styles=folder / "styles.csv",
            checkpoint="tiny",
            device="cpu",
            dtype="float32",
        )

    return settings


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory, settings_in: Callable[[Path], Settings]
) -> Iterator[Engine]:
    """An engine of them, once for all tests of a file."""
    from sfumato.app.engine import Engine

    with Engine(settings_in(tmp_path_factory.mktemp("engine"))) as engine:
        yield engine


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with nothing in it, as the working directory, and no setting in the environment."""
    for name in ("MODELS", "OUTPUTS", "DEVICE", "DTYPE", "THREADS"):
        monkeypatch.delenv(f"SFUMATO_{name}", raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
