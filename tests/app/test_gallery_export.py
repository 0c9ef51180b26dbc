"""What leaves the gallery is data to whatever opens it."""

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.app.gallery_export import FIELDS, cell, export
from sfumato.app.gallery_table import Picture
from sfumato.errors import RequestError


def picture(**values: object) -> Picture:
    texts = dict.fromkeys(("id", "owner", "sha256", "model", "sampler", "program", "job"), "")
    given = {
        **texts,
        "number": 1,
        "state": "there",
        "created": 1.5,
        "width": 8,
        "height": 8,
        "seed": 2**64 - 1,
    }
    given |= {
        "rating": 0,
        "tags": (),
        "prompt": "",
        "negative": "",
        "infotext": "",
        "request": None,
        "file": "",
    }
    return Picture(**(given | values))  # type: ignore[arg-type]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    "formula",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "\u00a0=1",
        "＝1+1",
        "﹢1",
        "－1",
        "＠x",
        "\u200b=1",
        "\ufeff=cmd|' /C calc'!A0",
        "|x",
        "%x",
    ],
)
def test_no_cell_is_a_formula(formula: str) -> None:
    (row,) = rows("".join(export([picture(prompt=formula, tags=(formula,), model=formula)], "csv")))
    for name in ("prompt", "tags", "model"):
        shown = unicodedata.normalize("NFKC", row[name]).strip()
        assert shown[0] in "'\\", (name, row[name])


@given(st.text(max_size=100))
def test_cells_hold_no_character_that_a_program_obeys(text: str) -> None:
    (row,) = rows("".join(export([picture(prompt=text, infotext=text)], "csv")))
    assert set(row) == set(FIELDS)
    for value in row.values():
        assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in value)


@given(st.text(max_size=100))
def test_lines_of_json_give_back_every_text(text: str) -> None:
    lines = "".join(export([picture(prompt=text), picture(tags=(text,))], "jsonl"))
    assert lines.isascii()
    assert lines.count("\n") == len(lines.splitlines()) == 2
    first, second = map(json.loads, lines.splitlines())
    assert first["prompt"] == text
    assert second["tags"] == [text]


def test_numbers_stay_numbers_and_texts_texts() -> None:
    assert [cell(value) for value in (0, -1.5, None, "a cat", "a-b", "")] == [0, -1.5, "", "a cat", "a-b", ""]
    (row,) = rows("".join(export([picture(prompt='say "a", b')], "csv")))
    assert (row["seed"], row["prompt"]) == (str(2**64 - 1), 'say "a", b')


def test_an_empty_gallery_is_an_empty_table() -> None:
    assert rows("".join(export([], "csv"))) == []
    assert list(export([], "jsonl")) == []
    with pytest.raises(RequestError, match="form='xls'"):
        list(export([], "xls"))  # type: ignore[arg-type]
