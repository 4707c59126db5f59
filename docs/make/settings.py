"""Settings of recipes as tables, with type, default and explanation; and the recipes that come along."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from clearseek.cli.report import si
from clearseek.config import Recipe
from clearseek.counts import count_parameters
from clearseek.recipe import load_recipe, shipped_recipes


def shown(annotation: Any) -> str:
    """A type as it is written, in every version of Python alike."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return " or ".join(json.dumps(each) for each in inner)
    if get_origin(annotation) is Annotated:
        return shown(inner[0])
    if get_origin(annotation) is tuple:
        return f"list of {shown(inner[0])}"
    if inner:
        return " or ".join(map(shown, inner))
    return "none" if annotation is NoneType else str(annotation.__name__)


def tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """Groups of settings that a type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from tables(inner)


def groups(top: type[BaseModel] = Recipe) -> Iterator[type[BaseModel]]:
    """A group of settings, and those inside it."""
    yield top
    for field in top.model_fields.values():
        for inner in tables(field.annotation):
            yield from groups(inner)


def table(group: type[BaseModel]) -> str:
    """One group as a table."""
    rows = ["| setting | type | if left out | what it is |", "|---|---|---|---|"]
    for key, field in group.model_fields.items():
        rows.append(f"| `{key}` | {_type(field)} | {_default(field)} | {_explanation(key, field)} |")
    return "\n".join(rows) + "\n"


TABLES: dict[str, Callable[[], str]] = {group.__name__: partial(table, group) for group in groups()}
"""A part for each group of settings, by the name of its class."""


def recipes() -> str:
    """The shipped recipes as a table."""
    rows = ["| recipe | parameters | activated | tokens | what it is |", "|---|---|---|---|---|"]
    base = load_recipe("ladder-base").model.model_dump(mode="json")
    for recipe in (load_recipe(name, (), lambda _: base) for name in shipped_recipes()):
        if recipe.parent is not None:
            rows.append(f"| `{recipe.name}` | of | `{recipe.parent.path}` | | {recipe.description} |")
            continue
        count = count_parameters(recipe.model)
        sizes = (count.total, count.activated_without_embedding, recipe.tokens)
        rows.append(f"| `{recipe.name}` | {' | '.join(map(si, sizes))} | {recipe.description} |")
    return "\n".join(rows) + "\n"


def _type(field: FieldInfo) -> str:
    names = {group.__name__: "table" for group in tables(field.annotation)} | {"JsonValue": "any value"}
    words = shown(field.annotation).removesuffix(" or none")
    for name, plain in names.items():
        words = words.replace(name, plain)
    return " or ".join(f"`{word}`" if word.startswith('"') else word for word in words.split(" or "))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    value: Any = field.default
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return f"{len(value)} phases"
    return f"`{json.dumps(value)}`"


def _explanation(key: str, field: FieldInfo) -> str:
    text = " ".join((field.description or f"The table `[{key}]`, below.").split())
    return text.replace("``", "`").replace("|", "\\|")
