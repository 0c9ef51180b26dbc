from recipes.mini import sentences
from recipes.mini.compose import STYLES, Sprites

DATA = """\
  1 This line is the licence.
02084071 05 n 02 dog 0 domestic_dog 0 002 @ 02083346 n 0000 ~ 01322604 n 0000 | a member of the genus Canis
02083346 05 n 01 canine 0 000 | a mammal
07697537 13 n 01 hot_dog 0 001 @ 02083346 n 0000 | a frankfurter served hot on a bun
05750027 09 n 02 idea 0 dog 0 000 | nothing that can be drawn
01503061 05 n 02 bird 0 quetzalcoatlusnorthropi 0 000 | warm-blooded
"""
INDEX = """\
  1 This line is the licence.
dog n 2 2 @ ~ 2 1 05750027 02084071
domestic_dog n 1 2 @ ~ 1 0 02084071
hot_dog n 1 1 @ 1 0 07697537
idea n 1 0 1 1 05750027
bird n 1 0 1 1 01503061
quetzalcoatlusnorthropi n 1 0 1 1 01503061
"""


def test_nouns_are_common_words_for_things_one_can_draw_explained_by_their_kind() -> None:
    assert sentences.everyday_nouns(DATA, INDEX) == {
        "dog": "dog, domestic dog, a kind of canine",
        "domestic dog": "domestic dog, dog, a kind of canine",
        "hot dog": "hot dog, a kind of canine",
        "bird": "bird, quetzalcoatlusnorthropi",
    }


def test_every_name_and_every_further_noun_is_said(sprites: Sprites) -> None:
    further = {"house": "house, home", "eagle owl": "eagle owl, a kind of owl", "cat": "cat, a kind of whip"}
    texts = sentences.sentences(sprites, ["a red caption"], further, seed=1)
    assert {"a red caption", "cat", "kitty", "a cat", "house", "eagle owl"} <= set(texts)
    assert texts["cat"] == "cat"  # it is drawn
    assert texts["house"] == "house, home"
    (text,) = (text for text in texts if text.startswith("an eagle owl"))
    ending = text.removeprefix("an eagle owl, ")
    assert ending.split(", ")[0] in STYLES or ending.endswith(" background")
    assert texts[text] == f"an eagle owl, a kind of owl, {ending}"
