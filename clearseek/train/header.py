"""The headers of two runs beside each other: whatever differs changes bits, unless one of them is only older.

A record is never written again, while settings are added and retired over the years. A new setting that an older record
does not have is filled in with its default, which is what every run before it did. A retired setting is left out of the
comparison where every run does so now (:data:`clearseek.recipe.RETIRED`).
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from clearseek.errors import UserError
from clearseek.recipe import parse_recipe

_ABSENT = object()


def differences(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Every key, dotted, whose value is another now than in the record, with both values."""
    with suppress(UserError):  # a recipe that cannot be read is compared as it is
        recipe = parse_recipe(recorded.get("recipe"), "the record").model_dump(mode="json")
        return _differences(recorded | {"recipe": recipe}, now)
    return _differences(recorded, now)


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
