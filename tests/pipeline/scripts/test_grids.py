import numpy as np
import pytest
from PIL import Image

from sfumato.pipeline.scripts.grids import Label, Legend, Line, sheet

PICTURES = [Image.new("RGB", (64, 48), (40 * k, 255 - 40 * k, 9)) for k in range(6)]
LABELS = {
    "short": "x",
    "long": "a prompt of many words that does not fit into one line of the legend " * 20,
    "word": "W" * 3000,
    "lines": "two\nlines\tand tabs",
    "empty": "",
    "strange": "\u202eabc\x00\ufffd 日本",
}


def labels(text: str, count: int) -> list[Label]:
    return [(Line(text),) for _ in range(count)]


def test_without_a_legend_pictures_stand_edge_to_edge() -> None:
    pixels = np.asarray(sheet(PICTURES, 3))  # (2*48,3*64,3)
    assert pixels.shape == (96, 192, 3)
    for place, picture in enumerate(PICTURES):
        row, column = divmod(place, 3)
        assert (pixels[row * 48 :, column * 64 :][:48, :64] == np.asarray(picture)).all()


def test_a_margin_is_white_and_between_the_cells_only() -> None:
    pixels = np.asarray(sheet(PICTURES, 3, margin=10))
    assert pixels.shape == (48 * 2 + 10, 64 * 3 + 20, 3)
    assert (pixels[48:58] == 255).all()


@pytest.mark.parametrize("name", LABELS)
def test_no_label_covers_a_picture_or_is_cut_by_the_edge(name: str) -> None:
    text = LABELS[name]
    made = sheet(PICTURES, 3, Legend(columns=labels(text, 3), rows=labels(text, 2)), margin=2)
    pixels = np.asarray(made)
    left, top = made.width - (64 * 3 + 4), made.height - (48 * 2 + 2)
    for place, picture in enumerate(PICTURES):
        y, x = top + place // 3 * 50, left + place % 3 * 66
        assert (pixels[y : y + 48, x : x + 64] == np.asarray(picture)).all()
    assert (pixels[0] == 255).all()
    assert (pixels[:, 0] == 255).all()
    assert (pixels[:top, left:] == 255).all() == (not text)
    for gap in (left + 64, left + 130):  # labels of neighbours do not touch
        assert (pixels[:top, gap : gap + 2] == 255).all()


def test_what_does_not_hold_is_pale() -> None:
    darkest = [
        np.asarray(sheet(PICTURES[:1], 1, Legend(columns=[(Line("word", holds),)])))[:10].min()
        for holds in (True, False)
    ]
    assert darkest[0] < 60
    assert darkest[1] > 120


def test_smaller_pictures_stand_in_the_middle_of_their_cells() -> None:
    pixels = np.asarray(sheet([PICTURES[0], Image.new("RGB", (32, 16))], 2))
    assert (pixels[16:32, 64 + 16 : 64 + 48] == 0).all()
    assert (pixels[:16, 64:] == 255).all()
