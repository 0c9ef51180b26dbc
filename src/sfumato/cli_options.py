"""The command line's options that mean a field of a `Request`, as a table, and how commands come by them.

Types and defaults come from the dataclasses, so an option cannot drift away from its field.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from sfumato.cli_flags import NUMBERS, QUEUE_FLAGS, SERVER_FLAGS, SETTING_FLAGS, SWITCHES, Flag
from sfumato.cli_given import as_typed, check_needs
from sfumato.cli_groups import gather, spread
from sfumato.errors import PromptError, RequestError
from sfumato.types import Request, field_types

if TYPE_CHECKING:
    from sfumato.app.settings import Settings
    from sfumato.pipeline.scripts.prompts_file import Reading
    from sfumato.text.styles import Style

MAX_PROMPTS_BYTES = 16 * 2**20


SOURCE = Flag("source.image", (), "The picture to start from.")
PROMPT = Flag("prompt.text", (), "What the picture shows; - reads prompts from standard input, one a line.")
REQUEST_FLAGS: tuple[Flag, ...] = (
    Flag("prompt.negative", ("--negative", "-n"), "What it should not show."),
    Flag("sampling.steps", ("--steps", "-s"), "Steps from noise to picture."),
    Flag("sampling.sampler", ("--sampler",), "How a step is taken: DPM++ 2M, Euler a, DDIM …"),
    Flag("sampling.schedule", ("--schedule",), "Which noise levels are visited: Automatic, Karras …"),
    Flag("sampling.guidance", ("--guidance", "-g"), "How closely the prompt is followed; 1 = not amplified."),
    Flag("sampling.guidance_rescale", ("--guidance-rescale",), "0 to 1: against washed-out high guidance."),
    Flag("canvas.seed", ("--seed",), "Starting noise; -1 draws one."),
    Flag("canvas.width", ("--width", "-W"), "Pixels, a multiple of 8; unset = the checkpoint's own size."),
    Flag("canvas.height", ("--height", "-H"), "Pixels, a multiple of 8."),
    Flag("canvas.batch_size", ("--batch-size",), "Pictures sampled together."),
    Flag("canvas.batch_count", ("--batch-count", "-c"), "Batches, one after another."),
    Flag("canvas.tiling", ("--tiling",), "A picture whose opposite edges meet without a seam."),
    Flag(
        "canvas.noise_source", ("--noise-source",), "philox: the same everywhere; cpu, device: torch's own."
    ),
    Flag("prompt.clip_skip", ("--clip-skip",), "Take the k-th last layer of the text encoder."),
    Flag("prompt.emphasis", ("--emphasis",), "What (brackets:1.2) do: Original, 'No norm', Ignore, None."),
    Flag("model.checkpoint", ("--model", "-m"), "Name or path; unset = the model that comes with Sfumato."),
    Flag("model.vae", ("--vae",), "Another autoencoder, name or path."),
    Flag("model.prediction", ("--prediction",), "eps or v, for a checkpoint that does not say it."),
    Flag("variation.seed", ("--variation-seed",), "Noise to mix in; -1 draws one."),
    Flag("variation.strength", ("--variation-strength",), "0 to 1: how much of it."),
    Flag("variation.from_width", ("--resize-seed-width",), "Noise as for a picture of this width."),
    Flag("variation.from_height", ("--resize-seed-height",), "Noise as for a picture of this height."),
    Flag("variation.seed_delta", ("--seed-delta",), "Added to the seed for the noise of later steps (ENSD)."),
    Flag("hires.enabled", ("--hires",), "A second pass over the enlarged picture."),
    Flag("hires.scale", ("--hires-scale",), "How many times larger."),
    Flag("hires.width", ("--hires-width",), "Pixels; 0 = from the height or the scale."),
    Flag("hires.height", ("--hires-height",), "Pixels; 0 = from the width or the scale."),
    Flag("hires.upscaler", ("--hires-upscaler",), "Latent …, Lanczos, or a model; see `sfumato upscale`."),
    Flag("hires.steps", ("--hires-steps",), "0 = as in the first pass."),
    Flag("hires.denoising_strength", ("--hires-denoise",), "0 to 1: how much the second pass changes."),
    Flag("hires.sampler", ("--hires-sampler",), "Unset = as in the first pass."),
    Flag("hires.schedule", ("--hires-schedule",), "Unset = as in the first pass."),
    Flag("hires.checkpoint", ("--hires-model",), "Unset = as in the first pass."),
    Flag("hires.prompt", ("--hires-prompt",), "Unset = as in the first pass."),
    Flag("hires.negative", ("--hires-negative",), "Unset = as in the first pass."),
    Flag("refiner.checkpoint", ("--refiner",), "A second checkpoint that takes over on the way."),
    Flag("refiner.switch_at", ("--refiner-switch-at",), "Share of the way at which it does."),
    Flag("refiner.passes", ("--refiner-passes",), "With --hires: first pass, second pass, both passes."),
    Flag(
        "sampling.image_guidance", ("--image-guidance",), "Second scale of instruction-editing checkpoints."
    ),
    Flag("sampling.negative_min_sigma", ("--negative-min-sigma",), "Below it the negative prompt rests."),
    Flag("sampling.skip_early_guidance", ("--skip-early-guidance",), "Share of steps without guidance."),
    Flag("solver.eta", ("--eta",), "0 to 1: fresh noise a step; unset = the sampler's own."),
    Flag("solver.s_churn", ("--s-churn",), "Noise added before each step of Euler, Heun, DPM2."),
    Flag("solver.s_tmin", ("--s-tmin",), "Lowest sigma at which it is."),
    Flag("solver.s_tmax", ("--s-tmax",), "Highest sigma at which it is."),
    Flag("solver.s_noise", ("--s-noise",), "Standard deviation of noise that is added."),
    Flag("solver.unipc_variant", ("--unipc-variant",), "bh1, bh2, vary_coeff."),
    Flag("solver.unipc_skip", ("--unipc-skip",), "time_uniform, time_quadratic, logSNR."),
    Flag("solver.unipc_order", ("--unipc-order",), "1 to 50."),
    Flag("solver.unipc_lower_order_final", ("--unipc-lower-order-final",), "Lower order in the last steps."),
    Flag("levels.sigma_min", ("--sigma-min",), "Lowest noise level visited; unset = the checkpoint's."),
    Flag("levels.sigma_max", ("--sigma-max",), "Highest."),
    Flag("levels.rho", ("--rho",), "Bend of the schedules Karras and Polyexponential."),
    Flag("levels.beta_alpha", ("--beta-alpha",), "Shape of the schedule Beta."),
    Flag("levels.beta_beta", ("--beta-beta",), "Shape of the schedule Beta."),
    Flag("levels.discard_penultimate", ("--discard-penultimate",), "Leave out the last level but one."),
)
SOURCE_FLAGS: tuple[Flag, ...] = (
    Flag("source.denoising_strength", ("--denoise", "-d"), "0 = the source, 1 = nothing of it."),
    Flag("source.resize_mode", ("--resize-mode",), "Just resize, Crop and resize, Resize and fill …"),
    Flag("source.exact_steps", ("--exact-steps",), "Take all the steps, whatever the strength."),
    Flag("source.noise_multiplier", ("--noise-multiplier",), "Of the starting noise."),
    Flag("source.extra_noise", ("--extra-noise",), "Added to the starting latents."),
    Flag("source.color_correction", ("--color-correction",), "Bring the colours back to the source's."),
    Flag("source.background", ("--background",), "Under transparent places."),
    Flag("source.depth", ("--depth",), "A depth map, white near, for depth-guided checkpoints."),
    Flag("mask.image", ("--mask",), "White changes, black stays."),
    Flag("mask.invert", ("--mask-invert",), "Black changes, white stays."),
    Flag("mask.blur_x", ("--mask-blur-x",), "Pixels."),
    Flag("mask.blur_y", ("--mask-blur-y",), "Pixels."),
    Flag("mask.area", ("--mask-area",), "Whole picture, or Only masked: enlarged, painted, put back."),
    Flag("mask.padding", ("--mask-padding",), "Pixels around the masked area."),
    Flag("mask.content", ("--mask-content",), "Start from fill, original, latent noise, latent nothing."),
    Flag("mask.round", ("--mask-round",), "Latents are masked or not, nothing between."),
    Flag("mask.conditioning_weight", ("--mask-weight",), "0 to 1: an inpainting checkpoint sees less there."),
    Flag("mask.overlay", ("--overlay",), "Lay the source over the result outside the mask."),
    Flag("soft.enabled", ("--soft",), "A mask with grey values, let go of step by step."),
    Flag("soft.schedule_bias", ("--soft-bias",), "When the source is let go of."),
    Flag("soft.preservation_strength", ("--soft-preserve",), "How long it is kept."),
    Flag("soft.contrast_boost", ("--soft-boost",), "Against loss of contrast where both mix."),
    Flag("soft.mask_influence", ("--soft-mask",), "How much the mask counts in the final blend."),
    Flag("soft.difference_threshold", ("--soft-threshold",), "How much change counts as change."),
    Flag("soft.difference_contrast", ("--soft-contrast",), "How sharply."),
    Flag("outpaint.left", ("--left",), "Pixels to paint beyond the left edge."),
    Flag("outpaint.right", ("--right",), "Beyond the right edge."),
    Flag("outpaint.up", ("--up",), "Above."),
    Flag("outpaint.down", ("--down",), "Below."),
    Flag("outpaint.mask_blur", ("--outpaint-blur",), "Pixels over which old and new meet."),
    Flag("outpaint.falloff", ("--outpaint-falloff",), "Exponent of the noise's spectrum."),
    Flag("outpaint.color_variation", ("--outpaint-color",), "How far its colours stray."),
)
SPELLINGS: Mapping[str, str] = MappingProxyType(
    {flag.field: flag.spellings[0] for flag in (*REQUEST_FLAGS, *SOURCE_FLAGS)}
)
PROMPT_SETTINGS = ("styles", "wildcards")  # of use where there is a prompt

_STYLE = inspect.Parameter(
    "style",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[list[str] | None, typer.Option("--style", help="Name of a style; may be repeated.")],
)


@dataclass(frozen=True)
class Options:
    """What was given on the command line; None = not given."""

    request: Mapping[str, Any]  # by the flag's field
    setting: Mapping[str, Any]
    style: Sequence[str] = ()  # names, in the order in which they apply

    def settings(self) -> Settings:
        """The settings, with the flags on top. Raises RequestError."""
        from sfumato.app.settings import load_settings

        return load_settings(self.setting)

    def single(self, size: str | None) -> Request:
        """The one request that the options describe, with its styles.

        Raises RequestError: a value out of range, no prompt. PromptError, OutputError: no such style or file.
        """
        base = self._base(size)
        if self.request["prompt.text"] is None:
            raise RequestError('no prompt; give one, be it empty: ""')
        return self._styled([base])[0]

    def requests(
        self,
        *,
        size: str | None,
        prompts_file: Path | None,
        reading: Reading | None = None,
        same_seed: bool = False,
        dynamic: str | None = None,
    ) -> list[Request]:
        """One request for each prompt: from the argument, from a file, or from standard input (`-`).

        Args:
            size: width and height at once.
            prompts_file: one prompt or line of options a line.
            reading: how lines join the options; None = each by itself.
            same_seed: draw a seed of -1 once for all lines.
            dynamic: "random" or "all": how prompts with alternatives are drawn; None = they are not.

        Raises RequestError: a value out of range, no prompt or two sources of prompts, an unreadable file.
        PromptError, OutputError: no such style, wildcard or file of styles.
        """
        base = self._base(size)
        text = _lines(
            self.request["prompt.text"], prompts_file, both=bool(reading and reading.insert != "replace")
        )
        if text is None:  # lines may ask for what is needed
            check_needs(self.request, SPELLINGS)
        requests = [base]
        if same_seed or (reading and reading.iterate_seed):
            from sfumato.pipeline.scripts.work import settled

            base = replace(base, canvas=replace(base.canvas, seed=settled(base.canvas.seed)))
        if text is not None:
            from sfumato.pipeline.scripts.prompts_file import Reading, read_lines

            try:
                requests = read_lines(text, base, reading or Reading(), self.styles())
            except (RequestError, PromptError) as error:
                raise type(error)(f"{prompts_file or 'standard input'}, {error}") from error
            if not requests:
                raise RequestError(
                    f"{prompts_file or 'standard input'}: no prompt in it; expected one a line"
                )
        return self._drawn(self._styled(requests), dynamic)

    def _base(self, size: str | None) -> Request:
        given = dict(self.request)
        if size is not None:
            given["canvas.width"], given["canvas.height"] = _sides(size, given)
        parts: dict[str, dict[str, Any]] = {}
        for name, value in given.items():
            part, field = name.split(".")
            if value is not None:
                parts.setdefault(part, {})[field] = value
        made: dict[str, Any] = {}
        for name, values in parts.items():
            try:
                made[name] = _part_type(name)(**values)
            except RequestError as error:
                raise as_typed(error, name, SPELLINGS) from error
        return Request(**made)

    def styles(self) -> dict[str, Style]:
        """The styles there are, by name; none where there is no file. Raises OutputError: it is none."""
        from sfumato.text.styles import read_styles

        path = self.settings().styles
        found = sorted(path.parent.glob(path.name))
        return read_styles(found or [path]) if found or self.style else {}

    def _styled(self, requests: Sequence[Request]) -> list[Request]:
        if not self.style:
            return list(requests)
        from sfumato.text.styles import apply_styles

        styles, styled = self.styles(), []
        for request in requests:
            text, negative = apply_styles(request.prompt.text, request.prompt.negative, self.style, styles)
            styled.append(replace(request, prompt=replace(request.prompt, text=text, negative=negative)))
        return styled

    def _drawn(self, requests: list[Request], dynamic: str | None) -> list[Request]:
        if dynamic is None:
            return requests
        from sfumato.pipeline.scripts.dynamic import expand

        folder = self.settings().wildcards
        return [each for request in requests for each in expand(request, dynamic, folder)]


def with_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` the prompt, every option of text to image, and of the settings."""
    return _with_flags(command, (PROMPT,), REQUEST_FLAGS, SETTING_FLAGS)


def with_source(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` the source, the prompt, every option of a request, and of the settings."""
    return _with_flags(command, (SOURCE, PROMPT), (*SOURCE_FLAGS, *REQUEST_FLAGS), SETTING_FLAGS)


def with_any_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` the prompt, every option of a request and of the settings; --source too."""
    named = replace(SOURCE, spellings=("--source",))
    return _with_flags(command, (PROMPT,), (*REQUEST_FLAGS, named, *SOURCE_FLAGS), SETTING_FLAGS)


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` every option of the settings, the server's too."""
    return _with_flags(command, (), (), (*SETTING_FLAGS, *SERVER_FLAGS))


def with_server_data(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` the option that says where the server's data are."""
    return _with_flags(command, (), (), [flag for flag in SERVER_FLAGS if flag.field == "data"])


def with_gallery(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` the options that say where the gallery is."""
    flags = [*SETTING_FLAGS, *SERVER_FLAGS]
    return _with_flags(
        command, (), (), [flag for flag in flags if flag.field in ("outputs", "data", "database_url")]
    )


def with_queue(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(options, …)` every option of the settings, and those of the queue."""
    return _with_flags(command, (), (), (*SETTING_FLAGS, *QUEUE_FLAGS))


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give `command(options, …)` these options of the settings; none named = all but those for prompts."""
    flags = [
        flag
        for flag in SETTING_FLAGS
        if (flag.field in names if names else flag.field not in PROMPT_SETTINGS)
    ]
    return lambda command: _with_flags(command, (), (), flags)


def _with_flags(
    command: Callable[..., None], given: Sequence[Flag], request: Sequence[Flag], setting: Sequence[Flag]
) -> Callable[..., None]:
    first, *own = inspect.signature(command, eval_str=True).parameters.values()
    assert first.name == "options"
    parameters = [_parameter(flag, _request_type(flag), typer.Argument) for flag in given]
    parameters += [_parameter(flag, _request_type(flag), typer.Option) for flag in request]
    if request:
        parameters.append(_STYLE)
    extra = [_parameter(flag, _setting_type(flag), typer.Option) for flag in setting]

    def run(**values: Any) -> None:
        table = {flag.field: values.pop(flag.name) for flag in (*given, *request)}
        settings = {flag.field: values.pop(flag.name) for flag in setting}
        command(Options(table, settings, tuple(values.pop("style", None) or ())), **gather(own, values))

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature([*parameters, *spread(own), *extra])  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _setting_type(flag: Flag) -> type:
    return int if flag.field in NUMBERS else bool if flag.field in SWITCHES else str


def _parameter(flag: Flag, kind: type, make: Callable[..., Any]) -> inspect.Parameter:
    described = (
        make(*_with_no(flag.spellings), help=flag.help + _default_text(flag), show_default=False)
        if kind is bool
        else make(
            *flag.spellings,
            help=flag.help + _default_text(flag),
            show_default=False,
            parser=_choice(flag) or _PARSERS[kind],
            metavar=kind.__name__.upper() if flag.spellings else flag.field.partition(".")[0].upper(),
        )
    )
    annotation = Annotated[kind | None, described]  # type: ignore[valid-type]  # None = not given
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_no(spellings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{each}/--no-{each.removeprefix('--')}" for each in spellings)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text[:40]!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text[:40]!r} is not a number") from None


_PARSERS: Mapping[type, Callable[[str], Any]] = MappingProxyType(
    {int: _whole, float: _number, str: str, Path: Path}
)


def _default_text(flag: Flag) -> str:
    if "." not in flag.field:
        return ""
    part, field = flag.field.split(".")
    default = getattr(getattr(Request(), part), field)
    if default is None or default == "" or default is False:
        return ""
    return f" [default: {'on' if default is True else default}]"


def _choice(flag: Flag) -> Callable[[str], str] | None:
    """How a choice among words is read: letter case does not count. None for every other field."""
    if "." not in flag.field:
        return None
    part, field = flag.field.split(".")
    annotation = field_types(_part_type(part))[field]
    kinds = (annotation, *get_args(annotation))
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if not words:
        return None
    return lambda text: next((word for word in words if word.casefold() == text.casefold()), text)


def _request_type(flag: Flag) -> type:
    part, field = flag.field.split(".")
    annotation = field_types(_part_type(part))[field]
    kinds = {kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)}
    if get_origin(annotation) is Literal or any(get_origin(kind) is Literal for kind in kinds):
        return str  # the dataclass checks it, and says it in one line
    (kind,) = kinds
    assert kind is bool or kind in _PARSERS
    return kind  # type: ignore[no-any-return]


def _part_type(part: str) -> Any:
    return {field.name: field.default_factory for field in fields(Request)}[part]


def _sides(size: str, given: Mapping[str, Any]) -> tuple[int, int]:
    if given["canvas.width"] is not None or given["canvas.height"] is not None:
        raise RequestError(f"--size {size} beside --width or --height; give one or the other")
    return parse_size(size)


def parse_size(size: str) -> tuple[int, int]:
    """Width and height of a text like 512x768. Raises RequestError: of another form."""
    width, _, height = size.lower().replace("×", "x").partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(size) < 20):
        raise RequestError(f"--size {size[:40]!r} is not of the form 512x768")
    return int(width), int(height)


def _lines(argument: str | None, file: Path | None, *, both: bool) -> str | None:
    """The text of a file of prompts or of standard input; None where the argument is the prompt."""
    if argument is None and file is None:
        raise RequestError("no prompt; give one, - for standard input, or --prompts-file")
    if argument is not None and file is not None and not both:
        raise RequestError(
            f"a prompt and --prompts-file {file}; give one or the other, or say where: --insert"
        )
    if file is None and argument != "-":
        return None
    if file == Path("-"):
        file = None
    try:
        with sys.stdin.buffer if file is None else file.open("rb") as stream:
            data = stream.read(MAX_PROMPTS_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file or 'standard input'}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise RequestError(
            f"{file}: {error.strerror or error}; expected a file of prompts, one a line"
        ) from error
    if len(data) > MAX_PROMPTS_BYTES:
        raise RequestError(f"{file or 'standard input'}: more than {MAX_PROMPTS_BYTES:,} bytes of prompts")
    return text
