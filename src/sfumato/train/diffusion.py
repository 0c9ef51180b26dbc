"""The second stage: noise to latents, told by text.

Shape letters: B pictures, C latent channels, H W latent size, T tokens, E text width, N pictures of the data
set, K distinct captions.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.diffusion import losses
from sfumato.diffusion.schedules import scaled_linear_alphas_cumprod, sd_noise_levels
from sfumato.nn.clip_text import CLIPText
from sfumato.nn.unet import UNet
from sfumato.nn.vae import AutoencoderKL
from sfumato.train.autoencoder import encode_all
from sfumato.train.config import DiffusionConfig, TrainConfig
from sfumato.train.data import PictureSet
from sfumato.train.preview import contexts_of, draw_latents

Encode = Callable[[str], Sequence[int]]  # caption -> T token ids with start, end and padding


class DiffusionTask:
    """Predict noise or velocity of cached latents at random noise levels, with captions dropped at times.

    Source: Rombach et al. 2022 (arXiv:2112.10752), equation 3; caption dropout: Ho & Salimans 2022
    (arXiv:2207.12598).
    """

    def __init__(
        self,
        config: TrainConfig,
        unet: UNet,
        text: CLIPText,
        latents: Tensor,
        captions: "CaptionTable",
        decode: Callable[[Tensor], Tensor],
    ) -> None:
        assert config.diffusion is not None
        self.decode = decode  # latents of unit variance (B,C,H,W) -> images (B,3,8H,8W) in [-1, 1]
        self.unet, self.text, self.captions = unet, text, captions
        self.table: DiffusionConfig = config.diffusion
        self.batch_size = config.batch_size
        self.latents = latents  # (N,C,H,W), unit variance
        self.alphas = scaled_linear_alphas_cumprod().float()  # (1000,)
        self.dtype = next(unet.parameters()).dtype
        self.text.requires_grad_(self.table.train_text)
        self.features = None if self.table.train_text else self._encode_captions()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name what is trained."""
        named = {f"unet.{name}": p for name, p in self.unet.named_parameters()}
        if self.table.train_text:
            named |= {f"text.{name}": p for name, p in self.text.named_parameters()}
        return named

    def loss(self, rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch of latents, captions and noise levels, and measure the prediction.

        Args:
            rng: of this step.
            number: of the batch; `rng` decides what is in it.

        Returns:
            The weighted loss and its parts by name ("mse" unweighted).
        """
        rows = torch.from_numpy(rng.choice(len(self.latents), self.batch_size, p=self.captions.weights))
        clean = self.latents[rows].float()  # (B,C,H,W)
        chosen = self.captions.draw(rng, rows.numpy(), self.table.caption_dropout)  # (B,) caption numbers
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        noise = torch.randn(clean.shape, generator=generator)
        # Stratified levels: one draw from each of B equal parts, so a batch sees all of them.
        spread = (
            torch.arange(self.batch_size) + torch.rand(self.batch_size, generator=generator)
        ) / self.batch_size
        timesteps = (spread * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)  # (B,)
        timesteps = timesteps[torch.randperm(self.batch_size, generator=generator)]
        alpha_bar = self.alphas[timesteps]
        noisy = losses.add_noise(clean, noise, alpha_bar).to(self.dtype)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        predicted = self.unet(noisy, timesteps, self._context(chosen))  # (B,C,H,W)
        wanted = losses.target(clean, noise, alpha_bar, self.table.prediction)
        weights = losses.min_snr_weights(alpha_bar, self.table.min_snr_gamma, self.table.prediction)
        loss = losses.weighted_mse(predicted, wanted, weights)
        plain = losses.weighted_mse(predicted.detach(), wanted, torch.ones_like(weights))
        return loss, {"mse": float(plain)}

    @torch.no_grad()
    def pictures(self) -> Tensor | None:
        """Sample the configured prompts, each on its own fixed noise: (B,3,8H,8W) in [-1, 1]."""
        count = len(self.captions.previews)
        if not count:
            return None
        context = self.text(self.captions.previews).to(self.dtype)  # (B,T,E)
        negative = self._context(torch.zeros(count, dtype=torch.long))
        latents = draw_latents(
            self.unet,
            sd_noise_levels(),
            self.table.prediction,
            contexts_of(context, negative),
            torch.randn((count, *self.latents.shape[1:]), generator=torch.Generator().manual_seed(0)),
            guidance=self.table.guidance,
            steps=self.table.sample_steps,
        )
        return self.decode(latents)

    def _context(self, chosen: Tensor) -> Tensor:
        if self.features is not None:
            return self.features[chosen]  # (B,T,E)
        distinct, places = torch.unique(chosen, return_inverse=True)
        encoded: Tensor = self.text(self.captions.ids[distinct])  # (K,T,E)
        return encoded[places].to(self.dtype)

    @torch.no_grad()
    def _encode_captions(self) -> Tensor:
        parts = [self.text(ids) for ids in torch.split(self.captions.ids, 256)]
        return torch.cat(parts).to(self.dtype)  # (K,T,E)


class CaptionTable:
    """Every distinct caption once, as token ids; which pictures use which; the prompts of previews."""

    def __init__(self, data: PictureSet, encode: Encode, previews: Iterable[str] = ()) -> None:
        distinct = {"": 0}
        for texts in data.captions:
            for text in texts:
                distinct.setdefault(text, len(distinct))
        self.ids = torch.tensor([list(encode(text)) for text in distinct])  # (K,T)
        self.previews = torch.tensor([list(encode(text)) for text in previews])  # (B,T)
        self.rows = [np.array([distinct[text] for text in texts]) for texts in data.captions]
        self.weights = data.weights

    def draw(self, rng: np.random.Generator, pictures: Iterable[int], dropout: float) -> Tensor:
        """Choose a caption for each picture; with probability `dropout` the empty one, number 0."""
        chosen = [0 if rng.random() < dropout else int(rng.choice(self.rows[i])) for i in pictures]
        return torch.tensor(chosen)


def cached_latents(network: AutoencoderKL, data: PictureSet, cache: Path, weights_hash: str) -> Tensor:
    """Encode the data set once and keep the result under a name made of its content.

    Args:
        network: the autoencoder, in the precision to encode in; its `scale_factor` is applied.
        data: N pictures.
        cache: folder for `latents-HASH.npy`; a stale or foreign cache has another hash and is not read.
        weights_hash: identifies the autoencoder's weights.

    Returns:
        Scaled latents (N,C,H,W) float32.
    """
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    path = cache / f"latents-{data.pictures_hash}-{weights_hash[:16]}-{dtype}.npy"
    if not path.is_file():
        latents = encode_all(network, data)
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, latents.numpy())
        partial.replace(path)
    return torch.from_numpy(np.load(path)) * network.config.scale_factor
