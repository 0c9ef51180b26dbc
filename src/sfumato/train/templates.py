"""A configuration to begin with for each method, every line of which says what it is for."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sfumato.errors import OutputError, TrainingError
from sfumato.weights.atomic import atomic_file

_HEAD = """\
# {does}
# Change what is below, then:   sfumato train {file}
# A run that was stopped goes on with --resume. {use}
method = "{method}"
output = "runs/{name}"      # a folder: the result, what is needed to go on, pictures, the loss
name = "{name}"             # what the result is called
steps = {steps}
batch_size = {batch}
accumulate = 1              # batches a step
save_every = 100
sample_every = 100
# ema_decay = 0.999         # keep an average of the weights, and write that

[model]
base = "{base}"      # a name from the models folder, or a path
# clip_skip = 2             # as anime models want it
# checkpointing = true      # less memory, a third more time

[pictures]
source = "pictures"         # a folder with a .txt of the same name beside each picture, a .zip, .jsonl …
# resolution = 512          # unset = what the base was trained at
# flip = true               # mirror half of them
{pictures}
[optimiser]
name = "adamw"              # or adafactor, lion, prodigy (with rate = 1), adamw8bit (on CUDA)
rate = {rate}
{text}decay = "constant"          # or cosine, linear
warmup_steps = 0

[loss]
# min_snr_gamma = 5         # steadier; or debiased = true
# noise_offset = 0.05       # for very dark or bright pictures
{table}
[preview]                   # drawn at every sample, on the same noise
prompts = [{prompts}]
"""
_TEXT = "# text_rate = {rate}          # train the text encoder, too\n"
_LORA = """
[lora]
kind = "lora"               # or dora, loha, lokr
rank = 16
alpha = 16                  # the change is scaled by alpha / rank
targets = "cross-attention" # where picture and text meet; or attention, transformers
# conv_rank = 8             # residual blocks, too (LoCon)
"""
_EMBEDDING = """
[embedding]
init = "object"             # a word that is near to what is learnt
vectors = 2                 # how many tokens it takes
use = "object"              # or style; "caption" where your captions have the word
"""
_DREAMBOOTH = """
[dreambooth]
class_pictures = 200        # drawn by the base before it is trained
"""
_HYPERNETWORK = """
[hypernetwork]
layers = [1, 2, 1]
activation = "linear"       # or relu, swish, mish …
"""
_SUBJECT = """\
prompt = "a photo of sks dog"      # of pictures without a caption: a rare word and the class
prior_prompt = "a photo of a dog"  # the class, which is to stay as it is
prior_weight = 1.0
"""
_ADD = "Use it: sfumato models add runs/{name}/{name}.safetensors, then"
_FIELDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "lora": {
            "does": "A LoRA: a small file that changes how a checkpoint draws.",
            "use": f"{_ADD} <lora:{{name}}:0.8> in a prompt.",
            "steps": "1500",
            "batch": "2",
            "rate": "1e-4",
            "table": _LORA,
            "pictures": "",
            "text": _TEXT.format(rate="5e-5"),
        },
        "embedding": {
            "does": "Textual inversion: a word whose vectors are learnt.",
            "use": "Put runs/{name}/{name}.safetensors into models/embeddings, and {name} into prompts.",
            "steps": "3000",
            "batch": "1",
            "rate": "5e-4",
            "table": _EMBEDDING,
            "pictures": "",
            "text": "",
        },
        "dreambooth": {
            "does": "DreamBooth: a checkpoint that knows one subject, and its class as before.",
            "use": f"{_ADD} --model {{name}}.",
            "steps": "1000",
            "batch": "1",
            "rate": "5e-6",
            "table": _DREAMBOOTH,
            "pictures": _SUBJECT,
            "text": _TEXT.format(rate="2e-6"),
        },
        "finetune": {
            "does": "A whole checkpoint, trained further.",
            "use": f"{_ADD} --model {{name}}.",
            "steps": "5000",
            "batch": "4",
            "rate": "1e-5",
            "table": "",
            "pictures": "",
            "text": _TEXT.format(rate="2e-6"),
        },
        "hypernetwork": {
            "does": "A hypernetwork: small networks before the keys and values of attention.",
            "use": "Put runs/{name}/{name}.pt into models/hypernetworks, <hypernet:{name}:1> into prompts.",
            "steps": "5000",
            "batch": "1",
            "rate": "5e-5",
            "table": _HYPERNETWORK,
            "pictures": "",
            "text": "",
        },
    }
)


def template(method: str, file: Path, base: str) -> str:
    """Write a commented configuration.

    Args:
        method: one of `config.TUNING`.
        file: where it will be; its name becomes the run's.
        base: the checkpoint.

    Raises:
        TrainingError: no such method.
    """
    if method not in _FIELDS:
        raise TrainingError(f"there is no method {method!r} to begin with; choose {', '.join(_FIELDS)}")
    fields = {**_FIELDS[method], "method": method, "name": file.stem, "file": str(file), "base": base}
    fields["use"] = fields["use"].format(**fields)
    subject = "a photo of sks dog" if method == "dreambooth" else file.stem
    return _HEAD.format(prompts=f'"{subject}", "a cat"', **fields)


def begin(method: str, file: Path, base: str) -> None:
    """Write a commented configuration to a new file.

    Raises:
        TrainingError: no such method.
        OutputError: the file exists or cannot be written.
    """
    text = template(method, file, base)
    if file.exists():
        raise OutputError(f"{file} exists already; choose another name or remove it")
    with atomic_file(file) as stream:
        stream.write(text.encode())
