"""Pictures of a subject's class beside those of the subject (Ruiz et al. 2022, arXiv:2208.12242).

The loss of a picture of the class counts by the prior's weight.
"""

from collections.abc import Iterator

import torch
from PIL import Image

from sfumato.diffusion.schedules import sd_noise_levels
from sfumato.errors import TrainingError
from sfumato.pipeline.images import ENDINGS
from sfumato.train.catalogue import Scanned
from sfumato.train.config import TrainConfig
from sfumato.train.data import tensor_to_pixels
from sfumato.train.picture_config import PicturesConfig
from sfumato.train.preview import contexts_of, decode, draw_latents
from sfumato.train.texts import Texts
from sfumato.weights.atomic import atomic_file
from sfumato.weights.load import Checkpoint


def draw_class(config: TrainConfig, checkpoint: Checkpoint, pictures: PicturesConfig) -> Iterator[Scanned]:
    """Fill up the folder of pictures of the class, drawn by the checkpoint as it is, a step each.

    Args:
        config: of the run.
        checkpoint: what draws.
        pictures: says the folder (`regularisation`), the prompt and the size.

    Raises:
        TrainingError: there is no prompt for them.
    """
    assert config.model is not None
    assert pictures.regularisation is not None
    table, folder, spec = config.dreambooth, pictures.regularisation, checkpoint.spec
    if not pictures.prior_prompt:
        raise TrainingError(
            "method 'dreambooth' needs pictures.prior_prompt, of the class: \"a photo of a dog\""
        )
    folder.mkdir(parents=True, exist_ok=True)
    texts = Texts(checkpoint.text, spec.pad_token, config.model, {}, trained=False)
    contexts = contexts_of(*texts.encode([pictures.prior_prompt, ""]).chunk(2))
    side = pictures.resolution // spec.vae.reduction
    have = sum(path.suffix.lower() in ENDINGS for path in folder.iterdir())
    for number in range(have, table.class_pictures):
        generator = torch.Generator().manual_seed(config.seed + number)
        latents = draw_latents(
            checkpoint.unet,
            sd_noise_levels(zero_snr=spec.zero_terminal_snr),
            spec.prediction,
            contexts,
            torch.randn(1, spec.vae.latent_channels, side, side, generator=generator),
            guidance=table.class_guidance,
            steps=table.class_steps,
        )
        (pixels,) = tensor_to_pixels(decode(checkpoint.vae, latents))
        target = folder / f"{number:05d}.png"
        with atomic_file(target) as file:
            Image.fromarray(pixels).save(file, format="PNG")
        yield Scanned(done=number + 1, name=target.name, findings=())
