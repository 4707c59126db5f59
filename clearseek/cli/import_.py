"""``clearseek import``: a Hugging Face folder as a run folder, to generate from and to export again."""

from __future__ import annotations

import argparse
from pathlib import Path

from clearseek.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek import my-model runs/mine"
    parser.add_argument("folder", type=Path, help="folder with config.json, safetensors and tokenizer.json")
    parser.add_argument("run", type=Path, help="run folder to make")
    parser.add_argument("--without-mtp", action="store_true",
                        help="accept a folder whose MTP module is missing (transformers drops it when "
                        "saving)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from clearseek.config import DataConfig, Recipe, TrainConfig
    from clearseek.counts import count_parameters
    from clearseek.files import atomic_folder, write_atomic
    from clearseek.hub.read import import_hf
    from clearseek.hub.tokenizer_files import load_tokenizer, refuse_without_tokenizer
    from clearseek.train.checkpoints import checkpoint
    from clearseek.train.run import Run

    out: Path = arguments.run
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty:
        raise UserError(f"{out}: exists and is not an empty folder: choose a new folder for the run")
    refuse_without_tokenizer(arguments.folder)
    config, tensors = import_hf(arguments.folder, arguments.without_mtp)
    tokenizer = load_tokenizer(arguments.folder / "tokenizer.json", config)
    data = DataConfig(sequence_length=min(4096, config.max_position_embeddings))
    described, train = "Imported from a Hugging Face folder", TrainConfig(steps=1, batch_size=1)
    recipe = Recipe(name="imported", description=described, model=config, data=data, train=train)
    buffers = {name: t for name, t in tensors.items() if name.endswith("e_score_correction_bias")}
    weights = {name: t for name, t in tensors.items() if name not in buffers}
    with atomic_folder(out, replace=empty) as folder:
        made = Run(folder)
        made.write_recipe(recipe)
        write_atomic(made.tokenizer, tokenizer.content)
        checkpoint.save(made.checkpoints, 0, {"weights": weights, "buffers": buffers}, {"imported": True}, keep=1)
    count = count_parameters(config)
    mtp = f" and {count.mtp:,} more for multi-token prediction" if count.mtp else ""
    print(f"{out}: {config.model_type} with {count.total:,} parameters{mtp}")
    return 0
