"""Every setting of a recipe, with its type and default, is the one that is written down.

Recorded runs name their settings, and what they leave out is today's default. ``tests/fixtures/recipe_keys.txt`` is the
list; ``python -m tests.test_recipe_keys`` writes it anew, and nothing else does: such a change is made on purpose.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clearseek.config import Recipe
from docs.make.settings import shown, tables

FILE = Path(__file__).parent / "fixtures" / "recipe_keys.txt"
ADVICE = """the settings of a recipe are not those of tests/fixtures/recipe_keys.txt:
{}
A key that is gone, or whose type or default is another, changes what recorded runs mean: they can no longer be resumed
or verified as they were. Keep the key, or retire it as CONTRIBUTING.md says ("Settings"). Then, and for a new key at
once, write the list anew with: python -m tests.test_recipe_keys"""


def keys(group: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """``train.steps: int, required`` for each setting, those of inner tables below their own."""
    for name, field in group.model_fields.items():
        value: Any = field.default
        if field.is_required():
            default = "required"
        elif isinstance(value, BaseModel):
            default = "the table's defaults"
        else:
            default = "default " + json.dumps(value, default=lambda each: each.model_dump(mode="json"))
        yield f"{prefix}{name}: {shown(field.annotation)}, {default}"
        for inner in tables(field.annotation):
            yield from keys(inner, f"{prefix}{name}.")


def test_every_setting_is_as_it_is_written_down() -> None:
    known, now = FILE.read_text(encoding="utf-8").splitlines(), list(keys())
    changes = [line for line in difflib.ndiff(known, now) if line[0] in "+-"]
    assert not changes, ADVICE.format("\n".join(changes))


if __name__ == "__main__":
    FILE.write_text("\n".join(keys()) + "\n", encoding="utf-8")
