from pathlib import Path

import pytest

from sfumato.app.settings import config_file, load_settings
from sfumato.errors import RequestError

pytestmark = pytest.mark.usefixtures("home")


def write(text: str) -> None:
    config_file().parent.mkdir(parents=True)
    config_file().write_text(text, encoding="utf-8")


def test_defaults_need_no_file() -> None:
    settings = load_settings()
    assert settings.outputs == Path("outputs")
    assert settings.models.parts[-2:] == ("sfumato", "models")
    assert (settings.device, settings.dtype, settings.threads) == ("auto", "auto", None)


def test_flags_go_before_the_environment_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write('threads = 1\ndevice = "cpu"\ndtype = "float32"')
    monkeypatch.setenv("SFUMATO_THREADS", "2")
    monkeypatch.setenv("SFUMATO_DEVICE", "mps")
    settings = load_settings({"threads": 3, "models": None})
    assert (settings.threads, settings.device, settings.dtype) == (3, "mps", "float32")


def test_a_byte_order_mark_and_windows_lines_are_read() -> None:
    write("\ufeffthreads = 4\r\n")
    assert load_settings().threads == 4


def test_the_home_folder_is_expanded() -> None:
    assert load_settings({"models": "~/weights"}).models == Path.home() / "weights"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("threads = 0", "threads"),
        ("thread = 1", "unknown setting 'thread'"),
        ('dtype = "int8"', "dtype"),
        ('device = "tpu"', "device"),
        ("threads = = 1", "line 1"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_in_one_line(text: str, named: str) -> None:
    write(text)
    with pytest.raises(RequestError, match=named) as caught:
        load_settings()
    assert "config.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
