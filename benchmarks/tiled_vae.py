"""The autoencoder in tiles beside the whole: the largest difference on a photograph, and peak memory.

    python -m benchmarks.tiled_vae            # a minute on two cores; writes results/tiled_vae.json
    python -m benchmarks.tiled_vae --small    # a small crop, nothing written

The photograph (coffee from scikit-image, CC0) is encoded and decoded by the embedded model, both ways.
Memory is the highest resident set of a process that decodes 1024×1024 with the embedded model in bfloat16,
each way in its own process. The exit code is 1 when pixels differ by more than 2/255.
"""

import json
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks import memory, timing
from sfumato.nn.tiled_vae import decode_tiled, encode_tiled
from sfumato.pipeline.models import embedded_model
from sfumato.weights.load import load_vae

LIMIT = 2  # of 255
TILE, HELD = 256, 2**24  # pixels of a tile's side; numbers held between two norms
SIDE = 1024  # of the picture whose memory is measured


def photograph(side: int) -> Tensor:
    """A photograph (1,3,side,side) in [-1, 1]."""
    from PIL import Image
    from skimage import data

    pixels: Any = data.coffee()  # type: ignore[no-untyped-call]
    image = Image.fromarray(pixels[:400, 100:500]).resize((side, side))
    values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, side, side, 3)
    return values.permute(0, 3, 1, 2).float() / 127.5 - 1


def differences(side: int) -> dict[str, Any]:
    """How far pictures in tiles are from the whole: of 255, encoding and decoding."""
    vae = load_vae(embedded_model(), device="cpu", dtype=torch.float32)
    pixels = photograph(side)
    whole, _ = vae.encode(pixels)
    tiled, _ = encode_tiled(vae, pixels, tile=TILE, held=HELD)
    pictures = [vae.decode(whole), vae.decode(tiled), decode_tiled(vae, whole, tile=TILE, held=HELD)]
    bytes_of = [(each.clamp(-1, 1) + 1) * 127.5 for each in pictures]
    return {
        "pixels": f"{side}x{side}",
        "tile": TILE,
        "encoding_of_255": round(float((bytes_of[0] - bytes_of[1]).abs().max()), 3),
        "decoding_of_255": round(float((bytes_of[0] - bytes_of[2]).abs().max()), 3),
    }


def run_child(way: str, side: int) -> None:
    """Decode random latents in this process and say what that took at its peak."""
    vae = load_vae(embedded_model(), device="cpu", dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    shape = (1, vae.config.latent_channels, side // vae.config.reduction, side // vae.config.reduction)
    latents = torch.randn(shape, generator=generator).to(torch.bfloat16)
    latents = latents.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        out = decode_tiled(vae, latents, tile=TILE, held=HELD) if way == "tiles" else vae.decode(latents)
    assert out.isfinite().all()
    print(json.dumps(memory.resident()))


def peak(way: str, side: int) -> float:
    """GB at the peak of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.tiled_vae", "--child", way, str(side)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["peak"])


@torch.no_grad()
def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], int(sys.argv[3]))
        return 0
    chosen = timing.options(__doc__, runs=1).parse_args()
    began = timing.machine()
    row = {"name": "largest difference, photograph"} | differences(256 if chosen.small else 512)
    met = max(row["encoding_of_255"], row["decoding_of_255"]) <= LIMIT
    rows = [row | {"target_of_255": LIMIT, "met": met}]
    side = SIDE // 4 if chosen.small else SIDE
    peaks = {f"{way}_gb": round(peak(way, side), 3) for way in ("whole", "tiles")}
    rows.append({"name": "peak memory of decoding", "pixels": f"{side}x{side}"} | peaks)
    for each in rows:
        print(json.dumps(each), flush=True)
    if not chosen.small:
        timing.write("tiled_vae", began, rows)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
