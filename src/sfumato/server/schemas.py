"""What AUTOMATIC1111's clients send to make pictures: names, defaults and tolerances of its API.

Unknown fields are passed over. `sfumato.pipeline.scripts.fields.API_NAMES` says what each name means in a
`Request`; the names that mean something else stand in `BESIDE`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sfumato.pipeline.infotext import MAX_CHARS
from sfumato.server.pictures import MAX_TEXT
from sfumato.text.limits import MAX_CHARACTERS

MAX_NAME = 1000  # characters of what something is called
MAX_DEPTH = 50  # of values within values
MAX_FREE = 2**20  # characters, as JSON, of a field that may hold anything


def _bounded(value: Any) -> Any:
    layer, depth = [value], 0
    while layer:
        if depth > MAX_DEPTH:
            raise ValueError(f"values within values; at most {MAX_DEPTH} of them are read")
        inner = [each.values() if isinstance(each, dict) else each for each in layer]
        layer = [each for values in inner for each in values if isinstance(each, dict | list)]
        depth += 1
    size = len(json.dumps(value))
    if size > MAX_FREE:
        raise ValueError(f"{size:,} characters as JSON; at most {MAX_FREE:,} are read")
    return value


def _most(most: int) -> AfterValidator:
    """Refuses longer texts, and lets half characters through, which `max_length` would not."""

    def checked(text: str) -> str:
        if len(text) > most:
            raise ValueError(f"{len(text):,} characters; at most {most:,} are read")
        return text

    return AfterValidator(checked)


def _told(most: int) -> Any:
    return Field(json_schema_extra={"maxLength": most})


Name = Annotated[str, _most(MAX_NAME), _told(MAX_NAME)]
Words = Annotated[str, _most(MAX_CHARACTERS), _told(MAX_CHARACTERS)]
Infotext = Annotated[str, _most(MAX_CHARS), _told(MAX_CHARS)]
Packed = Annotated[str, _most(MAX_TEXT), _told(MAX_TEXT)]  # a picture
Free = Annotated[dict[str, Any], AfterValidator(_bounded)]
FreeList = Annotated[list[Any], AfterValidator(_bounded)]

BESIDE: tuple[str, ...] = (  # names that are no field of a Request of their own
    "styles",  # merged into the prompts
    "restore_faces",  # done to finished pictures
    "override_settings",
    "override_settings_restore_afterwards",  # nothing is left to restore
    "do_not_save_samples",  # pictures of jobs are always kept
    "do_not_save_grid",
    "disable_extra_networks",
    "firstpass_image",
    "firstphase_width",  # the size of the first pass in old clients
    "firstphase_height",
    "comments",
    "force_task_id",
    "script_name",
    "script_args",
    "alwayson_scripts",
    "send_images",
    "save_images",  # a grid in front of several pictures
    "infotext",
    "init_images",
    "latent_mask",
    "include_init_images",
)


class GenerationBody(BaseModel):
    """What text to image and image to image have in common."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    prompt: Words = ""
    negative_prompt: Words = ""
    styles: list[Name] | None = None
    seed: int = Field(-1, description="below 0 = drawn")
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: Name | None = None
    sampler_index: Name | None = Field("Euler", description="counts where sampler_name is empty")
    scheduler: Name | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = Field(512, description="pixels, rounded down to a multiple of 8")
    height: int = 512
    restore_faces: bool | None = None
    tiling: bool | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    eta: float | None = None
    denoising_strength: float | None = None
    s_min_uncond: float | None = None
    s_churn: float | None = None
    s_tmax: float | None = Field(None, description="0 = no limit")
    s_tmin: float | None = None
    s_noise: float | None = None
    override_settings: Free | None = None
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: Name | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool = False
    firstpass_image: Packed | None = None
    comments: Free | None = None
    force_task_id: str | None = Field(None, max_length=200)
    script_name: Name | None = None
    script_args: FreeList = []
    send_images: bool = True
    save_images: bool = False
    alwayson_scripts: Free = {}
    infotext: Infotext | None = Field(None, description="fills the fields that are not given")


class Txt2ImgBody(GenerationBody):
    """Text to image."""

    enable_hr: bool = False
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_scale: float = 2.0
    hr_upscaler: Name | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_checkpoint_name: Name | None = None
    hr_sampler_name: Name | None = None
    hr_scheduler: Name | None = None
    hr_prompt: Words = ""
    hr_negative_prompt: Words = ""


class Img2ImgBody(GenerationBody):
    """Image to image."""

    init_images: list[Packed] | None = Field(None, description="base64 or data URIs")
    resize_mode: int = 0
    denoising_strength: float | None = 0.75
    image_cfg_scale: float | None = None
    mask: Packed | None = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int | None = Field(None, description="sets both")
    mask_round: bool = True
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float | None = None
    latent_mask: Packed | None = None
    include_init_images: bool = False


class GenerationAnswer(BaseModel):
    """What comes back from both."""

    images: list[str] = Field(description="base64")
    parameters: dict[str, Any] = Field(description="the request")
    info: str = Field(description="JSON")


class ExtrasBody(BaseModel):
    """How finished pictures are made larger."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    resize_mode: int = Field(0, ge=0, le=1, description="0 = by a factor, 1 = to a size")
    show_extras_results: bool = True
    gfpgan_visibility: float = Field(0, ge=0, le=1)
    codeformer_visibility: float = Field(0, ge=0, le=1)
    codeformer_weight: float = Field(0, ge=0, le=1)
    upscaling_resize: float = Field(2, gt=0)
    upscaling_resize_w: int = Field(512, ge=1)
    upscaling_resize_h: int = Field(512, ge=1)
    upscaling_crop: bool = True
    upscaler_1: Name = "None"
    upscaler_2: Name = "None"
    extras_upscaler_2_visibility: float = Field(0, ge=0, le=1)
    upscale_first: bool = False


class ExtrasSingleBody(ExtrasBody):
    """One picture."""

    image: Packed = ""


class FileData(BaseModel):
    """A picture and what it is called."""

    data: Packed
    name: Name = ""


class ExtrasBatchBody(ExtrasBody):
    """Several pictures."""

    imageList: list[FileData]  # noqa: N815  # the name its clients know


class ExtrasSingleAnswer(BaseModel):
    """One picture, larger."""

    html_info: str
    image: str


class ExtrasBatchAnswer(BaseModel):
    """Several."""

    html_info: str
    images: list[str]


class PictureBody(BaseModel):
    """A picture that is asked about."""

    image: Packed = ""


class InterrogateBody(PictureBody):
    """A picture that is to be described."""

    model: Name = "clip"


class PngInfoAnswer(BaseModel):
    """What stands in a picture."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]


class ProgressAnswer(BaseModel):
    """How far the caller's running job is."""

    progress: float
    eta_relative: float
    state: dict[str, Any]
    current_image: str | None = None
    textinfo: str | None = None
