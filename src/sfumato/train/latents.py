"""Batches of a user's pictures: each decoded and encoded once, kept on disk, drawn with others of its size.

Shape letters: B pictures, C latent channels, H W pixels of a bucket, h w latent size.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import TrainingError
from sfumato.nn.vae import AutoencoderKL
from sfumato.train.batches import Batch
from sfumato.train.caches import SEEN, ByteStore, TensorStore, name_of
from sfumato.train.captions import CaptionConfig, tag_counts, vary_caption
from sfumato.train.catalogue import Picture, Scanned
from sfumato.train.dataset import Found, find_pictures
from sfumato.train.picture_config import PicturesConfig
from sfumato.train.pictures import frame, mask_weights, to_tensor


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What turns pictures into latents."""

    encode: Callable[[Tensor], Tensor]  # (1,3,H,W) in [-1, 1] -> (1,C,h,w) of unit variance
    name: str  # all that decides its numbers: a hash of the weights, the precision
    reduction: int  # pixels a latent along each side


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One look at a picture: which part of it, and what is said of it."""

    picture: Picture
    row: int
    corner: tuple[int, int]
    flip: bool
    prompt: str


class LatentBatches:
    """Batches of latents from pictures that were looked through; see `batches.Batches`.

    Latents are rounded to float16, whether they come from the store or not. At most one picture is in memory.
    """

    def __init__(self, found: Found, encoder: Encoder, store: TensorStore, *, size: int, seed: int) -> None:
        """Draw from pictures that were looked through.

        Args:
            found: after `Found.look`.
            encoder: for latents.
            store: where they are kept.
            size: B at most; the last batch of each bucket in a round may be smaller.
            seed: of the order and of every variation.

        Raises:
            TrainingError: a bucket's side is no multiple of what the encoder reduces.
        """
        self.found, self.config, self.catalogue = found, found.config, found.catalogue
        self.encoder, self.store = encoder, store
        if self.catalogue.buckets.step % encoder.reduction:
            raise TrainingError(
                f"resolution {self.config.resolution} has sides in steps of {self.catalogue.buckets.step}, "
                f"and the model needs multiples of {encoder.reduction}; take a multiple of 64"
            )
        self.order = found.order(size, seed)

    def __len__(self) -> int:
        """See `Batches`."""
        return len(self.order.rows)

    def prepare(self) -> Iterator[Scanned]:
        """Encode every picture that is not in the store yet, a step each; stop iterating to stop.

        Raises:
            TrainingError: a picture is gone or is another now, or its latents are not finite.
        """
        if self.config.random_crop:
            return
        for done, picture in enumerate(self.catalogue.pictures(), start=1):
            for flip in (False, True)[: 1 + self.config.flip]:
                self._latents(picture, self._middle(picture), flip=flip)
                self._mask(picture, self._middle(picture), flip=flip)
            yield Scanned(done=done, name=picture.name, findings=())

    def visits(self, number: int) -> list[Visit]:
        """Say what batch `number` of the run looks at."""
        turn, place = divmod(number, self.order.batches)
        return [self._visit(turn, int(visit)) for visit in self.order.round(turn).batch(place)]

    def _visit(self, turn: int, visit: int) -> Visit:
        row = int(self.order.rows[visit])
        picture, rng = self.catalogue.picture(row), self.order.draws(turn, visit)
        corner = self._middle(picture)
        if self.config.random_crop:
            across, down = self.catalogue.fit(picture).room
            corner = int(rng.integers(across + 1)), int(rng.integers(down + 1))
        flip = self.config.flip and bool(rng.random() < 0.5)
        captions = CaptionConfig() if picture.prior else self.config.captions  # no trigger word for the class
        prompt = vary_caption(picture.caption, captions, rng)
        return Visit(picture=picture, row=row, corner=corner, flip=flip, prompt=prompt)

    def draw(self, number: int) -> Batch:
        """See `Batches`."""
        visits = self.visits(number)
        latents = torch.stack([self._latents(each.picture, each.corner, flip=each.flip) for each in visits])
        masks = [self._mask(each.picture, each.corner, flip=each.flip) for each in visits]
        everywhere = torch.ones(1, *latents.shape[2:])
        masked = [everywhere if mask is None else mask for mask in masks]
        return Batch(
            latents=latents,
            prompts=tuple(each.prompt for each in visits),
            weights=torch.tensor(
                [self.config.prior_weight if each.picture.prior else 1.0 for each in visits]
            ),
            mask=None if all(mask is None for mask in masks) else torch.stack(masked),
            rows=tuple(each.row for each in visits),
        )

    def hashes(self) -> Mapping[str, str]:
        """See `Batches`."""
        return self.catalogue.hashes()

    def metadata(self) -> Mapping[str, str]:
        """See `Batches`."""
        name, shapes = self.config.source.name, self.catalogue.shapes()
        count, visits = (sum(pair[place] for pair in shapes.values()) for place in (0, 1))
        own = ((each.caption, each.repeats) for each in self.catalogue.pictures() if not each.prior)
        used = {
            str(place): {"resolution": size, "count": pair[1]}
            for place, (size, pair) in enumerate(shapes.items())
        }
        captions = self.config.captions
        return {
            "ss_num_train_images": str(visits),
            "ss_num_reg_images": str(len(self.catalogue) - count),
            "ss_num_batches_per_epoch": str(self.order.batches),
            "ss_resolution": str((self.config.resolution, self.config.resolution)),
            "ss_enable_bucket": str(self.config.buckets),
            "ss_bucket_info": json.dumps({"buckets": used}),
            "ss_bucket_no_upscale": str(not self.config.upscale),
            "ss_flip_aug": str(self.config.flip),
            "ss_random_crop": str(self.config.random_crop),
            "ss_shuffle_caption": str(captions.shuffle),
            "ss_keep_tokens": str(captions.keep_tokens),
            "ss_caption_dropout_rate": str(captions.dropout),
            "ss_caption_tag_dropout_rate": str(captions.tag_dropout),
            "ss_prior_loss_weight": str(self.config.prior_weight),
            "ss_dataset_dirs": json.dumps({name: {"n_repeats": self.config.repeats, "img_count": count}}),
            "ss_tag_frequency": json.dumps({name: tag_counts(own, captions.separator)}),
        }

    def _middle(self, picture: Picture) -> tuple[int, int]:
        across, down = self.catalogue.fit(picture).room
        return across // 2, down // 2

    def _latents(self, picture: Picture, corner: tuple[int, int], *, flip: bool) -> Tensor:
        """Give a picture's latents (C,h,w) float32."""

        def make() -> Tensor:
            seen = frame(self.found.colours(picture), self.catalogue.fit(picture), corner, flip=flip)
            latents = self.encoder.encode(to_tensor(seen))[0].half().cpu()
            if not torch.isfinite(latents).all():
                raise TrainingError(
                    f"{picture.name}: its latents are not finite; encode in float32 or with another VAE"
                )
            return latents

        return self._kept(("latents", self.encoder.name, picture.digest.hex()), picture, corner, flip, make)

    def _mask(self, picture: Picture, corner: tuple[int, int], *, flip: bool) -> Tensor | None:
        """Give a picture's mask (1,h,w) float32; None = the loss counts everywhere."""
        if not self.found.is_masked(picture):
            return None

        def make() -> Tensor:
            seen = frame(self.found.mask(picture), self.catalogue.fit(picture), corner, flip=flip)
            return mask_weights(seen, self.encoder.reduction).half()

        content = picture.mask_digest.hex() or picture.digest.hex()
        return self._kept(("mask", self.encoder.reduction, content), picture, corner, flip, make)

    def _kept(
        self,
        made_from: tuple[object, ...],
        picture: Picture,
        corner: tuple[int, int],
        flip: bool,
        make: Callable[[], Tensor],
    ) -> Tensor:
        if self.config.random_crop:  # hardly ever is the same part seen again
            return make().float()
        name = name_of(*made_from, self.catalogue.fit(picture), corner, flip)
        return self.store.get_or_make(name, make).float()


def vae_encoder(vae: AutoencoderKL, digest: str) -> Encoder:
    """Encode with an autoencoder, as it is, where it is: the means of its latents.

    Args:
        vae: in the precision to encode in.
        digest: a hash of its weights.
    """
    parameter = next(vae.parameters())

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        mean, _ = vae.encode(images.to(parameter.device, parameter.dtype))
        return mean.float() * vae.config.scale_factor

    name = f"{digest} {parameter.dtype} {vae.config.scale_factor}"
    return Encoder(encode=encode, name=name, reduction=vae.config.reduction)


def open_latents(
    config: PicturesConfig,
    encoder: Encoder,
    cache: Path,
    *,
    size: int,
    seed: int,
    most_rows: int = 3,
) -> Generator[Scanned, None, LatentBatches]:
    """Look through pictures and encode them, a step each, and give their batches in the end.

    Args:
        config: of the pictures.
        encoder: for latents.
        cache: a folder that keeps them.
        size: B at most.
        seed: of the order and of every variation.
        most_rows: of 75 tokens each, that a prompt may fill.

    Raises:
        TrainingError: nothing to train on, sizes that do not go together, latents that are not finite.
    """
    found = find_pictures(config)
    with closing(ByteStore(cache / SEEN, durable=False)) as seen:
        yield from found.look(most_rows, seen)
    batches = LatentBatches(found, encoder, TensorStore(cache), size=size, seed=seed)
    yield from batches.prepare()
    return batches
