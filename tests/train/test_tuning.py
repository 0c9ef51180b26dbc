"""Five methods, one loop: what is trained on a checkpoint is what its file does when it is used."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.conftest import TINY
from torch import Tensor, nn

from sfumato.errors import SfumatoError, TrainingError
from sfumato.train import tuning
from sfumato.train.batches import Batch
from sfumato.train.config import TrainConfig
from sfumato.train.lora import changed_layers
from sfumato.train.state import TrainState
from sfumato.weights.adapters import tools
from sfumato.weights.adapters.apply import Adapted, Part, Use
from sfumato.weights.adapters.embeddings import read_embedding
from sfumato.weights.adapters.hypernetworks import read_hypernetwork
from sfumato.weights.adapters.read import read_adapter
from sfumato.weights.files import read_safetensors
from sfumato.weights.header import read_header
from sfumato.weights.layouts import build_empty
from sfumato.weights.load import load_checkpoint
from sfumato.weights.specs import MODELS

Train = Callable[..., Path]
FAST = "[optimiser]\nrate = 1e-2\n"
METHODS = {  # method: tables, file
    "lora": ("[optimiser]\nrate = 1e-2\ntext_rate = 5e-3\n[lora]\nrank = 2\n", "thing.safetensors"),
    "embedding": (FAST + '[embedding]\ninit = "field"\nvectors = 2\n', "thing.safetensors"),
    "dreambooth": (FAST + "[dreambooth]\nclass_pictures = 2\nclass_steps = 2\n", "thing.safetensors"),
    "finetune": ("[optimiser]\nrate = 1e-3\ntext_rate = 1e-3\n", "thing.safetensors"),
    "hypernetwork": (FAST + '[hypernetwork]\nactivation = "relu"\nlayer_norm = true\n', "thing.pt"),
}


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_a_kill_and_two_more_are_four_to_the_bit(
    method: str, tune: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, file = METHODS[method]
    fields = {"ema_decay": 0.5, "accumulate": 2}
    whole = tune(method, tables, name='"thing"', output="whole", **fields)
    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "apply_gradients", _dying(TrainState.apply_gradients, 3))
        with pytest.raises(KeyboardInterrupt):
            tune(method, tables, name='"thing"', output="halves", **fields)
    halves = tune(method, tables, name='"thing"', output="halves", resume=True, **fields)
    for name in ("state.safetensors", file):
        assert (whole / name).read_bytes() == (halves / name).read_bytes(), name


def _dying(step: Callable[..., float], at: int) -> Callable[..., float]:
    def dies(state: TrainState, rate: float) -> float:
        if state.step == at:
            raise KeyboardInterrupt
        return step(state, rate)

    return dies


@pytest.mark.parametrize("name", ["adafactor", "lion", "prodigy"])
def test_every_optimiser_resumes_to_the_bit(name: str, tune: Train) -> None:
    tables = f'[optimiser]\nname = "{name}"\nrate = {1.0 if name == "prodigy" else 1e-3}\n[lora]\nrank = 2\n'
    whole = tune("lora", tables, name='"thing"', output="whole")
    tune("lora", tables, name='"thing"', output="halves", steps=2)
    halves = tune("lora", tables, name='"thing"', output="halves", resume=True)
    for file in ("state.safetensors", "thing.safetensors"):
        a, b = (read_safetensors(folder / file) for folder in (whole, halves))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("crop", ["true", "false"])
def test_data_of_many_shapes_resume_to_the_bit(tune: Train, tmp_path: Path, crop: str) -> None:
    folder = tmp_path / "shapes"
    (folder / "masks").mkdir(parents=True)
    for number, size in enumerate([(64, 64), (90, 60), (50, 100), (65, 66), (128, 60)]):
        Image.linear_gradient("L").resize(size).rotate(90 * number).save(folder / f"{number}.png")
        Image.new("L", size, 50 * number).save(folder / "masks" / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a, b, c, number {number}")
    tables = (
        f'[lora]\nrank = 2\n[pictures]\nsource = "{folder}"\nflip = true\nrandom_crop = {crop}\n'
        'masks = "masks"\n[pictures.captions]\nshuffle = true\ndropout = 0.3\n'
    )
    whole = tune("lora", tables, name='"thing"', output="whole", steps=7, save_every=3)
    for steps in (3, 6, 7):  # other rounds and batches at each stop
        halves = tune(
            "lora", tables, name='"thing"', output="halves", steps=steps, save_every=3, resume=steps > 3
        )
    for file in ("state.safetensors", "thing.safetensors"):
        assert (whole / file).read_bytes() == (halves / file).read_bytes()


def test_changed_captions_are_told_when_a_run_is_resumed(tune: Train, pictures: Path) -> None:
    tune("lora", "[lora]\nrank = 2", steps=2)
    (pictures / "1.txt").write_text("something else")
    with pytest.raises(TrainingError, match=r"pictures\.captions was .{16}, is .{16}"):
        tune("lora", "[lora]\nrank = 2", resume=True)


def test_captions_longer_than_a_model_reads_are_left_out_before_it_starts(
    tune: Train, pictures: Path, tiny_checkpoint: Path
) -> None:
    (pictures / "1.txt").write_text("cat " * 100)
    tables = f'[lora]\nrank = 2\n[model]\nbase = "{tiny_checkpoint}"\nmax_chunks = 1\n'
    made = tune("lora", tables, name='"thing"') / "thing.safetensors"
    told = json.loads(read_header(made).metadata["ss_dataset_dirs"])
    assert told["pictures"]["img_count"] == 3


class Trained:
    """A run's networks as they stand at its end, and those of the untouched checkpoint."""

    def __init__(self, tune: Train, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tune, self.base = tune, load_checkpoint(tiny, device="cpu", dtype=torch.float32)
        self.task: tuning.TuningTask
        made = tuning.TuningTask.__init__

        def kept(task: tuning.TuningTask, *args: object) -> None:
            made(task, *args)  # type: ignore[arg-type]
            self.task = task

        monkeypatch.setattr(tuning.TuningTask, "__init__", kept)

    @torch.no_grad()
    def outputs(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What the trained U-Net and the base's, as it is now, make of the same input."""
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        timesteps = torch.tensor([10.0, 900.0])
        return self.task.unet(x, timesteps, context), self.base.unet(x, timesteps, context)


@pytest.fixture
def trained(tune: Train, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    return Trained(tune, tiny_checkpoint, monkeypatch)


IDS = torch.arange(154).view(2, 77) * 11
# The same float32 sums, of thin products beside the layer or of a merged weight: units in the last place.
CLOSE = 1e-4


@pytest.mark.parametrize("targets", ["cross-attention", "attention", "transformers"])
@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
def test_a_file_does_what_was_trained(kind: str, targets: str, trained: Trained) -> None:
    tables = f'{METHODS["lora"][0]}kind = "{kind}"\ntargets = "{targets}"\nalpha = 3\ndtype = "float32"\n'
    folder = trained.tune("lora", tables + "conv_rank = 2\nconv_alpha = 1\n")
    with torch.no_grad():
        after, before = trained.task.checkpoint.text(IDS), trained.base.text(IDS)
    fitted = tools.fit_to(read_adapter(folder / "thing.safetensors"), TINY)
    assert not fitted.unmatched
    digest = fitted.adapter.digest
    for network, wears in ((trained.base.text, "text"), (trained.base.unet, "unet")):
        Adapted(network).use((Use(part=Part(digest=digest, pieces=fitted.parts[wears]), strength=1.0),))
    with torch.no_grad():
        worn = trained.base.text(IDS)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(worn, after, rtol=0, atol=CLOSE)
    ours, loaded = trained.outputs(after)
    torch.testing.assert_close(loaded, ours, rtol=0, atol=CLOSE * float(ours.abs().max()))


def test_a_hypernetwork_does_what_was_trained(trained: Trained) -> None:
    path = trained.tune("hypernetwork", METHODS["hypernetwork"][0]) / "thing.pt"
    made = read_hypernetwork(path)
    context = trained.base.text(IDS)
    ours, plain = trained.outputs(context)
    assert (ours - plain).abs().max() > 0.01 * plain.abs().max()
    part = Part(digest=made.digest, pieces=made.pieces(trained.base.unet))
    Adapted(trained.base.unet).use((Use(part=part, strength=1.0),))
    ours, loaded = trained.outputs(context)
    torch.testing.assert_close(loaded, ours, rtol=0, atol=CLOSE * float(ours.abs().max()))


def test_an_embedding_is_the_word_that_was_trained(trained: Trained) -> None:
    made = read_embedding(trained.tune("embedding", METHODS["embedding"][0]) / "thing.safetensors")
    (vectors,) = trained.task.parameters().values()
    assert made.name == "thing"
    assert (made.step, made.checkpoint) == (4, "tiny")
    assert torch.equal(made.vectors, vectors.detach())
    table = trained.base.text.text_model.embeddings.token_embedding.weight
    assert 1e-3 < (made.vectors - table[trained.task.texts.tokenizer.encode("field")]).abs().max() < 0.1
    for network in (trained.task.unet, trained.task.checkpoint.text):
        assert all(not parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("method", ["finetune", "dreambooth"])
def test_a_tuned_checkpoint_is_what_was_trained(method: str, trained: Trained) -> None:
    folder = trained.tune(
        method, METHODS[method][0] + ('dtype = "float32"' if method == "dreambooth" else "")
    )
    loaded = load_checkpoint(folder / "thing.safetensors", device="cpu", dtype=torch.float32)
    assert loaded.spec == trained.base.spec
    close = 2e-3 if method == "finetune" else 0  # kept in float16 where nothing is said
    for name in ("unet", "text", "vae"):
        one, other = getattr(loaded, name).state_dict(), getattr(trained.task.checkpoint, name).state_dict()
        for key in one:
            torch.testing.assert_close(one[key], other[key], rtol=close, atol=close)
        changed = any(
            not torch.equal(other[k], v) for k, v in getattr(trained.base, name).state_dict().items()
        )
        assert changed == (name == "unet" or (name == "text" and method == "finetune"))


def test_layers_are_as_many_as_the_published_ones() -> None:
    unet, text = (build_empty(name, MODELS["sd-1.x"]) for name in ("unet", "text"))
    count = {
        (targets, convolutions): len(list(changed_layers(unet, targets, convolutions=convolutions)))
        for targets in ("cross-attention", "attention", "transformers")
        for convolutions in (False, True)
    }
    assert count["cross-attention", False] == 64
    assert count["attention", False] == 128
    assert count["transformers", False] == 192
    assert count["transformers", True] == 192 + 86
    assert sum(isinstance(each, nn.Linear) for each in text.modules()) == 72


def test_a_lora_says_how_it_was_made(tune: Train) -> None:
    path = tune("lora", METHODS["lora"][0]) / "thing.safetensors"
    header = read_header(path)
    assert {"up", "down"} == {
        key.split(".lora_")[1].split(".")[0] for key in header.tensors if "lora_" in key[9:]
    }
    told = {
        "ss_output_name": "thing",
        "ss_sd_model_name": "tiny",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "2",
        "ss_unet_lr": "0.01",
        "ss_text_encoder_lr": "0.005",
        "ss_steps": "4",
        "ss_epoch": "2",
        "ss_num_train_images": "4",
        "ss_optimizer": "adamw",
    }
    assert told.items() <= header.metadata.items()
    assert str(path.parent) not in str(header.metadata)


def test_the_text_encoder_has_a_rate_of_its_own(trained: Trained) -> None:
    tables = (
        "[optimiser]\nrate = 1e-3\ntext_rate = 1e-2\nwarmup_steps = 0\nweight_decay = 0.0\n[lora]\nrank = 2\n"
    )
    trained.tune("lora", tables, steps=1)
    most = {"unet": 0.0, "text": 0.0}
    for name, parameter in trained.task.parameters().items():
        if name.endswith(".up"):  # begins at zero, so Adam's first step is what it is now
            network = name.split(".")[0]
            most[network] = max(most[network], float(parameter.detach().abs().max()))
    assert most["unet"] == pytest.approx(1e-3, rel=1e-3)
    assert most["text"] == pytest.approx(1e-2, rel=1e-3)


def test_two_half_batches_are_a_whole_one(trained: Trained) -> None:
    trained.tune("lora", METHODS["lora"][0], steps=1)
    task = trained.task
    noise, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([100, 800])
    whole = task.batches.draw(0)

    def gradients(parts: list[slice]) -> list[Tensor]:
        for part in parts:
            batch = Batch(
                latents=whole.latents[part], prompts=whole.prompts[part], weights=whole.weights[part]
            )
            loss, _ = task.measure(batch, noise[part], timesteps[part])
            (loss / len(parts)).backward()  # type: ignore[no-untyped-call]
        found = [
            parameter.grad.clone() for parameter in task.parameters().values() if parameter.grad is not None
        ]
        for parameter in task.parameters().values():
            parameter.grad = None
        return found

    for one, other in zip(gradients([slice(0, 2)]), gradients([slice(0, 1), slice(1, 2)]), strict=True):
        most = float(one.abs().max())  # float32 sums in another order
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 + 1e-4 * most)


def test_recomputing_activations_changes_no_number(tune: Train, tiny_checkpoint: Path) -> None:
    model = f'[model]\nbase = "{tiny_checkpoint}"\n'
    files = [
        tune("lora", METHODS["lora"][0] + model + extra, name='"thing"', output=output) / "thing.safetensors"
        for output, extra in (("plain", ""), ("again", "checkpointing = true\n"))
    ]
    one, other = map(read_safetensors, files)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_mask_and_weights_say_where_the_loss_counts(trained: Trained) -> None:
    trained.tune("lora", METHODS["lora"][0], steps=1)
    whole = trained.task.batches.draw(0)
    noise, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([100, 800])
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :3] = 1
    halves = [
        float(trained.task.measure(replace(whole, mask=each), noise, timesteps)[0].detach())
        for each in (mask, 1 - mask, None)
    ]
    assert halves[0] + halves[1] == pytest.approx(halves[2], rel=1e-5)
    none = replace(whole, weights=torch.tensor([0.0, 0.0]))
    assert float(trained.task.measure(none, noise, timesteps)[0].detach()) == 0


def test_one_picture_is_enough(tune: Train, pictures: Path) -> None:
    for number in (1, 2, 3):
        (pictures / f"{number}.png").unlink()
    assert (tune("lora", METHODS["lora"][0]) / "thing.safetensors").is_file()


def test_previews_are_drawn(tune: Train) -> None:
    tables = METHODS["lora"][0] + '[preview]\nprompts = ["a field", "thing"]\nsteps = 2\n'
    folder = tune("lora", tables, sample_every=2)
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["0000002.png", "0000004.png"]
    with Image.open(folder / "pictures" / "0000004.png") as image:
        assert image.size == (128, 64)


@pytest.mark.parametrize(
    ("method", "tables", "fields", "message"),
    [
        ("lora", "[lora]\nrank = 0", {}, "lora.rank: Input should be greater than or equal to 1, got '0'"),
        ("lora", "[optimiser]\nrate = 0", {}, "optimiser.rate: Input should be greater than 0"),
        ("lora", "[optimiser]\nrate = 1e9", {}, "optimiser.rate: Input should be less than or equal to 1"),
        ("lora", "[optimiser]\ntext_rate = 1e9", {}, "optimiser.text_rate: Input should be less than"),
        ("lora", "", {"name": '"tiny"'}, "the result would be called 'tiny' like its base"),
        ("lora", "", {"name": '"../x"'}, "name: String should match"),
        ("lora", "[lora]\nranks = 3", {}, "lora.ranks is not known; did you mean rank[?]"),
        ("lora", '[model]\nbase = "nothing"', {}, "nothing"),
        ("lora", "[pictures]\nsource = 'nothing'", {}, "there is nothing at nothing"),
        ("lora", '[optimiser]\nname = "adamw8bit"', {}, "runs on CUDA, not on cpu; choose adamw"),
        ("lora", '[optimiser]\nname = "lion"\nmatrices = "muon"', {}, "goes with name='adamw'"),
        ("lora", '[optimiser]\nname = "prodigy"\ntext_rate = 0.5', {}, "Prodigy has one rate"),
        ("lora", "[loss]\nzero_terminal_snr = true", {}, "needs a checkpoint that predicts v"),
        ("lora", "[loss]\ntimesteps = [9, 3]", {}, "must rise within 0 to 999"),
        ("lora", "[loss]\ndebiased = true\nmin_snr_gamma = 5", {}, "choose one"),
        ("lora", "[preview]\nwidth = 100", {}, "preview.width=100 is not a multiple of 8"),
        ("lora", "", {"device": '"gpu9"'}, "device='gpu9' is not on this machine"),
        ("embedding", "[optimiser]\ntext_rate = 1e-3", {}, "trains no text encoder"),
        (
            "embedding",
            '[embedding]\nuse = "caption"',
            {},
            "the caption 'a field, number .' lacks the word 'thing'",
        ),
        ("finetune", "[finetune]\nunet = false", {}, "nothing would train"),
        ("dreambooth", "[pictures]\nsource = 'nothing'", {}, r"needs pictures\.prior_prompt"),
        ("lora", "[data]\nfolder = 'x'", {}, r"reads \[pictures\], not \[data\]"),
        ("hypernetwork", "[hypernetwork]\nlayers = [1, 2]", {}, "must begin and end with 1"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_line(
    method: str, tables: str, fields: dict[str, str], message: str, tune: Train
) -> None:
    with pytest.raises(SfumatoError, match=message) as caught:
        tune(method, tables, **fields)
    assert "\n" not in str(caught.value)


def test_a_changed_run_is_not_resumed_and_the_difference_is_said(tune: Train) -> None:
    tune("lora", METHODS["lora"][0], steps=2)
    changed = METHODS["lora"][0].replace("rank = 2", "rank = 3")
    with pytest.raises(TrainingError, match=r"another run: lora\.rank was 2, is 3; restore that"):
        tune("lora", changed, resume=True)


def test_a_state_from_before_there_was_a_setting_counts_as_its_default() -> None:
    before = {"seed": 0, "steps": 4}
    from sfumato.train.state import _changes

    assert (
        _changes(
            before, before | {"accumulate": 1, "optimiser.name": "adamw", "optimiser.betas": [0.9, 0.99]}
        )
        == []
    )
    assert _changes(before, before | {"accumulate": 2}) == ["accumulate was 1, is 2"]


def test_what_is_given_goes_before_what_is_published() -> None:
    fields = {"method": "lora", "output": "x", "steps": 1, "optimiser": {"rate": 0.5}}
    config = TrainConfig.model_validate(fields)
    assert (config.optimiser.rate, config.optimiser.betas, config.batch_size) == (0.5, (0.9, 0.999), 1)
    assert TrainConfig.model_validate(fields | {"batch_size": 7}).batch_size == 7
