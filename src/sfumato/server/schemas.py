"""What AUTOMATIC1111's clients send to make pictures: names, defaults and tolerances of its API.

Unknown fields are passed over. `sfumato.pipeline.scripts.fields.API_NAMES` says what each name means in a
`Request`; the names that mean something else stand in `BESIDE`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

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

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] | None = None
    seed: int = Field(-1, description="below 0 = drawn")
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    sampler_name: str | None = None
    sampler_index: str | None = Field("Euler", description="counts where sampler_name is empty")
    scheduler: str | None = None
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
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    disable_extra_networks: bool = False
    firstpass_image: str | None = None
    comments: dict[str, Any] | None = None
    force_task_id: str | None = Field(None, max_length=200)
    script_name: str | None = None
    script_args: list[Any] = []
    send_images: bool = True
    save_images: bool = False
    alwayson_scripts: dict[str, Any] = {}
    infotext: str | None = Field(None, description="fills the fields that are not given")


class Txt2ImgBody(GenerationBody):
    """Text to image."""

    enable_hr: bool = False
    firstphase_width: int = 0
    firstphase_height: int = 0
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str = ""
    hr_negative_prompt: str = ""


class Img2ImgBody(GenerationBody):
    """Image to image."""

    init_images: list[str] | None = Field(None, description="base64 or data URIs")
    resize_mode: int = 0
    denoising_strength: float | None = 0.75
    image_cfg_scale: float | None = None
    mask: str | None = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int | None = Field(None, description="sets both")
    mask_round: bool = True
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float | None = None
    latent_mask: str | None = None
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
    upscaler_1: str = "None"
    upscaler_2: str = "None"
    extras_upscaler_2_visibility: float = Field(0, ge=0, le=1)
    upscale_first: bool = False


class ExtrasSingleBody(ExtrasBody):
    """One picture."""

    image: str = ""


class FileData(BaseModel):
    """A picture and what it is called."""

    data: str
    name: str = ""


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

    image: str = ""


class InterrogateBody(PictureBody):
    """A picture that is to be described."""

    model: str = "clip"


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
