"""The smallest program that makes a picture with diffusers: the peer of whole runs.

    python -m benchmarks.minimal_diffusers FOLDER OUT.png STEPS SIDE DTYPE

It does what diffusers' own first example does, with the numbers and the sampler that ours uses.
"""

import sys
from typing import Any

import diffusers
import torch

PROMPT = "a slice of pizza, 3d"
GUIDANCE = 7.0


def main(folder: str, out: str, steps: int, side: int, dtype: str) -> None:
    pipeline: Any = diffusers.StableDiffusionPipeline  # its package does not say its types
    scheduler: Any = diffusers.DPMSolverMultistepScheduler
    pipe = pipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype), safety_checker=None)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    image = pipe(
        PROMPT,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        height=side,
        width=side,
        generator=torch.Generator().manual_seed(1),
    ).images[0]
    image.save(out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
