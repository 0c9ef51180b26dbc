from pathlib import Path

import pytest

from sfumato.errors import PromptError
from sfumato.pipeline.scripts.dynamic import expand
from sfumato.types import Canvas, Prompt, Request, Variation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "animal.txt").write_text("cat\n# a comment\ndog\n\nbird\n")
    (tmp_path / "loop.txt").write_text("a __loop__\n")
    return tmp_path


def request(text: str, seed: int = 1, count: int = 1, negative: str = "") -> Request:
    return Request(prompt=Prompt(text=text, negative=negative), canvas=Canvas(seed=seed, batch_count=count))


def texts(requests: list[Request]) -> list[str]:
    return [each.prompt.text for each in requests]


def test_all_combinations_of_both_prompts(folder: Path) -> None:
    made = expand(request("a {red|green} __animal__", count=2, negative="{x|y}"), "all", folder)
    assert [(each.prompt.text, each.prompt.negative) for each in made] == [
        (f"a {colour} {animal}", negative)
        for colour in ("red", "green")
        for animal in ("bird", "cat", "dog")
        for negative in "xy"
    ]
    assert {each.canvas.batch_count for each in made} == {2}


def test_a_seed_draws_the_same_prompt_in_a_batch_and_alone(folder: Path) -> None:
    template = "{1-3$$a|b|c|d} __animal__ {x|y|z}"
    batch = expand(request(template, seed=20, count=8), "random", folder)
    alone = [expand(request(template, seed=seed), "random", folder)[0] for seed in range(20, 28)]
    assert batch == alone
    assert len(set(texts(batch))) > 3


def test_a_variation_draws_by_the_seed_that_counts(folder: Path) -> None:
    varied = Request(
        prompt=Prompt(text="{a|b|c|d|e|f|g}"),
        canvas=Canvas(seed=1, batch_count=9),
        variation=Variation(seed=5, strength=0.5),
    )
    made = expand(varied, "random", folder)
    assert [each.variation.seed for each in made] == list(range(5, 14))
    assert {each.canvas.seed for each in made} == {1}
    assert len(set(texts(made))) > 2


def test_the_prompt_language_passes_through(folder: Path) -> None:
    plain = request("a (red:1.2) [cat|dog:0.5] <lora:x_y:1> AND b, snake_case", count=3)
    assert expand(plain, "random", folder) == [plain]
    assert expand(request(""), "all", folder) == [request("")]


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{a|b", "character 1"),
        ("__anmal__", "did you mean __animal__"),
        ("__nothing__", "no wildcard"),
        ("__../secret__", "leaves its folder"),
        ("__loop__", "circles"),
        ("{" * 500, "too deep|character"),
        ("${x}", "not defined"),
    ],
)
@pytest.mark.parametrize("draw", ["random", "all"])
def test_templates_that_cannot_be_drawn_are_refused(
    folder: Path, template: str, named: str, draw: str
) -> None:
    with pytest.raises(PromptError, match=named):
        expand(request(template), draw, folder)


def test_too_many_combinations_are_refused(folder: Path) -> None:
    with pytest.raises(PromptError, match="more than 10,000"):
        expand(request("{a|b}" * 40), "all", folder)
    with pytest.raises(PromptError, match="16,384 combinations"):
        expand(request("{a|b}" * 7, negative="{a|b}" * 7), "all", folder)
