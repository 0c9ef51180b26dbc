"""Where a user's pictures are, and how they are varied, as a value."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sfumato.train.buckets import Buckets, usual_buckets
from sfumato.train.captions import CaptionConfig

ALPHA = "alpha"


class PicturesConfig(BaseModel):
    """Where a user's pictures are, and how they are varied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Path  # see `sources.open_source`
    resolution: Annotated[int, Field(ge=64)] = 512  # side of the square whose area all pictures have
    buckets: bool = True  # False = squares alone
    upscale: bool = True  # False = pictures below the resolution keep their size
    least_side: Annotated[int, Field(ge=1)] | None = None  # None = half the resolution
    repeats: Annotated[int, Field(ge=1)] = 1  # times those of a folder
    flip: bool = False  # half of all visits see the mirror image
    random_crop: bool = False  # False = the middle; with it nothing is kept, and each visit encodes anew
    masks: str = ""  # "alpha", or the name of a folder with masks; where black, the loss does not count
    prompt: str = ""  # of pictures without a caption; "" = the words of their folder
    captions: CaptionConfig = CaptionConfig()  # those of regularisation pictures stay as they are
    regularisation: Path | None = None  # pictures of the class, for DreamBooth
    prior_prompt: str = ""  # of those without a caption
    prior_weight: Annotated[float, Field(ge=0)] = 1.0  # of their loss

    def sizes(self) -> Buckets:
        """Give the buckets. Raises TrainingError: there are none."""
        return usual_buckets(self.resolution, enabled=self.buckets, upscale=self.upscale)
