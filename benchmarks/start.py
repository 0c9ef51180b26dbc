"""From the command to the picture: the whole process, imports included, ours against diffusers.

    python -m benchmarks.start                  # the embedded model, 1 minute; writes results/start.json
    python -m benchmarks.start --model PATH     # another checkpoint
    python -m benchmarks.start --small --model PATH   # two steps, nothing written

Ours is `sfumato txt2img`, the peer benchmarks/minimal_diffusers.py on the same weights, converted once into
a folder for it. Both make one picture of the checkpoint's own size with 20 steps of DPM++ 2M at guidance 7,
in the same dtype, each in a process of its own, in turn, after a run of each that does not count: the disk is
warm and the byte code compiled.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import timing
from benchmarks.peers import peer_unet
from sfumato.pipeline.models import choose_device, choose_dtype, find_checkpoint
from sfumato.weights.convert import convert
from sfumato.weights.detect import require_spec
from sfumato.weights.load import load_checkpoint
from sfumato.weights.sources import open_source

TARGET = 0.7
PROMPT, GUIDANCE = "a slice of pizza, 3d", 7.0  # as in minimal_diffusers, which is not to be imported here


def run(command: list[str], home: Path) -> None:
    """Run a command to its end in a home of its own. Raises CalledProcessError, with what it said before."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        print(done.stdout)
        done.check_returncode()


def compare(model: Path, home: Path, steps: int, runs: int) -> timing.Comparison:
    """Time both on one checkpoint; files go to `home`."""
    with open_source(model) as source:
        spec = require_spec(source.found, model)
    folder, picture = home / "folder", home / "theirs.png"
    convert(model, folder)
    if spec.unet.channel_mult[0] != 1:  # such a time embedding needs a setting that diffusers itself writes
        peer_unet(load_checkpoint(model, device="cpu", dtype=None).unet).save_pretrained(folder / "unet")
    dtype = str(choose_dtype(choose_device("cpu"), "auto")).removeprefix("torch.")
    ours = [str(Path(sys.executable).with_name("sfumato")), "txt2img", PROMPT, "--model", str(model)]
    ours += ["--steps", str(steps), "--sampler", "DPM++ 2M", "--schedule", "Karras", "--seed", "1"]
    ours += ["--guidance", str(GUIDANCE), "--device", "cpu", "--dtype", dtype, "--output", str(home / "ours")]
    script = Path(__file__).with_name("minimal_diffusers.py")
    side = spec.native_size
    theirs = [sys.executable, str(script), str(folder), str(picture), str(steps), str(side), dtype]
    seconds = timing.in_turn(partial(run, ours, home), partial(run, theirs, home), runs)
    assert len([*(home / "ours").glob("*.png")]) == runs + 1
    assert picture.is_file()
    return timing.Comparison(
        name=f"{model.stem}, {steps} steps",
        ours=seconds[0],
        theirs=seconds[1],
        target=TARGET,
        notes={"dtype": dtype, "pixels": f"{side}x{side}", "sampler": "DPM++ 2M", "guidance": GUIDANCE},
    )


def main() -> int:
    parser = timing.options(__doc__, runs=5)
    parser.add_argument("--model", help="a checkpoint's file (default: the embedded model)")
    chosen = parser.parse_args()
    began = timing.machine()
    model = find_checkpoint(None, Path()) if chosen.model is None else Path(chosen.model).resolve()
    with tempfile.TemporaryDirectory() as home:
        row = timing.show(compare(model, Path(home), 2 if chosen.small else 20, chosen.runs))
    if chosen.small:
        return 0
    timing.write("start", began, [row.fields()])
    return int(not row.met)


if __name__ == "__main__":
    sys.exit(main())
