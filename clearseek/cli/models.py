"""Models that commands open: run folders, exported folders, releases."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clearseek.cli.options import number
from clearseek.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from clearseek.config import ModelConfig
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.inference.model import Model
    from clearseek.inference.packed import Packed

STORED = {"bf16": "BF16", "int8": "I8", "fp32": "F32"}


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model, and how the engine holds it."""
    parser.add_argument("model", type=Path, help="a run folder, an exported folder or a release")
    parser.add_argument("--step", type=int, help="checkpoint of a run (default: the newest)")
    parser.add_argument("--weights", choices=STORED, default="bf16", help="how matrices are stored (default: bf16)")
    parser.add_argument("--cache", type=number, default=None, metavar="BYTES",
                        help="memory for the cache, such as 512M (default: 8 times the longest sequence)")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--no-drafts", action="store_true", help="leave the multi-token-prediction layer out")


def tensors_of(folder: Path, step: int | None, dtype: str | None = None) -> tuple[ModelConfig, dict[str, Tensor], Path]:
    """Dimensions, tensors by their names in memory, and the tokenizer's file of a model.

    With `dtype` the tensors of a run are rounded to what an export in that type holds.
    """
    from clearseek.hub.read import import_hf
    from clearseek.hub.tokenizer_files import refuse_without_tokenizer
    from clearseek.train.run import Run

    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'a file' if folder.exists() else 'no such folder'}: give a run folder or an exported one"
        )
    if (folder / "config.json").is_file():
        if step is not None:
            raise UserError("--step is for run folders: an exported folder holds one model")
        if dtype is not None:
            raise UserError(
                f"--dtype {dtype} is for run folders: {folder} is an exported folder, and taken in the type that it has"
            )
        refuse_without_tokenizer(folder)
        config, tensors = import_hf(folder, allow_missing_mtp=True)
        return config, tensors, folder / "tokenizer.json"
    trained = Run(folder)
    model, _ = trained.load_model(step)
    if dtype is None:
        return model.config, dict(model.state_dict()), trained.tokenizer
    from clearseek.hub.stored import as_stored
    from clearseek.hub.write import DTYPES, export_scales

    scales = export_scales(trained.read_recipe(record=True))
    return model.config, as_stored(model.state_dict(), model.config, DTYPES[dtype], scales), trained.tokenizer


def tokenizer_of(file: Path, config: ModelConfig) -> Tokenizer:
    """A model's tokenizer."""
    from clearseek.hub.tokenizer_files import load_tokenizer

    return load_tokenizer(file, config)


def open_model(arguments: argparse.Namespace, dtype: str | None = None) -> Model:
    """The model of the arguments of :func:`add_model`, packed for the engine; `dtype` as of :func:`tensors_of`."""
    from clearseek.inference.model import Model
    from clearseek.machine import find_device

    device = find_device(arguments.device)
    config, tensors, file = tensors_of(arguments.model, arguments.step, dtype)
    name = arguments.model.resolve().name
    kind = STORED[arguments.weights]
    tokenizer = tokenizer_of(file, config)
    model = Model.of(name, config, tensors, tokenizer, kind, device)  # type: ignore[arg-type]
    say_if_plain(model.packed)
    return model.without_drafts() if arguments.no_drafts else model


def say_if_plain(packed: Packed) -> None:
    """Say on standard error where PyTorch's own operations do the work, without the promise of bits."""
    from clearseek.inference.model import loops_run
    from clearseek.kernels.launch import unavailable

    if not packed.embedding.is_cpu:
        print("on a GPU an answer's last bits may depend on its neighbours", file=sys.stderr)
    elif not loops_run(packed):
        print(f"slower, and an answer's last bits may depend on its neighbours: {unavailable()}", file=sys.stderr)


def cache_pages(arguments: argparse.Namespace, model: Model, sequences: int = 8) -> int:
    """Pages of the cache that the arguments ask for. Raises UserError for one that holds no sequence."""
    from clearseek.inference.model import pages_for
    from clearseek.kernels import PAGE

    if arguments.cache is None:
        return sequences * -(-model.config.max_position_embeddings // PAGE)
    pages = pages_for(model.packed, int(arguments.cache))
    if pages < 2:
        raise UserError(f"--cache {arguments.cache:.0f}: too small for two pages: give at least 1M")
    return pages
