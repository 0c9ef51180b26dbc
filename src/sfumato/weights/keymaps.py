"""Tensor names of other layouts against our own, as tables.

Our modules carry the names of single-file (LDM) checkpoints, the text encoder those of the CLIP
implementation that SD 1.x wraps. A table is a tuple of rows, generated from a network's configuration; two
functions apply it, one in each direction, and bring every tensor through unchanged to the bit.

    U-Net          unet_table(config)        ours = LDM            theirs = diffusers `unet/`
    autoencoder    vae_table(config)         ours = LDM            theirs = diffusers `vae/`
    text encoder   clip_table(config)        ours = SD 1.x LDM     theirs = diffusers `text_encoder/`
                   open_clip_table(config)   ours = SD 1.x LDM     theirs = OpenCLIP (SD 2.x LDM)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Form = Literal["same", "squeezed", "first third", "second third", "third third"]

_THIRDS: tuple[Form, ...] = ("first third", "second third", "third third")


@dataclass(frozen=True)
class Row:
    """One tensor in both layouts.

    `form` says what theirs is to ours: the same tensor; the matrix of our 1×1 convolution ("squeezed"); or a
    taller one, of which ours is one third of the rows. Where `stride` is not 1, ours are every stride-th of
    their columns, of which the others are zero. `also` are other spellings of `theirs`, accepted on reading.
    """

    ours: str
    theirs: str
    form: Form = "same"
    also: tuple[str, ...] = ()
    stride: int = 1


Table = tuple[Row, ...]


class UNetShape(Protocol):
    """What the U-Net's table depends on."""

    @property
    def channel_mult(self) -> tuple[int, ...]:
        """Width of each level, in units of the first."""

    @property
    def res_blocks(self) -> int:
        """Residual blocks a level on the way down; one more on the way up."""

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """Levels that have transformers."""


class VAEShape(Protocol):
    """What the autoencoder's table depends on."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each level."""

    @property
    def res_blocks(self) -> int:
        """Residual blocks a level in the encoder; one more in the decoder."""


class TextShape(Protocol):
    """What the text encoder's tables depend on."""

    @property
    def layers(self) -> int:
        """Transformer layers."""


def to_ours(table: Table, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of the other layout to our names.

    Thirds and squeezed tensors are views of the given ones. Names that the table does not know are kept as
    they are, so that a strict load names them.

    Args:
        table: rows of the network.
        tensors: by the other layout's names.

    Returns:
        Tensors by our names.
    """
    by_theirs: dict[str, list[Row]] = {}
    for row in table:
        for name in (row.theirs, *row.also):
            by_theirs.setdefault(name, []).append(row)
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in by_theirs:
            ours[name] = tensor
        for row in by_theirs.get(name, ()):
            ours[row.ours] = _our_form(row, tensor)
    return ours


def to_theirs(table: Table, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our tensors to the other layout's names; the inverse of `to_ours`, bit for bit.

    Args:
        table: rows of the network.
        tensors: by our names.

    Returns:
        Tensors by the other layout's names; names that the table does not know are kept as they are.
    """
    by_ours = {row.ours: row for row in table}
    theirs: dict[str, Tensor] = {}
    thirds: dict[str, dict[Form, Tensor]] = {}
    for name, tensor in tensors.items():
        row = by_ours.get(name)
        if row is None:
            theirs[name] = tensor
        elif row.form in _THIRDS:
            thirds.setdefault(row.theirs, {})[row.form] = tensor
        else:
            theirs[row.theirs] = tensor.flatten(1) if row.form == "squeezed" else _spread(tensor, row.stride)
    for name, parts in thirds.items():
        if len(parts) == len(_THIRDS):  # else the name stays missing and a strict load says so
            theirs[name] = torch.cat([parts[form] for form in _THIRDS])
    return theirs


def _spread(tensor: Tensor, stride: int) -> Tensor:
    if stride == 1 or tensor.ndim != 2:
        return tensor
    wide = tensor.new_zeros(tensor.shape[0], tensor.shape[1] * stride)
    wide[:, ::stride] = tensor
    return wide


def _our_form(row: Row, tensor: Tensor) -> Tensor:
    if row.form in _THIRDS and tensor.shape and tensor.shape[0] % 3 == 0:
        return tensor.chunk(3)[_THIRDS.index(row.form)]
    if row.stride != 1 and tensor.ndim == 2:
        return tensor[:, :: row.stride].contiguous()
    if row.form == "squeezed" and tensor.ndim == 2:
        return tensor[:, :, None, None]  # (O,I) -> (O,I,1,1)
    return tensor


def _leaves(rows: Iterable[Row]) -> Table:
    """Turn rows of modules into rows of their `weight` and `bias`; only a weight can be squeezed."""

    def both() -> Iterator[Row]:
        for row in rows:
            for leaf in ("weight", "bias"):
                form = "same" if leaf == "bias" and row.form == "squeezed" else row.form
                also = tuple(f"{name}.{leaf}" for name in row.also)
                yield Row(f"{row.ours}.{leaf}", f"{row.theirs}.{leaf}", form, also)

    return tuple(both())


def _inside(ours: str, theirs: str, parts: Iterable[Row]) -> Iterator[Row]:
    for part in parts:
        also = tuple(f"{theirs}.{name}" for name in part.also)
        yield Row(f"{ours}.{part.ours}", f"{theirs}.{part.theirs}", part.form, also)


# --- U-Net ----------------------------------------------------------------------------------------

_UNET_ENDS = (
    Row("time_embed.2", "time_embedding.linear_2"),
    Row("input_blocks.0.0", "conv_in"),
    Row("out.0", "conv_norm_out"),
    Row("out.2", "conv_out"),
)
_UNET_RES = (
    Row("in_layers.0", "norm1"),
    Row("in_layers.2", "conv1"),
    Row("emb_layers.1", "time_emb_proj"),
    Row("out_layers.0", "norm2"),
    Row("out_layers.3", "conv2"),
    Row("skip_connection", "conv_shortcut"),
)
_UNET_ATTENTION = tuple(
    Row(name, name)
    for name in (
        "norm",
        "proj_in",
        "proj_out",
        *(f"transformer_blocks.0.norm{n}" for n in (1, 2, 3)),
        *(f"transformer_blocks.0.attn{n}.to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out.0")),
        "transformer_blocks.0.ff.net.0.proj",
        "transformer_blocks.0.ff.net.2",
    )
)


def unet_table(config: UNetShape) -> Table:
    """Give the U-Net's rows: our (LDM) names against those of diffusers' UNet2DConditionModel.

    Their code of the noise level is as wide as the first level, ours as its unit: every n-th number.
    """
    levels = len(config.channel_mult)

    def block(ours: str, theirs: str, number: int, attention: bool) -> Iterator[Row]:
        yield from _inside(f"{ours}.0", f"{theirs}.resnets.{number}", _UNET_RES)
        if attention:
            yield from _inside(f"{ours}.1", f"{theirs}.attentions.{number}", _UNET_ATTENTION)

    def modules() -> Iterator[Row]:
        yield from _UNET_ENDS
        index = 1
        for level in range(levels):
            there = f"down_blocks.{level}"
            for number in range(config.res_blocks):
                yield from block(f"input_blocks.{index}", there, number, level in config.attention_levels)
                index += 1
            if level < levels - 1:
                yield Row(f"input_blocks.{index}.0.op", f"{there}.downsamplers.0.conv")
                index += 1
        yield from _inside("middle_block.0", "mid_block.resnets.0", _UNET_RES)
        yield from _inside("middle_block.1", "mid_block.attentions.0", _UNET_ATTENTION)
        yield from _inside("middle_block.2", "mid_block.resnets.1", _UNET_RES)
        index = 0
        for level in reversed(range(levels)):
            there = f"up_blocks.{levels - 1 - level}"
            attention = level in config.attention_levels
            for number in range(config.res_blocks + 1):
                yield from block(f"output_blocks.{index}", there, number, attention)
                index += 1
            if level > 0:  # the upsampler is the last part of the level's last block
                yield Row(f"output_blocks.{index - 1}.{1 + attention}.conv", f"{there}.upsamplers.0.conv")

    code, there = "time_embed.0", "time_embedding.linear_1"
    first = Row(f"{code}.weight", f"{there}.weight", stride=config.channel_mult[0])
    return (first, Row(f"{code}.bias", f"{there}.bias"), *_leaves(modules()))


# --- autoencoder ----------------------------------------------------------------------------------

_VAE_RES = (
    Row("norm1", "norm1"),
    Row("conv1", "conv1"),
    Row("norm2", "norm2"),
    Row("conv2", "conv2"),
    Row("nin_shortcut", "conv_shortcut"),
)
_VAE_ATTENTION = (
    Row("norm", "group_norm"),
    Row("q", "to_q", "squeezed", ("query",)),
    Row("k", "to_k", "squeezed", ("key",)),
    Row("v", "to_v", "squeezed", ("value",)),
    Row("proj_out", "to_out.0", "squeezed", ("proj_attn",)),
)
_VAE_MIDDLE = (
    *_inside("block_1", "resnets.0", _VAE_RES),
    *_inside("attn_1", "attentions.0", _VAE_ATTENTION),
    *_inside("block_2", "resnets.1", _VAE_RES),
)


def vae_table(config: VAEShape) -> Table:
    """Give the autoencoder's rows: our (LDM) names against those of diffusers' AutoencoderKL."""
    levels = len(config.channels)

    def modules() -> Iterator[Row]:
        yield Row("quant_conv", "quant_conv")
        yield Row("post_quant_conv", "post_quant_conv")
        for half in ("encoder", "decoder"):
            yield Row(f"{half}.conv_in", f"{half}.conv_in")
            yield from _inside(f"{half}.mid", f"{half}.mid_block", _VAE_MIDDLE)
            yield Row(f"{half}.norm_out", f"{half}.conv_norm_out")
            yield Row(f"{half}.conv_out", f"{half}.conv_out")
        for level in range(levels):
            ours, theirs = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
            for number in range(config.res_blocks):
                yield from _inside(f"{ours}.block.{number}", f"{theirs}.resnets.{number}", _VAE_RES)
            yield Row(f"{ours}.downsample.conv", f"{theirs}.downsamplers.0.conv")
        for level in range(
            levels
        ):  # LDM counts the decoder's levels from the picture, diffusers from the latents
            ours, theirs = f"decoder.up.{level}", f"decoder.up_blocks.{levels - 1 - level}"
            for number in range(config.res_blocks + 1):
                yield from _inside(f"{ours}.block.{number}", f"{theirs}.resnets.{number}", _VAE_RES)
            yield Row(f"{ours}.upsample.conv", f"{theirs}.upsamplers.0.conv")

    return _leaves(modules())


# --- text encoder ---------------------------------------------------------------------------------

_EMBEDDINGS = (
    "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.weight",
)
_FINAL_NORM = "text_model.final_layer_norm"
_OPEN_CLIP_LAYER = (
    Row("layer_norm1", "ln_1"),
    Row("layer_norm2", "ln_2"),
    Row("mlp.fc1", "mlp.c_fc"),
    Row("mlp.fc2", "mlp.c_proj"),
    Row("self_attn.out_proj", "attn.out_proj"),
)
_OPEN_CLIP_THIRDS = (("q_proj", "first third"), ("k_proj", "second third"), ("v_proj", "third third"))


def clip_table(config: TextShape) -> Table:
    """Give the text encoder's rows against transformers' CLIPTextModel: equal names.

    Versions of transformers from 5.6 on leave the leading `text_model.` out; that spelling is accepted too.
    """
    layers = (f"text_model.encoder.layers.{n}" for n in range(config.layers))
    parts = [row.ours for row in _OPEN_CLIP_LAYER] + [f"self_attn.{part}" for part, _ in _OPEN_CLIP_THIRDS]
    modules = [*(f"{layer}.{part}" for layer in layers for part in parts), _FINAL_NORM]
    names = (*_EMBEDDINGS, *(f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")))
    return tuple(Row(name, name, also=(name.removeprefix("text_model."),)) for name in names)


def open_clip_table(config: TextShape) -> Table:
    """Give the text encoder's rows against OpenCLIP's names, as they stand after `cond_stage_model.model.`.

    OpenCLIP keeps the three projections of an attention in one matrix, query first.
    """

    def modules() -> Iterator[Row]:
        for number in range(config.layers):
            there = f"transformer.resblocks.{number}"
            yield from _inside(f"text_model.encoder.layers.{number}", there, _OPEN_CLIP_LAYER)
        yield Row(_FINAL_NORM, "ln_final")

    def projections() -> Iterator[Row]:
        for number in range(config.layers):
            for part, form in _OPEN_CLIP_THIRDS:
                for leaf in ("weight", "bias"):
                    ours = f"text_model.encoder.layers.{number}.self_attn.{part}.{leaf}"
                    theirs = f"transformer.resblocks.{number}.attn.in_proj_{leaf}"
                    yield Row(ours, theirs, form)  # type: ignore[arg-type]

    embeddings = (Row(_EMBEDDINGS[0], "token_embedding.weight"), Row(_EMBEDDINGS[1], "positional_embedding"))
    return (*embeddings, *_leaves(modules()), *projections())
