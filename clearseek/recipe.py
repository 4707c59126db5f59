"""Recipes read from TOML files and checked; every mistake is one sentence of one error."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from clearseek import size
from clearseek.config import DataConfig, ModelConfig, Recipe, Settings
from clearseek.config.posttraining import METHODS, TaskConfig, with_defaults
from clearseek.counts import count_parameters
from clearseek.errors import OtherVersionError, UserError, nearest
from clearseek.files import reading
from clearseek.jsontext import strict_json


class Retired(NamedTuple):
    """A setting that recipes no longer have."""

    always: Any
    """Value that every run has now: the setting's old default."""
    since: str
    """First version without the setting."""


RETIRED = {
    "fp8.gradient_format": Retired("e4m3", "0.2.0"),
    "fp8.gradient_tile": Retired("1x128", "0.2.0"),
    "fp8.accumulate": Retired("fp32", "0.2.0"),
}
"""Retired settings by dotted key, all of FP8. Records stay readable: a recipe may have them at their old defaults."""


USELESS = ("paths", "exclude", "text_field", "unusable")
"""Settings of data that `python-stdlib` does not read. A record may have them: earlier versions did not refuse all."""


LONGEST_TASKS = 8 << 20
"""Most bytes of a file of programs to write."""

ModelOf = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Gives the dimensions of the model that a recipe's table ``[parent]`` names."""


def load_recipe(path: str | Path, overrides: Sequence[str] = (), model_of: ModelOf | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: A TOML file, or the name of a shipped recipe such as ``quickstart``.
        overrides: ``table.key=value`` strings (``--set``); values are TOML, bare words are strings. Other texts than
            the recipe's own (`data.paths`, `data.source`) have no known licence unless `data.licence` is set too.
            What follows from ``size`` replaces what the file has of it, and gives way to overrides.
        model_of: How to find the dimensions of a parent; without it, recipes with ``[parent]`` are refused.

    Raises:
        UserError: the file is missing or not TOML, a key is unknown, a value has the wrong type or range, or settings
            contradict each other. The message names file and key.
    """
    file = find_recipe(path)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except IsADirectoryError:
        hint = f"to go on with a run, use --resume {file}" if (file / "recipe.json").exists() else "give a .toml file"
        raise UserError(f"{file}: a folder, not a recipe: {hint}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot read the recipe: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: the recipe is not UTF-8 text: save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(raw, override)
    changed = {".".join(_key(override)) for override in overrides}
    if changed & {"data.paths", "data.source"} and "data.licence" not in changed and isinstance(raw.get("data"), dict):
        raw["data"].pop("licence", None)  # the recipe's licence is that of its own texts
    raw = _with_size(raw, str(file), overrides)
    recipe = parse_recipe(_with_tasks(_with_parent(raw, str(file), model_of), str(file)), str(file), overrides)
    for name in USELESS if recipe.data.source == "python-stdlib" else ():
        if getattr(recipe.data, name) != type(recipe.data).model_fields[name].default:
            where = _origin({"loc": ("data", name)}, overrides) or str(file)
            fault = f'data.{name} is of no use to data.source = "python-stdlib"'
            raise UserError(f"{where}: {fault}: leave it out, or set data.source")
    return recipe


def _with_size(raw: dict[str, Any], where: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The tables with what follows from ``size``, where it is given, and `overrides` on top of it."""
    if "size" not in raw:
        return raw
    layers, start = raw["size"], _origin({"loc": ("size",)}, overrides) or where
    if isinstance(layers, bool) or not isinstance(layers, int) or not size.SMALLEST <= layers <= size.LARGEST:
        said = json.dumps(layers, default=str)[:80]
        wanted = f"give a whole number of layers from {size.SMALLEST} to {size.LARGEST}"
        raise UserError(f"{start}: size = {said}: {wanted}")
    if "parent" in raw:
        raise UserError(f"{start}: size beside [parent]: the dimensions are the parent's: leave size out")
    tables = {name: raw.get(name, {}) for name in ("model", "data", "optimizer", "train")}
    if isinstance(tables["model"], dict) and tables["model"].get("tie_word_embeddings"):
        raise UserError(f"{start}: size: it was measured with an output head of its own: leave tie_word_embeddings out")
    if all(isinstance(table, dict) for table in tables.values()):  # else a fault that is named with all others
        if tables["optimizer"].get("name") != "muon":
            raise UserError(f'{start}: size: its peak rates were measured with Muon: set optimizer.name = "muon"')
        raw = raw | _sized(layers, tables)
        changed = {".".join(_key(override)) for override in overrides}
        for override in overrides:
            _apply_override(raw, override)
        batch, length = (
            raw["train"].get("batch_size"),
            tables["data"].get("sequence_length", DataConfig().sequence_length),
        )
        numbers = isinstance(batch, int) and isinstance(length, int) and length > 0  # else a fault that is named
        if "train.batch_size" in changed and "train.micro_batch_size" not in changed and numbers:
            raw["train"]["micro_batch_size"] = size.micro_batch(batch, length)
    return {name: value for name, value in raw.items() if name != "size"}


def _sized(layers: int, tables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The tables with the dimensions of a number of layers, and rates, batch and steps for them."""
    found: dict[str, Any] = {"model": tables["model"] | size.dimensions(layers)}
    try:
        model, data = ModelConfig.model_validate(found["model"]), DataConfig.model_validate(tables["data"])
    except ValidationError:  # the recipe has the same faults, which are named with all others
        return found | {"train": {"steps": 1, "batch_size": 1} | tables["train"]}
    active = count_parameters(model).activated_without_embedding
    for name, values in size.learning(active, data.sequence_length).items():
        found[name] = tables[name] | values
    return found


def _with_parent(raw: dict[str, Any], where: str, model_of: ModelOf | None) -> dict[str, Any]:
    """The tables with those that follow from ``[parent]``, where there is one."""
    parent = raw.get("parent")
    if methods := [f"[{name}]" for name in METHODS if name in raw and "parent" not in raw]:
        raise UserError(f"{where}: {' and '.join(methods)} without [parent]: say which model to begin with")
    if not isinstance(parent, dict) or not isinstance(parent.get("path"), str):
        return raw
    if "model" in raw:
        raise UserError(f"{where}: [model] beside [parent]: the dimensions are the parent's: leave [model] out")
    if model_of is None:
        raise UserError(f"{where}: it modifies another model, which clearseek train does")
    return with_defaults(raw) | {"model": model_of(parent)}


def _with_tasks(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """The tables with the programs to write that ``problems.file`` names."""
    problems = raw.get("problems")
    if not isinstance(problems, dict) or not isinstance(problems.get("file"), str):
        return raw
    if problems.get("tasks"):
        raise UserError(f"{where}: problems.file beside problems.tasks: leave one of them out")
    return raw | {"problems": problems | {"tasks": _tasks(Path(problems["file"]))}}


def _tasks(file: Path) -> list[dict[str, Any]]:
    """Lines of a file of programs to write. Raises UserError, with file, line and key, for what is none."""
    with reading(file):
        content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if len(content) > LONGEST_TASKS:
        raise UserError(f"{file}: larger than {LONGEST_TASKS >> 20} MiB, and a recipe holds its tasks: choose fewer")
    found = []
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            task = strict_json(line.strip(), f"{file}:{number}")
            try:
                TaskConfig.model_validate(task)
            except ValidationError as error:
                faults = [_explain(entry, TaskConfig) for entry in error.errors(include_url=False)]
                raise UserError("\n".join(f"{file}:{number}: {fault}" for fault in faults)) from None
            found.append(task)
    if not found:
        raise UserError(f"{file}: no line with a task: give one JSON object a line, with prompt and tests")
    return found


def parse_recipe(raw: Any, where: str, overrides: Sequence[str] = (), record: bool = False) -> Recipe:
    """Validate the tables of a recipe in TOML or JSON; in the `record` of a run, retired settings may have any value.

    Raises UserError, each line of which begins with `where` (a file name) or with the override that set the key;
    OtherVersionError where retired settings are the only fault, for an earlier version can train with them.
    """
    tables, retired = _without_retired(raw)
    entries: list[Any] = [] if record else retired
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        entries = entries + error.errors(include_url=False)
    if not entries:
        return recipe
    if isinstance(tables, dict) and "parent" in tables:
        entries = [entry for entry in entries if entry["loc"] != ("model",)] or entries  # [parent] is at fault
    entries = sorted(entries, key=lambda entry: entry["type"] == "missing")  # after the misspelt key, its cause
    start = " ".join((where, *(f"--set {override}" for override in overrides)))  # contradictions name no setting
    message = "\n".join(f"{_origin(entry, overrides) or start}: {_explain(entry)}" for entry in entries)
    raise OtherVersionError(message) if entries == retired else UserError(message)


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with ClearSeek."""
    package = Path(__file__).parent
    installed, checkout = package / "recipes", package.parent / "recipes"
    folder = installed if installed.is_dir() else checkout
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find_recipe(path: str | Path) -> Path:
    """File of a recipe: `path`, or the shipped recipe of that name where `path` is a bare name without a file.

    Raises UserError for a name that is neither.
    """
    file, shipped = Path(path), shipped_recipes()
    if file.suffix == ".toml" or len(file.parts) > 1:
        return file
    with suppress(OSError):  # a name too long for the file system
        if file.is_file():
            return file
    if str(path) not in shipped:
        raise UserError(
            f'no recipe "{path}"{nearest(str(path), shipped)}; shipped: {", ".join(shipped)}; or give a .toml file'
        )
    return shipped[str(path)]


def _without_retired(raw: Any) -> tuple[Any, list[Any]]:
    """Tables without retired settings, and an error for each that is not at its old default and has an effect."""
    wrong: list[Any] = []
    train = raw.get("train") if isinstance(raw, dict) else None
    eight_bit = isinstance(train, dict) and train.get("precision") == "fp8"
    for dotted, (always, since) in RETIRED.items():
        table, key = dotted.split(".")
        settings = raw.get(table) if isinstance(raw, dict) else None
        if isinstance(settings, dict) and key in settings:
            raw = raw | {table: {name: value for name, value in settings.items() if name != key}}
            if eight_bit and settings[key] != always:
                message = (
                    f"retired, and always {json.dumps(always)} since ClearSeek {since}: leave it out, or use a version "
                    f"before {since}"
                )
                wrong.append({"type": "retired", "loc": (table, key), "input": settings[key], "msg": message})
    return raw, wrong


def _key(override: str) -> list[str]:
    """Parts of the key of ``table.key=value``."""
    return [part.strip() for part in override.partition("=")[0].split(".")]


def _apply_override(raw: dict[str, Any], override: str) -> None:
    _, separator, text = override.partition("=")
    parts = _key(override)
    if not separator or not all(parts):
        raise UserError(f'--set {override}: write it as table.key=value, for example "train.steps=100"')
    value: Any = text.strip()
    with suppress(ValueError, RecursionError):  # a bare word is a string
        parsed = tomllib.loads(f"value = {value}")
        value = parsed["value"] if len(parsed) == 1 else value
    table = raw
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: {part} is a setting, not a table")
    table[parts[-1]] = value


def _origin(entry: Any, overrides: Sequence[str]) -> str | None:
    """The ``--set`` that a pydantic error is about; None where the error is about the file."""
    for override in reversed(overrides):
        parts = _key(override)
        if [str(part) for part in entry["loc"]][: len(parts)] == parts:
            return f"--set {override}"
    return None


def _explain(entry: Any, top: type[BaseModel] = Recipe) -> str:
    """One sentence for one pydantic error of the settings `top`: the key, what is wrong, the nearest valid key."""
    location = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        group = top
        for part in entry["loc"][:-1]:
            field = group.model_fields.get(str(part))
            group = next(iter(_kinds(field) if field else ()), group)
        valid = sorted([*group.model_fields, *(("size",) if group is Recipe else ())])
        tables = [
            (name, kind) for name, field in group.model_fields.items() if group is Recipe for kind in _kinds(field)
        ]
        inside = sorted(f"{name}.{location}" for name, kind in tables if location in kind.model_fields)
        if inside:
            return f"unknown key {location} (did you mean {' or '.join(inside)}?)"
        return f"unknown key {location}{nearest(str(entry['loc'][-1]), valid)}; valid keys here: {', '.join(valid)}"
    if entry["type"] == "missing":
        return f"{location} is missing"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "value_error":
        return f"{location}: {message}" if location else message
    message = _PLAIN_WORDS.get(entry["type"], message[0].lower() + message[1:])
    return f"{location or 'the recipe'} = {json.dumps(entry['input'], default=str)[:80]}: {message}"


def _kinds(field: FieldInfo) -> list[type[Settings]]:
    """Groups of settings that a field may hold."""
    inner = (field.annotation, *get_args(field.annotation))
    return [kind for kind in inner if isinstance(kind, type) and issubclass(kind, Settings)]


_PLAIN_WORDS = {"model_type": "must be a table of settings", "tuple_type": "must be a list"}


def recipe_json(recipe: Recipe) -> str:
    """The resolved recipe as canonical JSON: sorted keys, no spaces. Equal recipes give equal bytes."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
