import base64
import io
import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from sfumato.cli_terminal import (
    ProgressBar,
    Protocol,
    picture_escape,
    picture_protocol,
    printable,
    show_picture,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "WezTerm"}, None),
        ({}, None),
    ],
)
def test_the_protocol_follows_from_the_environment(environment: dict[str, str], expected: str | None) -> None:
    assert picture_protocol(Terminal(), environment) == expected
    assert picture_protocol(io.StringIO(), environment) is None


def test_nothing_is_shown_where_no_terminal_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-kitty")
    pipe, terminal = io.StringIO(), Terminal()
    show_picture(picture(), pipe)
    show_picture(picture(), terminal)
    assert pipe.getvalue() == ""
    assert terminal.getvalue().startswith("\x1b_G")


def test_kitty_messages_join_to_a_png() -> None:
    text = picture_escape(picture(), "kitty")
    messages = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert all(len(data) <= 4096 for _, data in messages)
    assert [control.split("m=")[1] for control, _ in messages] == ["1"] * (len(messages) - 1) + ["0"]
    data = base64.b64decode("".join(data for _, data in messages))
    assert Image.open(io.BytesIO(data)).tobytes() == picture().tobytes()


def test_iterm2_carries_a_png_of_the_stated_size() -> None:
    found = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);[^:]*:([^\x07]*)\x07\n", picture_escape(picture(), "iterm2")
    )
    assert found is not None
    data = base64.b64decode(found[2])
    assert len(data) == int(found[1])
    assert Image.open(io.BytesIO(data)).size == (30, 20)


def test_sixel_paints_the_picture() -> None:
    text = picture_escape(picture(), "sixel")
    body = text.removeprefix('\x1bPq"1;1;30;20').removesuffix("\x1b\\\n")
    palette = {
        int(k): (int(r), int(g), int(b)) for k, r, g, b in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", body)
    }
    painted = np.full((24, 30, 3), -1)
    for top, band in enumerate(re.sub(r"#\d+;2;\d+;\d+;\d+", "", body).split("-")[:-1]):
        for colour, runs in re.findall(r"#(\d+)((?:!\d+.)*)\$", band):
            column = 0
            for count, char in re.findall(r"!(\d+)(.)", runs):
                for row in range(6):
                    if (ord(char) - 63) >> row & 1:
                        painted[top * 6 + row, column : column + int(count)] = palette[int(colour)]
                column += int(count)
            assert column == 30
    assert (painted[:20] >= 0).all()
    assert (painted[20:] == -1).all()
    assert np.abs(painted[:20] * 2.55 - np.asarray(picture())).mean() < 20  # 255 colours for 600


@pytest.mark.parametrize("protocol", ["kitty", "iterm2", "sixel"])
def test_a_picture_ends_its_line(protocol: Protocol) -> None:
    assert picture_escape(picture(), protocol).endswith("\n")


def test_printable_text_obeys_no_one() -> None:
    assert printable("a\x1b[31mb\x07\u202ec\ud800\nd é 👩‍👩‍👧") == "a�[31mb�\ufffdc�\nd é 👩‍👩‍👧"


def test_the_bar_writes_nothing_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar(3) as bar:
        for done, after in pairwise(range(4)):
            bar.update(after, f"step {done}")
            with bar.paused():
                print(done)  # noqa: T201
    assert capsys.readouterr().out == "0\n1\n2\n"
