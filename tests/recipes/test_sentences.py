from recipes.mini import sentences
from recipes.mini.compose import STYLES, Sprites

WORDNET = """\
  1 This line is the licence.
02084071 05 n 02 dog 0 domestic_dog 0 001 @ 02083346 n 0000 | a member of the genus Canis
07697537 13 n 01 hot_dog 0 000 | a frankfurter served hot on a bun
05750027 09 n 01 idea 0 000 | nothing that can be drawn
01503061 05 n 03 Aves 0 bird 0 tyrannus_tyrannus 0 000 | warm-blooded
"""


def test_nouns_are_common_words_for_things_one_can_draw() -> None:
    assert sentences.everyday_nouns(WORDNET) == ["dog", "domestic dog", "hot dog", "bird"]


def test_every_name_and_every_further_noun_is_said(sprites: Sprites) -> None:
    texts = sentences.sentences(sprites, ["a red caption"], ["house", "eagle owl"], seed=1)
    assert len(texts) == len(set(texts))
    assert {"a red caption", "cat", "kitty", "a cat", "house", "eagle owl"} <= set(texts)
    (ending,) = (text.removeprefix("an eagle owl, ") for text in texts if text.startswith("an eagle owl"))
    assert ending.split(", ")[0] in STYLES or ending.endswith(" background")
