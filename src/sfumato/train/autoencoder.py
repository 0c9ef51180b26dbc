"""The first stage: pictures to latents and back.

Shape letters: B pictures, C latent channels, H W pixels, N pictures of the data set.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.vae import AutoencoderKL
from sfumato.train.config import AutoencoderConfig, TrainConfig
from sfumato.train.data import PictureSet, draw_pictures, pixels_to_tensor

VALIDATION_PICTURES = 32


class AutoencoderTask:
    """Reconstruction, edges and a small divergence from the standard normal (Rombach et al. 2022, 3.1)."""

    def __init__(self, config: TrainConfig, network: AutoencoderKL, data: PictureSet) -> None:
        assert config.autoencoder is not None
        assert config.data is not None
        self.network, self.data = network, data
        self.table: AutoencoderConfig = config.autoencoder
        self.variations, self.batch_size = config.data, config.batch_size
        if self.table.freeze_encoder:
            for part in (network.encoder, network.quant_conv):
                part.requires_grad_(False)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name what is trained."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def loss(self, rng: np.random.Generator, number: int) -> tuple[Tensor, dict[str, float]]:
        """Draw a batch and measure it.

        Args:
            rng: of this step.
            number: of the batch; `rng` decides what is in it.

        Returns:
            The loss and its parts by name: "psnr" in dB, the others as they enter the sum.
        """
        pictures = draw_pictures(self.data, self.variations, rng, self.batch_size)  # (B,3,H,W)
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        dtype = next(self.network.parameters()).dtype
        mean, logvar = self.network.encode(pictures.to(dtype))  # (B,C,H/8,W/8) each
        mean, logvar = mean.float(), logvar.float()
        latents = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=noise)
        images = self.network.decode(latents.to(dtype)).float()  # (B,3,H,W)
        mse = F.mse_loss(images, pictures)
        parts = {
            "l1": self.table.l1 * F.l1_loss(images, pictures),
            "mse": self.table.mse * mse,
            "edges": self.table.edges * edge_loss(images, pictures),
            "kl": self.table.kl * 0.5 * torch.mean(mean.square() + logvar.exp() - 1 - logvar),
        }
        report = {name: float(part.detach()) for name, part in parts.items()}
        report["psnr"] = float(10 * torch.log10(4 / mse.detach()))
        return torch.stack(list(parts.values())).sum(), report

    @torch.no_grad()
    def pictures(self) -> Tensor:
        """Give held-still pictures beside their reconstructions: (B,3,H,2W) in [-1, 1]."""
        rows = np.linspace(0, len(self.data) - 1, VALIDATION_PICTURES).astype(int)
        pictures = pixels_to_tensor(self.data.pictures[rows])
        dtype = next(self.network.parameters()).dtype
        mean, _ = self.network.encode(pictures.to(dtype))
        return torch.cat([pictures, self.network.decode(mean).float()], 3)


def edge_loss(images: Tensor, wanted: Tensor) -> Tensor:
    """Compare the horizontal and vertical differences of two batches (B,3,H,W) at full and half size (L1)."""
    total = images.new_zeros(())
    for scale in (1, 2):
        a, b = (F.avg_pool2d(x, scale) if scale > 1 else x for x in (images, wanted))
        total = total + F.l1_loss(a.diff(dim=2), b.diff(dim=2)) + F.l1_loss(a.diff(dim=3), b.diff(dim=3))
    return total


@torch.no_grad()
def encode_all(network: AutoencoderKL, data: PictureSet, batch_size: int = 8) -> Tensor:
    """Encode every picture to its mean latents: (N,C,H/8,W/8) float32, unscaled."""
    dtype = next(network.parameters()).dtype
    parts = [
        network.encode(pixels_to_tensor(np.asarray(data.pictures[i : i + batch_size])).to(dtype))[0].float()
        for i in range(0, len(data), batch_size)
    ]
    return torch.cat(parts)


@torch.no_grad()
def normalise_latents(network: AutoencoderKL, latents: Tensor) -> None:
    """Fold a whitening of the latent channels into the two 1×1 convolutions.

    Afterwards the given latents would have mean 0 and identity covariance over channels, so the diffusion
    model starts from a data set of unit variance and the scale factor is 1. Reconstructions do not change.

    Args:
        network: the autoencoder, float32; changed in place.
        latents: (N,C,h,w) unscaled means of a representative data set.
    """
    assert next(network.parameters()).dtype == torch.float32
    channels = latents.shape[1]
    rows = latents.transpose(0, 1).flatten(1).double()  # (C,N·h·w)
    mean = rows.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(rows))
    whiten = (vectors / values.sqrt()).T  # rows: unit-variance directions
    colour = torch.linalg.inv(whiten)
    quant, post = network.quant_conv, network.post_quant_conv
    assert quant.bias is not None
    assert post.bias is not None
    weight, bias = quant.weight.double()[:, :, 0, 0], quant.bias.double()  # (2C,2C), (2C,)
    new_weight, new_bias = weight.clone(), bias.clone()
    new_weight[:channels] = whiten @ weight[:channels]
    new_bias[:channels] = whiten @ (bias[:channels] - mean)
    # The variances follow on average: each direction's log-variance is moved by its squared row norm.
    new_bias[channels:] += whiten.square().sum(1).log()
    post_weight = post.weight.double()[:, :, 0, 0]  # (C,C)
    post.bias.copy_(post.bias.double() + post_weight @ mean)
    post.weight.copy_((post_weight @ colour)[:, :, None, None])
    quant.weight.copy_(new_weight[:, :, None, None])
    quant.bias.copy_(new_bias)


def build_autoencoder(table: AutoencoderConfig) -> AutoencoderKL:
    """Make the network a configuration describes, with fresh weights."""
    return AutoencoderKL(table.network())
