"""The bar of a row of requests."""

from typing import Any

import pytest
import torch

from sfumato.cli_pictures import Progress
from sfumato.types import StepInfo


class Bar:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, str, int]] = []

    def update(self, done: int, what: str, *, total: int) -> None:
        self.shown.append((done, what, total))


def events(steps: int, batches: int, requests: int) -> list[Any]:
    latents = torch.zeros(1, 4, 1, 1)
    return [
        event
        for _ in range(requests)
        for batch in range(1, batches + 1)
        for event in (
            *(
                StepInfo(
                    step=k, steps=steps, batch=batch, batches=batches, pass_=1, passes=1, latents=latents
                )
                for k in range(1, steps + 1)
            ),
            "a picture",
        )
    ]


@pytest.mark.parametrize(
    ("steps", "batches", "requests"), [(1, 1, 3), (4, 1, 3), (1, 2, 2), (3, 2, 2), (5, 1, 1)]
)
def test_every_step_counts_once_up_to_all(steps: int, batches: int, requests: int) -> None:
    bar = Bar()
    progress = Progress(bar, requests, "cell")  # type: ignore[arg-type]
    for event in events(steps, batches, requests):
        progress.see(event)
    whole = steps * batches * requests
    assert [done for done, _, _ in bar.shown] == list(range(1, whole + 1))
    assert {total for _, _, total in bar.shown} == {whole}
    assert bar.shown[-1][1].startswith("" if requests == 1 else f"cell {requests}/{requests}, batch")
