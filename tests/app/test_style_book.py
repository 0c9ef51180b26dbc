"""Styles are changed in place, and nothing of a file is lost that others have written into it."""

from pathlib import Path

import pytest

from sfumato.app.style_book import StyleBook
from sfumato.errors import OutputError, RequestError
from sfumato.text.styles import Style, read_styles

OIL = Style(name="oil", prompt="an oil painting of {prompt}", negative='photo, "render"')


def test_a_style_is_kept_changed_and_removed(tmp_path: Path) -> None:
    book = StyleBook(tmp_path / "config" / "styles.csv")
    assert book.read() == {}
    book.put(OIL)
    book.put(Style(name="sharp", prompt="sharp,\n8k"))
    book.put(Style(name="oil", prompt="oil"))
    assert list(book.read().values()) == [
        Style(name="oil", prompt="oil"),
        Style(name="sharp", prompt="sharp,\n8k"),
    ]
    book.remove("oil")
    book.remove("no such")
    assert list(book.read()) == ["sharp"]


def test_the_file_is_what_other_programs_read(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    StyleBook(path).put(OIL)
    assert path.read_bytes() == (
        b'\xef\xbb\xbfname,prompt,negative_prompt\r\noil,an oil painting of {prompt},"photo, ""render"""\r\n'
    )


def test_notes_and_other_columns_stay(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text("name,text,author\n# mine,,\nold,one,me\nlast,two,you\n", "utf-8")
    StyleBook(path).put(Style(name="old", prompt="new", negative="bad"))
    StyleBook(path).remove("last")
    lines = path.read_text("utf-8-sig").splitlines()
    assert lines == ["name,text,author,negative_prompt", "# mine,,,", "old,new,me,bad"]
    assert read_styles([path])["old"] == Style(name="old", prompt="new", negative="bad")


def test_of_several_files_the_one_that_counts_is_changed(tmp_path: Path) -> None:
    first, last = tmp_path / "styles-a.csv", tmp_path / "styles-b.csv"
    for path in (first, last):
        path.write_text("name,prompt,negative_prompt\nboth,old,\n", "utf-8")
    book = StyleBook(tmp_path / "styles*.csv")
    book.put(Style(name="both", prompt="new"))
    book.put(OIL)
    assert book.read()["both"].prompt == "new"
    assert (list(read_styles([first])), list(read_styles([last]))) == (["both", "oil"], ["both"])
    book.remove("both")
    assert list(book.read()) == ["oil"]


@pytest.mark.parametrize("name", ["", "#note", " a", "a\nb", "x" * 201])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="a name has 1 to 200"):
        StyleBook(tmp_path / "styles.csv").put(Style(name=name))


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(OutputError, match="no style file"):
        StyleBook(path).put(OIL)
    assert path.read_text("utf-8") == "a,b\n1,2\n"
