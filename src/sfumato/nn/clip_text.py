"""The text encoder of CLIP (Radford et al. 2021, arXiv:2103.00020), as Stable Diffusion uses it.

One module for CLIP ViT-L (SD 1.x) and OpenCLIP ViT-H (SD 2.x); modules carry the names under which SD 1.x
checkpoints hold it.

Shape letters: B prompts, T tokens (77 for a whole chunk), E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.errors import RequestError
from sfumato.nn.attention import attention
from sfumato.nn.layers import require

Activation = Literal["quick_gelu", "gelu"]
Skip = Literal["last", "penultimate"]
Coined = tuple[int, int, Tensor]


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """The text encoder's size. The defaults are CLIP ViT-L."""

    vocab_size: int = 49408
    width: int = 768
    layers: int = 12
    heads: int = 12
    max_length: int = 77
    activation: Activation = "quick_gelu"
    # "penultimate": the published encoder's last layer is left out of `layers`, and clip_skip has no effect.
    skip: Skip = "last"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "max_length"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} is not a positive number")
        require(
            self.width % self.heads == 0,
            f"width={self.width} is not a multiple of heads={self.heads}; change one of them",
        )
        for name, choices in (("activation", get_args(Activation)), ("skip", get_args(Skip))):
            value = getattr(self, name)
            require(value in choices, f"{name}={value!r} is not one of {', '.join(choices)}")


class Embeddings(nn.Module):
    """Tokens and their places as vectors."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.max_length, config.width)

    def forward(self, ids: Tensor, coined: Sequence[Coined] = ()) -> Tensor:
        """Look ids (B,T) up, but for the places that coined words take: (B,T,E)."""
        tokens: Tensor = self.token_embedding(ids)
        for row, place, vectors in coined:
            tokens[row, place : place + len(vectors)] = vectors.to(tokens)
        return tokens + self.position_embedding.weight[: ids.shape[1]]


class SelfAttention(nn.Module):
    """Each token looks at itself and those before it."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Change (B,T,E)."""
        h = attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), heads=self.heads, causal=True)
        out: Tensor = self.out_proj(h)
        return out


class FeedForward(nn.Module):
    """Each token is mapped on its own, four times as wide inside."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.quick = config.activation == "quick_gelu"
        self.fc1 = nn.Linear(config.width, 4 * config.width)
        self.fc2 = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Change (B,T,E)."""
        h = self.fc1(x)  # (B,T,4E)
        h = h * torch.sigmoid(1.702 * h) if self.quick else F.gelu(h)
        out: Tensor = self.fc2(h)
        return out


class Layer(nn.Module):
    """One transformer layer, normalised before each part."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Change (B,T,E)."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, used: int) -> Tensor:
        """Apply the first `used` layers to (B,T,E)."""
        for layer in self.layers[:used]:
            x = layer(x)
        return x


class TextModel(nn.Module):
    """Everything, under the name it has in the files."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, ids: Tensor, used: int, coined: Sequence[Coined] = ()) -> Tensor:
        """Encode ids (B,T) with the first `used` layers: (B,T,E)."""
        out: Tensor = self.final_layer_norm(self.encoder(self.embeddings(ids, coined), used))
        return out


class CLIPText(nn.Module):
    """Token ids to the context that the U-Net attends to."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextModel(config)
        self._initialise()

    def forward(self, ids: Tensor, clip_skip: int = 1, coined: Sequence[Coined] = ()) -> Tensor:
        """Encode prompts.

        Args:
            ids: (B,T) token ids with start, end and padding, T at most `max_length`.
            clip_skip: k takes the k-th hidden state from the end, so k - 1 layers are left out. No effect on
                encoders built without their last layer ("penultimate").
            coined: words with vectors of their own: row, first place and vectors (V,E) of each, which stand
                there in place of what `ids` say.

        Returns:
            (B,T,E) after the final layer norm.

        Raises:
            RequestError: clip_skip leaves no layer over.
        """
        assert ids.shape[1] <= self.config.max_length
        if self.config.skip == "penultimate":
            clip_skip = 1
        if not 1 <= clip_skip <= self.config.layers:
            raise RequestError(
                f"clip_skip={clip_skip} is outside 1 to {self.config.layers}, the layers of this text encoder"
            )
        out: Tensor = self.text_model(ids, self.config.layers - clip_skip + 1, coined)
        return out

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw weights of the widths that CLIP starts from; branches start smaller the more layers add up."""
        width, layers = self.config.width, self.config.layers
        embeddings = self.text_model.embeddings
        nn.init.normal_(embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.01)
        branch = (2 * width * layers) ** -0.5
        stds = {"q_proj": width**-0.5, "k_proj": width**-0.5, "v_proj": width**-0.5, "out_proj": branch}
        stds |= {"fc1": (2 * width) ** -0.5, "fc2": branch}
        for name, module in self.text_model.encoder.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=stds[name.rpartition(".")[2]])
                nn.init.zeros_(module.bias)
