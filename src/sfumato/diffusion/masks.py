"""Painting in a part of a picture: the rest is put back at every step, hard or softly.

Shape letters: B pictures, C latent channels, H W latent size, K places of a filter's window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.diffusion.denoisers import Denoiser
from sfumato.types import SoftInpainting

_REACH, _SPREAD = 2, 1.5  # of the window in which changes are judged, in latents
_QUARTILES = (0.25, 0.75)  # the changes in it that count


def keep_outside(
    denoise: Denoiser,
    original: Tensor,
    changes: Tensor,
    noise: Tensor | None = None,
    soft: SoftInpainting | None = None,
) -> Denoiser:
    """Have a denoiser leave the original alone wherever nothing is to change.

    Source: Lugmayr et al. 2022, RePaint (arXiv:2201.09865), equation 8, without its resampling; the two
    places are those of the field's interfaces.

    Args:
        denoise: the denoiser.
        original: clean latents (B,C,H,W).
        changes: (1,1,H,W) or (B,1,H,W) from 0 (stays) to 1 (changes).
        noise: None = the original is put into what the denoiser gives (samplers over sigmas). Standard normal
            (B,C,H,W) = it is put, noised to the level at hand, into what the denoiser sees (samplers over
            timesteps).
        soft: lets go of the original step by step where `changes` is between; None = `changes` as it is.
    """

    def blend(new: Tensor, old: Tensor, sigma: Tensor) -> Tensor:
        if soft is None:
            return old + changes * (new - old)
        share = changing_share(changes, sigma, soft.schedule_bias, soft.preservation_strength)
        return blend_keeping_magnitude(old, new, share, soft.contrast_boost)

    def denoise_after(x: Tensor, sigma: Tensor) -> Tensor:
        return blend(denoise(x, sigma), original, sigma)

    def denoise_before(x: Tensor, sigma: Tensor) -> Tensor:
        assert noise is not None
        return denoise(blend(x, original + sigma.view(-1, 1, 1, 1) * noise, sigma), sigma)

    return denoise_after if noise is None else denoise_before


def changing_share(changes: Tensor, sigma: Tensor, bias: float, strength: float) -> Tensor:
    """Tell how much of each place is free at a noise level: changes^(sigma^bias · strength).

    Where `changes` is 0 or 1 it is so at every level; what lies between is kept while there is much noise and
    let go of towards the end.

    Source: own words for the schedule of the field's soft inpainting.

    Args:
        changes: (…,1,H,W) from 0 to 1.
        sigma: (B,) noise levels.
        bias: >= 0; above 1 it is kept for longer at first and let go of sooner at the end.
        strength: >= 0; 0 = free at once.

    Returns:
        (B,1,H,W) from 0 to 1.
    """
    exponent = sigma.view(-1, 1, 1, 1) ** bias * strength
    return torch.where(changes > 0, changes**exponent, torch.zeros_like(changes))


def blend_keeping_magnitude(old: Tensor, new: Tensor, share: Tensor, boost: float) -> Tensor:
    """Mix latents without losing contrast: directions by the linear mean, lengths by the power mean.

    The mean of two vectors that point apart is shorter than either, which shows as grey. Here its length over
    the channels is set to ((1 - share) |old|^boost + share |new|^boost)^(1 / boost).

    Source: own words for the blend of the field's soft inpainting; power means: Hardy, Littlewood & Pólya
    1934, section 2.2.

    Args:
        old: latents (B,C,H,W).
        new: latents (B,C,H,W).
        share: (B,1,H,W) of the new, from 0 to 1.
        boost: the exponent, >= 1; towards infinity the longer vector's length.
    """
    mean = old + share * (new - old)
    lengths = [latents.norm(dim=1, keepdim=True) for latents in (old, new)]  # (B,1,H,W)
    longest = torch.maximum(*lengths).clamp(min=1e-12)  # taken out, or a high power would overflow
    power = (1 - share) * (lengths[0] / longest) ** boost + share * (lengths[1] / longest) ** boost
    length = longest * power ** (1 / boost)
    mean_length: Tensor = mean.norm(dim=1, keepdim=True)
    kept: Tensor = mean * (length / mean_length.clamp(min=1e-12))
    return kept


def changed_share(result: Tensor, original: Tensor, changes: Tensor, soft: SoftInpainting) -> Tensor:
    """Tell where a result differs from the original so much that its pixels should be seen.

    The distance d of the latents is averaged over its middle quartiles in a small Gaussian window, so that
    single outliers neither punch holes nor make spots. With threshold t and contrast c the share is
    d^c / (d^c + t^c), through 6x^5 - 15x^4 + 10x^3: half at d = t.

    Source: own words for the final masks of the field's soft inpainting; the polynomial: Perlin 2002,
    "Improving noise".

    Args:
        result: latents (B,C,H,W) at the end.
        original: latents (B,C,H,W) or (1,C,H,W) at the start.
        changes: (1,1,H,W) from 0 to 1.
        soft: `difference_threshold` in units of latents, `difference_contrast`, and `mask_influence`: how far
            a change counts less where the mask is weak.

    Returns:
        (B,H,W) from 0 (the source's pixels are seen) to 1 (the result's are).
    """
    distance = (result - original).norm(dim=1, keepdim=True)  # (B,1,H,W)
    counted = middle_mean(distance) * (1 - soft.mask_influence * (1 - changes))
    risen = counted**soft.difference_contrast
    share = risen / (risen + soft.difference_threshold**soft.difference_contrast).clamp(min=1e-12)
    share = torch.where(counted > 1e-6, share, torch.zeros_like(share))
    return (share**3 * (share * (6 * share - 15) + 10))[:, 0]  # (B,H,W)


def middle_mean(values: Tensor) -> Tensor:
    """Average what is around each place, weighted by a Gaussian, without the lowest and the highest quarter.

    Source: own; the interquartile mean of statistics, with weights, in windows of five by five.

    Args:
        values: (B,1,H,W).
    """
    batch, _, height, width = values.shape
    side = 2 * _REACH + 1
    padded = F.pad(values, (_REACH,) * 4, mode="replicate")
    near = F.unfold(padded, side)  # (B,K,HW)
    axis = torch.exp(-0.5 * (torch.arange(side, device=values.device) - _REACH).div(_SPREAD).square())
    weights = torch.outer(axis, axis).flatten().to(values)
    ordered, order = near.sort(dim=1)
    upper = (weights / weights.sum())[order].cumsum(1)  # (B,K,HW)
    lower = F.pad(upper[:, :-1], (0, 0, 1, 0))
    low, high = _QUARTILES
    inside = upper.clamp(low, high) - lower.clamp(low, high)
    return ((inside * ordered).sum(1) / inside.sum(1)).view(batch, 1, height, width)
