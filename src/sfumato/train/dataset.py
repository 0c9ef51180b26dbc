"""A user's pictures: where they are, how they vary, and all of them looked through before a run starts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sfumato.errors import TrainingError
from sfumato.train.caches import ByteStore
from sfumato.train.catalogue import Catalogue, Picture, Scanned, Wanted, scan
from sfumato.train.entries import Source
from sfumato.train.order import Order, prior_repeats
from sfumato.train.picture_config import ALPHA, PicturesConfig
from sfumato.train.pictures import content_hash, read_colours, read_mask
from sfumato.train.sources import open_source


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The pictures of a configuration, looked through or about to be."""

    config: PicturesConfig
    source: Source
    prior: Source | None
    catalogue: Catalogue

    def look(self, most_rows: int = 3, seen: ByteStore | None = None) -> Iterator[Scanned]:
        """Look through all files, a step each; the catalogue holds what is found.

        Args:
            most_rows: of 75 tokens each, that a prompt may fill.
            seen: remembers good pictures, so that unchanged files are not decoded again.

        Raises:
            TrainingError: at the end: no picture can be used.
        """
        config = self.config
        least = config.least_side or config.resolution // 2
        own = Wanted(
            least_side=least,
            alpha_mask=config.masks == ALPHA,
            repeats=config.repeats,
            prompt=config.prompt,
            captions=config.captions,
            most_rows=most_rows,
        )
        yield from scan(self.source, own, self.catalogue, seen)
        count = len(self.catalogue)
        if not count:
            raise TrainingError(f"{config.source} has no picture that can be used{self._why()}")
        if self.prior is not None:
            others = Wanted(least_side=least, prior=True, prompt=config.prior_prompt, most_rows=most_rows)
            yield from scan(self.prior, others, self.catalogue, seen)
            if len(self.catalogue) == count:
                raise TrainingError(f"{config.regularisation} has no picture that can be used")

    def close(self) -> None:
        """Let go of the list of pictures."""
        self.catalogue.close()

    def _why(self) -> str:
        first = next(self.catalogue.findings(), None)
        kinds = ", ".join(f"{number} × {kind}" for kind, number in self.catalogue.kinds().items())
        return f": {kinds}; the first: {first}" if first else ": it is empty"

    def order(self, size: int, seed: int) -> Order:
        """Say in which order the pictures come; those of regularisation as often as the others together.

        Args:
            size: pictures a batch at most.
            seed: of the order.
        """
        pairs = self.catalogue.column("bucket_width * 32768 + bucket_height")
        buckets = np.unique(pairs, return_inverse=True)[1].astype(np.int32)
        repeats, prior = self.catalogue.column("repeats"), self.catalogue.column("prior") == 1
        if prior.any():
            repeats[prior] = prior_repeats(int(prior.sum()), int(repeats[~prior].sum()))
        return Order(buckets, repeats, size, seed)

    def colours(self, picture: Picture) -> Image.Image:
        """Read a picture again: RGB, or RGBA where it has transparency.

        Raises:
            TrainingError: it is gone, or is another now.
        """
        return self._read(picture, picture.address, picture.digest, read_colours)

    def is_masked(self, picture: Picture) -> bool:
        """Say whether its loss may not count everywhere."""
        return bool(picture.mask) or (self.config.masks == ALPHA and not picture.prior)

    def mask(self, picture: Picture) -> Image.Image:
        """Read the mask of a picture, in its size, as grey.

        Raises:
            TrainingError: it is gone, or is another now.
        """
        if picture.mask:
            return self._read(picture, picture.mask, picture.mask_digest, read_mask)
        image = self.colours(picture)
        return image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)

    def _read(
        self, picture: Picture, address: str, digest: bytes, decode: Callable[[bytes], Image.Image]
    ) -> Image.Image:
        source = self.prior if picture.prior else self.source
        assert source is not None
        try:
            image = decode(source.read(address))
        except (OSError, ValueError) as error:  # OutputError is one of them
            raise TrainingError(
                f"{picture.name} cannot be read any more: {error}; start the run anew"
            ) from error
        if content_hash(image) != digest:
            raise TrainingError(f"{picture.name} has changed since the run began; start the run anew")
        return image


def find_pictures(config: PicturesConfig) -> Found:
    """Open the sources of a configuration.

    Raises:
        TrainingError: there is nothing of the kind, or the sizes make no sense.
    """
    folder = config.masks if config.masks not in ("", ALPHA) else None
    return Found(
        config=config,
        source=open_source(config.source, folder),
        prior=None if config.regularisation is None else open_source(config.regularisation),
        catalogue=Catalogue(config.sizes()),
    )
