"""Where things are and what they run on: flags before environment before the user's file before defaults.

    ~/.config/sfumato/config.toml        models = "/data/models"
    SFUMATO_MODELS=/data/models
    sfumato txt2img --device cpu …

Nothing is read at import; `load_settings` reads, once, and hands the result on.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sfumato.errors import RequestError

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


class Settings(BaseSettings):
    """Everything a user sets once instead of at every call."""

    model_config = SettingsConfigDict(env_prefix="SFUMATO_", extra="forbid", frozen=True)

    models: Path = Field(
        default_factory=lambda: user_folder("data") / "models", description="folder of checkpoints"
    )
    data: Path = Field(
        default_factory=lambda: user_folder("data"), description="folder of the queue and its inputs"
    )
    outputs: Path = Field(default=Path("outputs"), description="folder of finished pictures")
    styles: Path = Field(
        default_factory=lambda: user_folder("config") / "styles.csv", description="file of named prompt texts"
    )
    wildcards: Path = Field(
        default_factory=lambda: user_folder("config") / "wildcards",
        description="folder of dynamic prompts' texts",
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="what computes")
    dtype: DTypeName = Field(default="auto", description="the networks' numbers")
    checkpoint: str | None = Field(default=None, description="checkpoint of requests that name none")
    model_memory: int | None = Field(default=None, ge=0, description="bytes of checkpoints kept loaded")
    database_url: str | None = Field(
        default=None,
        repr=False,
        description="postgresql://… for many machines; unset = a file in the data folder",
    )
    store: str | None = Field(
        default=None, description="folder or s3://… that all machines reach; unset = this machine's folders"
    )
    patience: float = Field(
        default=30.0, ge=2, description="seconds after which a silent worker's jobs are taken over"
    )
    queue_limit: int = Field(default=10_000, ge=1, description="jobs that may wait")
    job_limit: float = Field(
        default=1e6, gt=0, description="megapixels times steps that one job may ask for, of all its pictures"
    )
    quota: int | None = Field(
        default=None, ge=0, description="bytes that one owner's pictures may take; unset = no limit"
    )
    attempts: int = Field(
        default=10, ge=1, description="ends of the process under a job before it is made in one of its own"
    )
    step_limit: float = Field(
        default=3600.0, gt=0, description="seconds a step may take before a job is given up"
    )
    login: bool = Field(default=False, description="a token or password even from this machine")
    api_auth: str | None = Field(default=None, repr=False, description="user:password,user2:password2")
    token_file: Path | None = Field(default=None, description="the token's file; unset = in the data folder")
    hosts: str = Field(default="", description="further names of the server, a proxy's among them")
    cors: str = Field(default="", description="pages elsewhere that may call: https://example.org,…")
    subpath: str = Field(default="", description="where a proxy shows the server: /sfumato")
    tls_cert: Path | None = Field(default=None, description="certificate chain, PEM")
    tls_key: Path | None = Field(default=None, description="its key, PEM")
    max_body: int = Field(default=128 * 2**20, ge=2**16, le=2**32, description="bytes of one request")
    rate_limit: float = Field(default=200, gt=0, description="requests a second of one client")
    max_connections: int = Field(default=1000, ge=2, description="requests under way")
    fetch_urls: bool = Field(default=False, description="whether requests may name pictures by address")
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads; unset = one per core")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the user's file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _from_file(config_file()))


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings.

    Args:
        flags: values given on the command line; None among them = not given.

    Raises:
        RequestError: a value out of range, an unknown key, a broken file; it names where.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(Settings.model_fields)
            raise RequestError(f"{config_file()}: unknown setting {name!r}; there are {known}") from error
        raise RequestError(
            f"setting {name}={str(first['input'])[:60]!r}: {first['msg']}; "
            f"set by a flag, SFUMATO_{name.upper()} or {config_file()}"
        ) from error
    home = {
        name: value.expanduser()
        for name in Settings.model_fields
        if isinstance(value := getattr(settings, name), Path)
    }
    return settings.model_copy(update=home)


def shown(message: str, settings: Settings) -> str:
    """An error's line for whoever asks from afar, without the places of this machine."""
    folders = {name: getattr(settings, name) for name in ("models", "data", "outputs", "styles", "wildcards")}
    for name, folder in sorted(folders.items(), key=lambda item: -len(str(item[1]))):
        message = message.replace(str(folder.absolute()), name).replace(f"{folder}/", f"{name}/")
    return " ".join(message.replace(str(Path.home()), "~").split())


def config_file() -> Path:
    """The user's settings file, whether it exists or not."""
    return user_folder("config") / "config.toml"


def user_folder(kind: Literal["config", "data"]) -> Path:
    """Sfumato's own folder for the user's configuration or data, by the system's custom."""
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "sfumato"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "sfumato"
    variable, otherwise = {
        "config": ("XDG_CONFIG_HOME", ".config"),
        "data": ("XDG_DATA_HOME", ".local/share"),
    }[kind]
    return Path(os.environ.get(variable) or Path.home() / otherwise) / "sfumato"


def _from_file(path: Path) -> dict[str, Any]:
    """The file's values, {} if there is no file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not valid TOML: {error}") from error
