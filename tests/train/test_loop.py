"""A run is a function of its configuration: stopping and resuming changes nothing, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import TrainingError
from sfumato.train.config import AutoencoderConfig, DataConfig, DiffusionConfig, OptimiserConfig, TrainConfig
from sfumato.train.loop import STATE, TrainStep, averaged_weights, fingerprint, train
from sfumato.train.report import append_log, parts_at, read_log
from sfumato.train.state import TrainState


class Line:
    """Fit a small network to a line; a task as small as one can be."""

    def __init__(self, dtype: torch.dtype = torch.float32, broken_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)).to(dtype)
        self.calls, self.broken_at = 0, broken_at

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def loss(self, rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        x = torch.from_numpy(rng.standard_normal((8, 16))).float()
        error = self.network(x.to(self.network[0].weight.dtype)).float() - x.sum(1, keepdim=True)
        self.calls += 1
        loss = error.square().mean()
        if self.calls == self.broken_at:
            loss = loss * float("nan")
        return loss, {"error": float(error.detach().abs().mean())}

    def pictures(self) -> Tensor:
        return torch.zeros(2, 3, 8, 8)


def config(folder: Path, steps: int = 40, **changes: object) -> TrainConfig:
    fields: dict[str, object] = {
        "method": "autoencoder",
        "output": folder,
        "steps": steps,
        "save_every": 10,
        "sample_every": 20,
        "ema_decay": 0.9,
        "data": DataConfig(folder=folder),
        "autoencoder": AutoencoderConfig(),
        "optimiser": OptimiserConfig(rate=1e-2, warmup_steps=5, matrices="muon"),
    }
    return TrainConfig.model_validate(fields | changes)


def fresh(task: Line, settings: TrainConfig) -> TrainState:
    return TrainState(task.parameters(), settings.optimiser, settings.ema_decay)


def trained(task: Line, settings: TrainConfig, state: TrainState | None = None) -> Iterator[TrainStep]:
    state = state or fresh(task, settings)
    path, mark = settings.output / STATE, fingerprint(settings, {})
    return train(task, settings, state, lambda parts: state.save(path, mark))


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, matrices: str
) -> None:
    optimiser = OptimiserConfig(rate=1e-2, warmup_steps=5, matrices=matrices)  # type: ignore[arg-type]
    whole, first, second = Line(dtype), Line(dtype), Line(dtype)
    straight = config(tmp_path / "a", optimiser=optimiser)
    undisturbed = fresh(whole, straight)
    list(trained(whole, straight, undisturbed))

    halves = config(tmp_path / "b", optimiser=optimiser)
    for step in trained(first, halves):
        if step.step == 27:  # killed: the last save is that of step 20
            break
    resumed = fresh(second, halves)
    resumed.load(tmp_path / "b" / STATE, fingerprint(halves, {}))
    assert resumed.step == 20
    list(trained(second, halves, resumed))

    for a, b in zip(undisturbed.master, resumed.master, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(undisturbed.average, resumed.average, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    drop = {"seconds"}
    rows = [[{k: v for k, v in row.items() if k not in drop} for row in read_log(tmp_path / x)] for x in "ab"]
    assert rows[0] == rows[1]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    settings = config(tmp_path, steps=150)
    task = Line()
    losses = [step.parts["loss"] for step in trained(task, settings)]
    assert np.mean(losses[-20:]) < 0.2 * np.mean(losses[:20])


def test_stopping_the_iterator_stops_the_run(tmp_path: Path) -> None:
    settings = config(tmp_path)
    task = Line()
    for step in trained(task, settings):
        if step.step == 3:
            break
    assert task.calls == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_save(tmp_path: Path) -> None:
    settings = config(tmp_path)
    task = Line(broken_at=15)
    with pytest.raises(TrainingError, match=r"step 14: the loss is nan.*resume"):
        list(trained(task, settings))
    restored = fresh(Line(), settings)
    restored.load(tmp_path / STATE, fingerprint(settings, {}))
    assert restored.step == 10
    assert all(torch.isfinite(m).all() for m in restored.master)


def test_a_state_of_another_configuration_is_refused(tmp_path: Path) -> None:
    settings = config(tmp_path, steps=10)
    task = Line()
    list(trained(task, settings))
    other = config(tmp_path, seed=1)
    with pytest.raises(TrainingError, match="another run: seed was 0, is 1; restore"):
        fresh(task, other).load(tmp_path / STATE, fingerprint(other, {}))


def test_a_longer_run_may_resume_a_shorter_one(tmp_path: Path) -> None:
    assert fingerprint(config(tmp_path, steps=10), {}) == fingerprint(config(tmp_path, steps=20), {})


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_but_not_where_its_rate_would_have_been_another(tmp_path: Path, decay: str) -> None:
    optimiser = OptimiserConfig(decay=decay)  # type: ignore[arg-type]
    short, long = (config(tmp_path, steps=steps, optimiser=optimiser) for steps in (10, 20))
    assert fingerprint(short, {}) != fingerprint(long, {})


def test_what_changes_no_number_may_change(tmp_path: Path) -> None:
    plain = DiffusionConfig(base=Path("one"))
    shown = DiffusionConfig(base=Path("two"), prompts=("a cat",), guidance=2.0, sample_steps=3)
    before = config(tmp_path, method="diffusion", diffusion=plain)
    after = config(tmp_path / "b", method="diffusion", diffusion=shown, data=DataConfig(folder=Path("c")))
    assert fingerprint(before, {"diffusion.base": "1"}) == fingerprint(after, {"diffusion.base": "1"})
    assert fingerprint(before, {"diffusion.base": "1"}) != fingerprint(after, {"diffusion.base": "2"})


def test_a_log_cut_in_the_middle_of_a_line_loses_that_line_only(tmp_path: Path) -> None:
    for step in (1, 2):
        append_log(tmp_path, {"step": step, "loss": 0.5})
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    append_log(tmp_path, {"step": 3, "loss": 0.25})
    assert read_log(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 3, "loss": 0.25}]
    assert parts_at(tmp_path, 3) == {"loss": 0.25}
    assert parts_at(tmp_path, 2) == {}


def test_a_task_with_nothing_to_show_is_trained_all_the_same(tmp_path: Path) -> None:
    class Blind(Line):
        def pictures(self) -> None:  # type: ignore[override]
            return None

    assert len(list(trained(Blind(), config(tmp_path, steps=20)))) == 20
    assert not (tmp_path / "pictures").exists()


def test_averaged_weights_come_off_bit_equal(tmp_path: Path) -> None:
    settings = config(tmp_path, steps=10)
    task = Line(torch.bfloat16)
    state = fresh(task, settings)
    list(trained(task, settings, state))
    before = [p.detach().clone() for p in task.network.parameters()]
    with averaged_weights(state):
        assert not all(torch.equal(a, b) for a, b in zip(before, task.network.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, task.network.parameters(), strict=True))


def test_pictures_plot_and_log_are_written(tmp_path: Path) -> None:
    settings = config(tmp_path)
    task = Line()
    list(trained(task, settings))
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["0000020.png", "0000040.png"]
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert [row["step"] for row in read_log(tmp_path)] == list(range(1, 41))
