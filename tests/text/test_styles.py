from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfumato.errors import OutputError, PromptError
from sfumato.text.limits import MAX_CHARACTERS
from sfumato.text.styles import Style, apply_style, apply_styles, find_applied, read_styles, write_styles

STYLES = {
    style.name: style
    for style in (
        Style(name="oil", prompt="an oil painting of {prompt}, thick paint", negative="photo"),
        Style(name="sharp", prompt="sharp, 8k", negative="blurry, {prompt}"),
    )
}


@pytest.mark.parametrize(
    ("text", "style", "merged"),
    [
        ("a cat", "sharp", "a cat, sharp"),
        (" a cat ", " sharp ", "a cat, sharp"),
        ("a cat", "", "a cat"),
        ("", "sharp", "sharp"),
        ("", "", ""),
        ("a cat", "photo of {prompt}!", "photo of a cat!"),
        ("{prompt}", "{prompt}, {prompt}", "{prompt}, {prompt}"),
        ("a", "{0} {prompt} {x}", "{0} a {x}"),
    ],
)
def test_a_style_is_put_around_the_prompt_or_after_it(text: str, style: str, merged: str) -> None:
    assert apply_style(text, style) == merged


def test_styles_apply_one_after_another() -> None:
    assert apply_styles("a cat", "dog", ["oil", "sharp"], STYLES) == (
        "an oil painting of a cat, thick paint, sharp, 8k",
        "blurry, dog, photo",
    )
    assert (
        apply_styles("a cat", "", ["sharp", "oil"], STYLES)[0]
        == "an oil painting of a cat, sharp, 8k, thick paint"
    )


def test_an_unknown_style_is_named() -> None:
    with pytest.raises(PromptError, match="no style 'ink'; the styles are: oil, sharp"):
        apply_styles("", "", ["ink"], STYLES)


def test_styles_cannot_swell_a_prompt_beyond_the_limit() -> None:
    double = {"double": Style(name="double", prompt="{prompt}{prompt}")}
    assert apply_styles("a", "", ["double"] * 10, double)[0] == "a" * 1024
    with pytest.raises(PromptError, match=f"{MAX_CHARACTERS:,}"):
        apply_styles("a", "", ["double"] * 40, double)


@given(st.lists(st.builds(Style, name=st.text(min_size=1), prompt=st.text(), negative=st.text())))
def test_a_written_file_reads_back(tmp_path_factory: pytest.TempPathFactory, styles: list[Style]) -> None:
    path = tmp_path_factory.mktemp("styles") / "styles.csv"
    write_styles(path, styles)
    assert [each.name for each in path.parent.iterdir()] == ["styles.csv"]
    wanted = {style.name: style for style in styles if not style.name.startswith("#")}
    assert read_styles([path]) == wanted


def test_files_of_other_hands_are_read(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text('name,text\nold,"a, b"\n#note,x\n,nameless\nshort\n', encoding="utf-8")
    second.write_text(
        "\ufeffname,prompt,negative_prompt,more\nold,new,no,1\nlong,a,b,c,d,e\n", encoding="utf-8"
    )
    assert read_styles([first]) == {
        "old": Style(name="old", prompt="a, b"),
        "short": Style(name="short"),
    }
    assert read_styles([first, second])["old"] == Style(name="old", prompt="new", negative="no")
    assert read_styles([second])["long"] == Style(name="long", prompt="a", negative="b")


@pytest.mark.parametrize(
    "data", [b"", b"prompt\nx\n", b"\xff\xfe\x00", b"name,prompt\n" + b'"' + b"x" * 200_000], ids=range(4)
)
def test_what_is_no_style_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(data)
    with pytest.raises(OutputError, match=r"styles\.csv"):
        read_styles([path])


def test_a_missing_file_and_a_missing_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none\.csv"):
        read_styles([tmp_path / "none.csv"])
    with pytest.raises(OutputError, match="none"):
        write_styles(tmp_path / "none" / "styles.csv", [])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    write_styles(path, STYLES.values())
    with pytest.raises(OutputError, match="cannot be written"):
        write_styles(path, [Style(name="bad", prompt="\ud800")])
    assert read_styles([path]) == STYLES
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("names", [(), ("oil",), ("sharp",), ("oil", "sharp"), ("sharp", "oil")])
def test_the_styles_of_a_prompt_are_found_again(names: tuple[str, ...]) -> None:
    once = {name: Style(name=name, prompt=STYLES[name].prompt, negative="photo") for name in STYLES}
    prompt, negative = apply_styles("a cat", "dog", names, once)
    assert find_applied(prompt, negative, once) == ("a cat", "dog", names)


@pytest.mark.parametrize(
    ("prompt", "negative", "style"),
    [
        ("a cat, sharp", "dog", Style(name="x", prompt="sharp", negative="photo")),
        ("a cat sharp", "", Style(name="x", prompt="sharp")),
        ("a cat", "", Style(name="x")),
        ("a cat, a cat", "", Style(name="x", prompt="{prompt}, {prompt}")),
        ("ab", "", Style(name="x", prompt="ab{prompt}b")),
    ],
)
def test_a_style_that_fits_only_in_part_is_not_found(prompt: str, negative: str, style: Style) -> None:
    assert find_applied(prompt, negative, {"x": style}) == (prompt, negative, ())


@example(", a", "")  # what a style of the end leaves must not be empty
@example("b a, a", "")  # nor blank at its ends, where another style stands around it
@given(st.text(alphabet="ab ,", max_size=8), st.text(alphabet="ab ,", max_size=8))
def test_what_is_found_makes_the_same_prompts(text: str, negative: str) -> None:
    styles = {
        "a": Style(name="a", prompt="a", negative="b"),
        "b": Style(name="b", prompt="b{prompt}", negative="a"),
    }
    bare, bare_negative, names = find_applied(text, negative, styles)
    again = apply_styles(bare, bare_negative, names, styles)
    assert [each.strip() for each in again] == [each.strip() for each in (text, negative)]
