"""The figures are ratios of runs that took turns."""

import json
from pathlib import Path

import pytest

from benchmarks import timing


def comparison(ours: list[float], theirs: list[float]) -> timing.Comparison:
    return timing.Comparison(name="a figure", ours=ours, theirs=theirs, target=1.0, notes={"pixels": 64})


def test_runs_take_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []
    ours, theirs = timing.in_turn(lambda: order.append("A"), lambda: order.append("B"), 3, warm_up=2)
    assert "".join(order) == "AB" * 5
    assert len(ours) == len(theirs) == 3


def test_ratios_are_taken_pair_by_pair() -> None:
    measured = comparison([1.0, 4.0, 9.0], [2.0, 4.0, 3.0])
    assert measured.ratios == [0.5, 1.0, 3.0]
    fields = measured.fields()
    assert (fields["ratio_min"], fields["ratio_median"], fields["ratio_max"]) == (0.5, 1.0, 3.0)
    assert fields["pixels"] == 64


@pytest.mark.parametrize(("ours", "met"), [([1.0, 1.0, 9.0], True), ([1.0, 2.0, 2.0], False)])
def test_a_target_is_met_by_the_median_ratio(ours: list[float], met: bool) -> None:
    assert comparison(ours, [1.0, 1.0, 1.0]).met is met


def test_results_carry_the_machine_they_hold_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "RESULTS", tmp_path / "results")
    timing.write("figure", timing.machine(), [comparison([1.0], [2.0]).fields()])
    written = json.loads((tmp_path / "results" / "figure.json").read_text("utf-8"))
    assert written["machine"]["cores"] >= 1
    assert set(written["machine"]["versions"]) == set(timing.PACKAGES)
    assert written["rows"][0]["ratio_median"] == 0.5
