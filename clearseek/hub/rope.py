"""Rotary settings of a config.json: transformers 4's form, transformers 5's, and additions of their writers.

Two forms exist, and many files have both: flat ``rope_theta`` and ``rope_scaling``, or one object ``rope_parameters``.
Writers fill in every setting of YaRN in transformers. Such a setting is accepted with the value that the model has
anyway (``attention_factor`` as it follows from ``mscale``; ``truncate`` true), and refused by name with another.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from clearseek.config import RopeScaling
from clearseek.errors import UserError

_NO_SCALING: Final = frozenset(("rope_theta", "partial_rotary_factor"))
_NAMES: Final = frozenset(("type", "rope_type", "finetuned"))
"""Keys that do not change the numbers, once read."""


def rope_settings(raw: dict[str, Any], file: Path) -> tuple[Any, RopeScaling | None]:
    """Base (not validated yet) and YaRN settings of a config.json. Raises UserError, which begins with `file`."""
    forms = {name: raw.get(name) or {} for name in ("rope_parameters", "rope_scaling")}
    if not all(isinstance(form, dict) for form in forms.values()):
        raise UserError(f"{file}: rope_parameters and rope_scaling must be objects")
    sources = [{key: value for key, value in form.items() if value is not None} for form in forms.values()]
    thetas = [source["rope_theta"] for source in (*sources, raw) if source.get("rope_theta") is not None]
    scalings = [_scaling(source, file) for source in sources if source]
    if any(theta != thetas[0] for theta in thetas) or (len(scalings) == 2 and scalings[0] != scalings[1]):
        raise UserError(f"{file}: rope_parameters and rope_theta / rope_scaling contradict each other: keep one form")
    for source in (*sources, raw):
        if source.get("partial_rotary_factor", 1) not in (None, 1):
            raise UserError(
                f"{file}: partial_rotary_factor = {source['partial_rotary_factor']!r}: only 1 is supported, all "
                "channels with position"
            )
    return thetas[0] if thetas else 10000.0, scalings[0] if scalings else None


def _scaling(source: dict[str, Any], file: Path) -> RopeScaling | None:
    """YaRN settings of one form, or None for plain rotary embeddings."""
    kinds = {source[key] for key in ("rope_type", "type") if isinstance(source.get(key), str)}
    if len(kinds) > 1:
        raise UserError(f"{file}: rope_type and type contradict each other: {', '.join(sorted(kinds))}")
    if not kinds:
        if unnamed := sorted(set(source) - _NO_SCALING):
            raise UserError(f"{file}: the rotary settings have {', '.join(unnamed)}, but no rope_type that says how")
        return None
    kind = kinds.pop()
    if kind == "default":
        return None
    if kind != "yarn":
        raise UserError(f'{file}: rope type "{kind}": only "default" and "yarn" are supported')
    # Defaults of DeepSeek's own code; ClearSeek's are the values of the V3 release.
    settings: dict[str, Any] = {"mscale": 1.0, "mscale_all_dim": 0.0}
    settings |= {name: value for name, value in source.items() if name not in _NAMES | _NO_SCALING}
    factor, truncate = settings.pop("attention_factor", None), settings.pop("truncate", True)
    missing = [name for name in ("factor", "original_max_position_embeddings") if name not in settings]
    if missing:
        raise UserError(f"{file}: the YaRN settings lack {' and '.join(missing)}")
    if truncate is not True:
        raise UserError(
            f"{file}: YaRN settings: truncate = {truncate!r}: only true is supported, as in DeepSeek's code"
        )
    try:
        scaling = RopeScaling.model_validate(settings)
    except ValidationError as error:
        causes = [f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors()]
        raise UserError(f"{file}: YaRN settings: {'; '.join(causes)}") from None
    if factor is not None:
        _check_attention_factor(factor, scaling, file)
    return scaling


def _check_attention_factor(given: Any, scaling: RopeScaling, file: Path) -> None:
    """Raise UserError unless the factor on cosines and sines is the one that follows from two other settings."""
    if not isinstance(given, int | float) or not math.isclose(given, scaling.magnitude, rel_tol=1e-6):
        raise UserError(
            f"{file}: YaRN settings: attention_factor = {given!r}, but mscale = {scaling.mscale} and mscale_all_dim = "
            f"{scaling.mscale_all_dim} make it {scaling.magnitude:.6g}, and no other is supported: remove it, or "
            "correct them"
        )
