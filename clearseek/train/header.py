"""The headers of two runs beside each other: whatever differs changes bits, unless one of them is only older.

A record is never written again, while settings and measurements are added over the years. What an older record does not
say is filled in where its value is known (a recipe's new settings: their defaults are what every run before them did)
and left out where it is not (the machine's versions). What it says of a retired setting is left out where every run
does so now (:data:`clearseek.recipe.RETIRED`).
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from clearseek.errors import UserError
from clearseek.recipe import parse_recipe

_LATER = frozenset(("cpu_vendor", "mkl", "onednn", "switches", "fp32_products", "tf32"))
"""Of an environment: what the first transcripts did not record."""
_ABSENT = object()


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Every key, dotted, whose value is another now than in the record, with both values."""
    if isinstance(there := recorded.get("environment"), dict) and isinstance(here := now.get("environment"), dict):
        known = {key: here[key] for key in here if key in there or key not in _LATER}
        now = now | {"environment": known}
    return _differences(_with_defaults(recorded), now)


def _with_defaults(header: dict[str, Any]) -> dict[str, Any]:
    """The header, its recipe with the settings that came after it, at the defaults that it was trained with, and
    without those that were retired at theirs.
    """
    with suppress(UserError):
        return header | {"recipe": parse_recipe(header.get("recipe"), "the record").model_dump(mode="json")}
    return header


def _differences(recorded: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(recorded, dict) and isinstance(now, dict):
        prefix = f"{key}." if key else ""
        names = sorted(recorded.keys() | now.keys())
        return [d for n in names for d in _differences(recorded.get(n, _ABSENT), now.get(n, _ABSENT), prefix + n)]
    if type(recorded) is type(now) and recorded == now:
        return []
    return [f"{key}: {_show(recorded)} -> {_show(now)}"]


def _show(value: Any) -> str:
    text = "(absent)" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
