"""Checkpoints that see a picture beside the latents make what diffusers' pipelines make with them.

Small networks of random weights; the same noise, prompts and levels on both sides. Euler on four levels that
are trained ones, so that both sides ask the network at the same timesteps. The autoencoder's spread is set to
nothing, as one side takes the mean and the other draws. TOLERANCE is that of float32 over four steps.
"""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image
from skimage import data
from tests.conftest import TINY
from torch import Tensor

from sfumato.diffusion.guidance import Contexts
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.pipeline.generate import prepare
from sfumato.pipeline.networks import guided, shown
from sfumato.pipeline.opening import open_source
from sfumato.pipeline.shelf import ModelShelf
from sfumato.types import Canvas, Mask, ModelChoice, Prompt, Request, Sampling, Source
from sfumato.weights.load import save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # a peer's

TOLERANCE = 2e-5
SIDE, STEPS = 64, 4


def photograph() -> Image.Image:
    return Image.fromarray(data.astronaut()[:SIDE, 180 : 180 + SIDE])


def square() -> Image.Image:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[16:48, 8:40] = 255
    return Image.fromarray(mask)


def slope() -> Image.Image:
    return Image.fromarray(np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8))


class Both:
    """One checkpoint on either side, and a request for it."""

    def __init__(self, in_channels: int, request: Request, folder: Path, peers: ModuleType) -> None:
        spec = replace(TINY, family="beside", unet=replace(TINY.unet, in_channels=in_channels))
        networks = UNet(spec.unet), AutoencoderKL(spec.vae), CLIPText(spec.text)
        unet, vae, text = (peers.randomised(network, seed) for seed, network in enumerate(networks))
        with torch.no_grad():
            vae.quant_conv.weight[spec.vae.latent_channels :] = 0
            vae.quant_conv.bias[spec.vae.latent_channels :] = -30
        save_checkpoint(folder / "beside.safetensors", spec=spec, unet=unet, vae=vae, text=text)
        shelf = ModelShelf(folder, device="cpu", dtype="float32")
        choice = ModelChoice(checkpoint=str(folder / "beside.safetensors"))
        self.plan = prepare(replace(request, model=choice), shelf)
        self.walked = self.plan.passes[0]
        self.noise = self.walked.noise(self.plan.seeds).draw()
        told = self.walked.script.contexts
        assert isinstance(told, Contexts)
        assert told.negative is not None
        self.parts: dict[str, Any] = {
            "vae": peers.peer_vae(vae),
            "text_encoder": peers.peer_text(text),
            "tokenizer": None,
            "unet": peers.peer_unet(unet),
            "scheduler": EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="linspace",
                steps_offset=1,
            ),
        }
        self.parts["unet"].register_to_config(sample_size=SIDE // 8)
        self.call: dict[str, Any] = {
            "prompt_embeds": told.positive[0].context,
            "negative_prompt_embeds": told.negative,
            "num_inference_steps": STEPS,
            "guidance_scale": request.sampling.guidance,
            "output_type": "latent",
        }

    def ours(self, *, from_source: bool) -> Tensor:
        """The latents at the end, nothing of the source put back on the way, as the peers have it."""
        walked, opening = self.walked, open_source(self.plan)
        start = opening.start(walked.sampler, self.noise, walked.sigmas) if from_source else None
        x = self.noise * float(walked.sigmas[0]) if start is None else start
        draws: Any = None  # Euler draws nothing
        *_, last = walked.sampler.sample(
            guided(walked, shown(walked, opening)), x, walked.sigmas, draws, walked.request.solver
        )
        return last


def request(**parts: Any) -> Request:
    common = {
        "prompt": Prompt(text="a cat", negative="blurry"),
        "sampling": Sampling(sampler="Euler", schedule="Uniform", steps=STEPS, guidance=5),
        "canvas": Canvas(width=SIDE, height=SIDE, seed=3),
    }
    return Request(**common | parts)


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_an_inpainting_checkpoint_sees_mask_and_masked_picture(tmp_path: Path, peers: ModuleType) -> None:
    source = Source(image=photograph(), denoising_strength=1)
    asked = request(source=source, mask=Mask(image=square(), blur_x=0, blur_y=0))
    both = Both(9, asked, tmp_path, peers)
    pipeline = quiet(
        StableDiffusionInpaintPipeline(
            **both.parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    )
    theirs = pipeline(
        image=photograph(), mask_image=square(), height=SIDE, width=SIDE, strength=1.0, latents=both.noise,
        **both.call,
    ).images  # fmt: skip
    assert peers.relative_error(both.ours(from_source=False), theirs) < TOLERANCE


@pytest.mark.parametrize("image_guidance", [1.5, 1.0, 5.0])
def test_an_editing_checkpoint_is_guided_twice(
    tmp_path: Path, peers: ModuleType, image_guidance: float
) -> None:
    asked = request(source=Source(image=photograph(), denoising_strength=1))
    asked = replace(asked, sampling=replace(asked.sampling, image_guidance=image_guidance))
    both = Both(8, asked, tmp_path, peers)
    pipeline = quiet(
        StableDiffusionInstructPix2PixPipeline(
            **both.parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    )
    theirs = pipeline(
        image=photograph(), image_guidance_scale=image_guidance, latents=both.noise, **both.call
    ).images
    assert peers.relative_error(both.ours(from_source=False), theirs) < TOLERANCE


def test_a_depth_checkpoint_sees_the_map(
    tmp_path: Path, peers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(source=Source(image=photograph(), depth=slope(), denoising_strength=1))
    both = Both(5, asked, tmp_path, peers)
    pipeline = quiet(
        StableDiffusionDepth2ImgPipeline(**both.parts, depth_estimator=None, feature_extractor=None)
    )
    module = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_depth2img"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *args, **kwargs: both.noise)
    depth = torch.from_numpy(np.array(slope(), np.float32))[None]
    theirs = pipeline(image=photograph(), depth_map=depth, strength=1.0, **both.call).images
    assert peers.relative_error(both.ours(from_source=True), theirs) < TOLERANCE
