"""The model that a run begins with: found, described without PyTorch, and put into the new run's folder.

A parent is a run folder, an exported folder or a release. Its FP32 weights (of an exported folder, what is stored) and
balance biases become ``parent/step-00000000`` of the new run, and ``parent.json`` there names them by their hash: the
transcript's header repeats it, so a child says whose it is wherever it goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.config import ModelConfig, Recipe
from clearseek.errors import UserError
from clearseek.files import atomic_folder, reading, write_atomic
from clearseek.train.run import PARENT, Run

if TYPE_CHECKING:
    from torch import Tensor

    from clearseek.data.tokenizer import Tokenizer

_CONFIG = "config.json"


def dimensions(parent: Mapping[str, Any]) -> dict[str, Any]:
    """Dimensions of the model that a recipe's table ``[parent]`` names. Raises UserError where there is none."""
    return config_of(Path(parent["path"])).model_dump(mode="json")


def config_of(folder: Path) -> ModelConfig:
    """Dimensions of the model in a folder, read without its weights. Raises UserError where there is none."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}: give a run folder, an exported folder or a release as parent.path")
    if not (folder / _CONFIG).is_file():
        return Run(folder).read_recipe(record=True).model
    from clearseek.hub.config_json import parse_hf_config
    from clearseek.jsontext import strict_json

    file = folder / _CONFIG
    with reading(file):
        raw = file.read_bytes()
    config = parse_hf_config(strict_json(raw, str(file)), file)
    return config


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer of the model in a folder."""
    return folder / "tokenizer.json"


def weights_of(folder: Path) -> tuple[ModelConfig, dict[str, dict[str, Tensor]], dict[str, str]]:
    """Dimensions, groups ``weights`` and ``buffers`` of tensors, and what a record says of where they come from."""
    if (folder / _CONFIG).is_file():
        from clearseek.hub.read import import_hf

        config, tensors = import_hf(folder, allow_missing_mtp=True)
        buffers = {name: t for name, t in tensors.items() if name.endswith("e_score_correction_bias")}
        weights = {name: t.float() for name, t in tensors.items() if name not in buffers}
        return config, {"weights": weights, "buffers": buffers}, {"name": folder.resolve().name}
    from clearseek.train.checkpoints import checkpoint
    from clearseek.train.transcript import last_line

    run = Run(folder)
    recipe, path = run.read_recipe(record=True), checkpoint.latest(run.checkpoints)
    if path is None:
        raise UserError(f"{folder}: no checkpoint yet: train first, or give another parent")
    said = {"name": recipe.name}
    if run.begun:
        said["transcript_head"] = last_line(run.transcript).head
    if recipe.lora is not None:  # the child begins from the merged weights
        model, _ = run.load_model()
        return recipe.model, {"weights": dict(model.named_parameters()), "buffers": dict(model.named_buffers())}, said
    saved = checkpoint.load(path, checkpoint.MODEL)
    return recipe.model, {group: saved.tensors[group] for group in checkpoint.MODEL}, said


def adopt(recipe: Recipe, run: Run) -> None:
    """Put the recipe's parent into the run's folder, where it is not there yet.

    Raises UserError where its weights are not those that the recipe names, or its dimensions not the recipe's.
    """
    from clearseek.train.checkpoints import checkpoint
    from clearseek.train.chunks import hash_tensors

    assert recipe.parent is not None
    if run.extends:
        return
    folder = Path(recipe.parent.path)
    config, tensors, said = weights_of(folder)
    if config != recipe.model:
        raise UserError(f"{folder}: its dimensions changed since the recipe was read: begin again")
    found = hash_tensors(pair for group in tensors.values() for pair in group.items())
    if recipe.parent.sha256 not in (None, found):
        raise UserError(
            f"{folder}: its weights have the SHA-256 {found}, and parent.sha256 is {recipe.parent.sha256}: give the "
            "right folder, or change the recipe"
        )
    tokenizer = tokenizer_of(folder, config)
    record = {"step": 0, **said, "weights_sha256": found, "tokenizer_sha256": tokenizer.sha256}
    with atomic_folder(run.parent, replace=True) as made:
        checkpoint.save(made, 0, tensors, {}, keep=1)
        write_atomic(made / "tokenizer.json", tokenizer.content)
        write_atomic(made / PARENT, json.dumps(record, indent=1) + "\n")


def tokenizer_of(folder: Path, config: ModelConfig) -> Tokenizer:
    """The tokenizer of the model in a folder.

    Raises UserError for none, one that the model does not fit, or another one than the folder says it was trained with.
    """
    from clearseek.data.manifest import read_manifest
    from clearseek.hub.tokenizer_files import load_tokenizer, refuse_without_tokenizer

    refuse_without_tokenizer(folder)
    tokenizer, run = load_tokenizer(tokenizer_file(folder), config), Run(folder)
    stated = {(run.read_parent() or {}).get("tokenizer_sha256")}
    if (run.data / "manifest.json").is_file():
        stated.add(read_manifest(run.data).tokenizer_sha256)
    if other := stated - {None, tokenizer.sha256}:
        raise UserError(
            f"{tokenizer_file(folder)}: its SHA-256 is {tokenizer.sha256}, and the model was trained with "
            f"{min(map(str, other))}: restore that file"
        )
    return tokenizer
