"""What a denoising network is asked to predict, and how much each noise level counts.

Shape letters: B pictures, C latent channels, H W latent size.
"""

import torch
from torch import Tensor

from sfumato.types import Prediction


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Mix clean latents with noise: sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise.

    Source: Ho et al. 2020 (arXiv:2006.11239), equation 4.

    Args:
        clean: latents (B,C,H,W), scaled to a standard deviation near 1.
        noise: standard normal (B,C,H,W).
        alpha_bar: (B,) share of signal variance, in [0, 1].

    Returns:
        Noisy latents (B,C,H,W) of variance near 1.
    """
    share = alpha_bar.view(-1, 1, 1, 1).to(clean.dtype)
    return share.sqrt() * clean + (1 - share).sqrt() * noise


def target(clean: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Give the tensor (B,C,H,W) the network should output for `add_noise` of the same arguments.

    Source: eps: Ho et al. 2020, equation 14; v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean:
    Salimans & Ho 2022 (arXiv:2202.00512), appendix D.

    Args:
        clean: latents (B,C,H,W).
        noise: standard normal (B,C,H,W).
        alpha_bar: (B,) in [0, 1].
        prediction: "eps" or "v".
    """
    if prediction == "eps":
        return noise
    share = alpha_bar.view(-1, 1, 1, 1).to(clean.dtype)
    return share.sqrt() * noise - (1 - share).sqrt() * clean


def min_snr_weights(alpha_bar: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Weigh noise levels so that easy ones do not dominate the loss.

    Source: Hang et al. 2023 (arXiv:2303.09556), section 3.4: min(SNR, gamma) on the clean picture, which is
    min(SNR, gamma) / SNR on eps and min(SNR, gamma) / (SNR + 1) on v.

    Args:
        alpha_bar: (B,) share of signal variance, in (0, 1).
        gamma: where the weight stops growing, > 0; 5 in the paper. math.inf = no limit.
        prediction: what the network predicts.

    Returns:
        (B,) factors for the squared error per picture.
    """
    snr = alpha_bar / (1 - alpha_bar)
    clipped = snr.clamp(max=gamma)
    return clipped / snr if prediction == "eps" else clipped / (snr + 1)


def debiased_weights(alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    """Weigh noise levels so that the noisy ones, which shape a picture, count as much as the others.

    Source: Yu et al. 2023 (arXiv:2310.08442), section 3.2: 1 / sqrt(SNR) on eps; on v the field's trainers
    use 1 / (SNR + 1). Both with the SNR held below 1000.

    Args:
        alpha_bar: (B,) share of signal variance, in [0, 1].
        prediction: what the network predicts; on eps alpha_bar must not be 0.

    Returns:
        (B,) factors for the squared error per picture.
    """
    snr = (alpha_bar / (1 - alpha_bar)).clamp(max=1000.0)
    return snr.rsqrt() if prediction == "eps" else 1 / (snr + 1)


def offset_noise(noise: Tensor, shifts: Tensor, strength: float) -> Tensor:
    """Let the noise move a picture's mean, so that very dark and very bright ones can be learnt.

    Source: Guttenberg 2023, "Diffusion with Offset Noise" (https://www.crosslabs.org/blog).

    Args:
        noise: standard normal (B,C,H,W).
        shifts: standard normal (B,C,1,1).
        strength: about 0.05 to 0.1; 0 changes nothing.
    """
    return noise + strength * shifts


def weighted_mse(prediction: Tensor, wanted: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average the squared error over a picture's elements, weigh, average over pictures.

    Args:
        prediction: network output (B,C,H,W), any float dtype; compared in float32.
        wanted: `target` (B,C,H,W).
        weights: (B,) from `min_snr_weights`, or ones.
        mask: (B,1,H,W) in [0, 1], a factor of the squared error; None = 1 everywhere.

    Returns:
        A scalar, the quantity to minimise.
    """
    error = (prediction.float() - wanted.float()).square()  # (B,C,H,W)
    if mask is not None:
        error = error * mask
    return torch.mean(error.flatten(1).mean(1) * weights)
