"""The configuration a user begins with is one that is read, with the published numbers."""

from pathlib import Path

import pytest

from sfumato.errors import OutputError, TrainingError
from sfumato.train.config import PUBLISHED, TUNING, read_config
from sfumato.train.templates import begin


@pytest.mark.parametrize("method", TUNING)
def test_a_configuration_to_begin_with_has_the_published_rate(method: str, tmp_path: Path) -> None:
    path = tmp_path / "fur.toml"
    begin(method, path, "sfumato-mini")
    config = read_config(path)
    assert (config.method, config.file_name) == (method, "fur")
    assert config.optimiser.rate == PUBLISHED[method]["optimiser"]["rate"]
    assert config.optimiser.text_rate is None
    with pytest.raises(OutputError, match="exists already"):
        begin(method, path, "sfumato-mini")
    commented = path.read_text("utf-8").replace("\n# min_snr_gamma", "\nmin_snr_gamma")
    for name in ("ema_decay", "clip_skip", "checkpointing", "resolution", "flip", "text_rate", "conv_rank"):
        commented = commented.replace(f"# {name} = ", f"{name} = ")
    path.write_text(commented, "utf-8")
    assert read_config(path).loss.min_snr_gamma == 5


def test_a_method_that_is_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no method 'magic' to begin with; choose lora, embedding"):
        begin("magic", tmp_path / "x.toml", "sfumato-mini")
