"""Which controls are without effect for now, because of what others say. They cannot be used then.

The table is data, so that the browser, where something is chosen, and the server, where a form is filled,
judge by the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sfumato.diffusion.samplers import SAMPLERS, SamplerSpec
from sfumato.diffusion.schedules import AUTOMATIC, SCHEDULES
from sfumato.ui.controls import CONTROLS

if TYPE_CHECKING:
    from sfumato.ui.form import Form


@dataclass(frozen=True, kw_only=True)
class Tie:
    """Fields that are without effect where others have certain values."""

    fields: tuple[str, ...]
    without: Mapping[str, tuple[Any, ...]]  # by field: the values, as its control shows them
    every: bool = False  # whether all others have to have one of theirs; else a single one is enough

    def useless(self, values: Mapping[str, Any]) -> bool:
        """Whether the fields are, by what the controls show."""
        found = [values[field] in useless for field, useless in self.without.items() if field in values]
        return (all if self.every else any)(found) if found else False


def _beginning(start: str, *but: str) -> tuple[str, ...]:
    return tuple(each.field for each in CONTROLS if each.field.startswith(start) and each.field not in but)


def _deaf(field: str) -> tuple[str, ...]:
    """The samplers that pass over a field of `Solver`."""
    return tuple(name for name, spec in SAMPLERS.items() if field not in spec.takes)


def _schedules_but(*names: str) -> tuple[str, ...]:
    """Schedules that are none of these, and do not become one of them either."""
    becomes = {spec.default_schedule for spec in SAMPLERS.values()}
    return tuple(
        each for each in SCHEDULES if each not in names and (each != AUTOMATIC or not becomes & {*names})
    )


def _samplers(wanted: Iterable[SamplerSpec]) -> Mapping[str, tuple[str, ...]]:
    return {"sampling.sampler": tuple(each.name for each in wanted)}


_SPECS = SAMPLERS.values()
TIES: tuple[Tie, ...] = (
    Tie(fields=_beginning("hires.", "hires.enabled"), without={"hires.enabled": (False,)}),
    Tie(fields=("refiner.switch_at",), without={"refiner.checkpoint": ("",)}),
    Tie(fields=("refiner.passes",), without={"refiner.checkpoint": ("",), "hires.enabled": (False,)}),
    Tie(fields=("mask.padding",), without={"mask.area": ("Whole picture",)}),
    Tie(fields=_beginning("soft.", "soft.enabled"), without={"soft.enabled": (False,)}),
    Tie(
        fields=("outpaint.mask_blur", "outpaint.falloff", "outpaint.color_variation"),
        without={f"outpaint.{side}": (0,) for side in ("left", "right", "up", "down")},
        every=True,
    ),
    Tie(fields=("variation.seed",), without={"variation.strength": (0,)}),
    Tie(
        fields=("sampling.guidance_rescale", "sampling.negative_min_sigma", "sampling.skip_early_guidance"),
        without={"sampling.guidance": (1,)},
    ),
    Tie(fields=("sampling.schedule",), without=_samplers(each for each in _SPECS if each.own_levels)),
    Tie(fields=("variation.seed_delta",), without=_samplers(e for e in _SPECS if not e.uses_seed_delta)),
    Tie(fields=("solver.unipc_skip",), without=_samplers(each for each in _SPECS if each.path != "unipc")),
    *(
        Tie(fields=(field,), without={"sampling.sampler": _deaf(field.removeprefix("solver."))})
        for field in _beginning("solver.", "solver.unipc_skip")
    ),
    Tie(fields=("levels.rho",), without={"sampling.schedule": _schedules_but("Karras", "Polyexponential")}),
    Tie(fields=_beginning("levels.beta_"), without={"sampling.schedule": _schedules_but("Beta")}),
)
INPUTS: Mapping[str, int] = MappingProxyType(  # channels of the U-Nets, of which a field is for one kind
    {"sampling.image_guidance": 8, "mask.conditioning_weight": 9}
)
DEPTH_INPUTS = 5


def usable(field: str, values: Mapping[str, Any], channels: int | None) -> bool:
    """Whether a field counts.

    Args:
        field: dotted.
        values: what the controls of its form show, by field.
        channels: that the checkpoint's U-Net takes; None = not known.
    """
    if field in INPUTS:
        return channels in (None, INPUTS[field])
    return not any(each.useless(values) for each in TIES if field in each.fields)


def depends(field: str) -> bool:
    """Whether a field is without effect at times."""
    return field in INPUTS or any(field in each.fields for each in TIES)


def tie(form: Form) -> None:
    """Let the browser judge anew whenever something is chosen. Call it when the form is whole."""
    for each in TIES:
        fields = [form[field] for field in each.fields if field in form.components]
        without = {form[field]: held for field, held in each.without.items() if field in form.components}
        if not fields or not without:
            continue
        lists, test = json.dumps(list(without.values())), "every" if each.every else "some"
        js = (
            f"(...given) => {{ const off = {lists}.{test}((held, at) => held.includes(given[at]));"
            f" return [{', '.join(update('!off') for _ in fields)}]; }}"
        )
        for source in without:
            form.site.here(source.change, js, list(without), fields)


def update(usable: str, **values: str) -> str:
    """JavaScript for what changes of a component.

    Args:
        usable: an expression: whether it can be used.
        values: expressions for others of its properties.
    """
    parts = {"interactive": f"!!({usable})", **values}
    return "{__type__: 'update', " + ", ".join(f"{name}: {value}" for name, value in parts.items()) + "}"
