"""What each command of the command line does: read arguments, call the library, print.

Each command imports what it uses when it runs: to load PyTorch takes seconds on a laptop, and half of the commands need
none of it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from clearseek.cores import sharing_cores
from clearseek.errors import UserError
from clearseek.program import command

if TYPE_CHECKING:
    from clearseek.config import ModelConfig
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.model.transformer import DeepSeekModel

INTERRUPTED = 130


def quickstart(arguments: argparse.Namespace) -> int:
    """``clearseek quickstart``."""
    from clearseek.cli.quickstart import run_quickstart

    summary = run_quickstart(arguments.runs, arguments.overrides, arguments.json, arguments.recipe)
    if summary is None:
        return INTERRUPTED
    if arguments.json:
        _print_json(summary)
    return 0


def recipes(arguments: argparse.Namespace) -> int:
    """``clearseek recipes``."""
    from rich.console import Console

    from clearseek.cli import report
    from clearseek.recipe import load_recipe, shipped_recipes

    loaded = {name: load_recipe(file) for name, file in shipped_recipes().items()}
    if arguments.json:
        _print_json({name: recipe.model_dump(mode="json") for name, recipe in loaded.items()})
    else:
        report.print_recipes(Console(highlight=False), loaded)
    return 0


def train(arguments: argparse.Namespace) -> int:
    """``clearseek train``."""
    from rich.console import Console

    from clearseek.cli import report
    from clearseek.recipe import load_recipe
    from clearseek.train.run import RunFolder

    resume, more = arguments.resume is not None, arguments.more_steps is not None
    if resume == (arguments.recipe is not None):
        raise UserError("give either a recipe to train or --resume RUN (see clearseek train --help)")
    if not resume and (more or arguments.from_step is not None):
        raise UserError(f"{'--more-steps' if more else '--from-step'} goes with --resume RUN")
    if more and (arguments.from_step is not None or arguments.overrides):
        raise UserError("--more-steps goes on from the run's end with its recipe: leave out --from-step and --set")
    if resume and not more and (arguments.overrides or arguments.run):
        longer = command("train", "--resume", arguments.resume, "--more-steps", "N")
        raise UserError(
            "--resume goes on with the run's own recipe and folder: leave out --set and --run; to train a finished run "
            f"longer: {longer}"
        )
    parent = RunFolder(arguments.resume) if more else None
    if parent is not None:
        from clearseek.train.extend import longer_recipe

        recipe = longer_recipe(parent, arguments.more_steps)
        run = RunFolder(arguments.run or Path(f"{parent.root}-{recipe.train.steps}"))
    else:
        run = RunFolder(arguments.resume if resume else arguments.run or Path("runs") / Path(arguments.recipe).stem)
        recipe = run.read_recipe() if resume else load_recipe(arguments.recipe, arguments.overrides)
    if arguments.dry_run:
        report.print_dry_run(Console(highlight=False), recipe, as_json=arguments.json)
        return 0
    from clearseek.cli.watch import run_training

    ended = run_training(
        recipe, run, arguments.data, arguments.device, resume and not more, arguments.from_step, arguments.json, parent
    )
    if arguments.json:
        _print_json(ended)
    elif ended["finished"]:
        print(f"done: {run.root}  weights {ended['weights_sha256'][:16]}  next: {command('generate', run.root)}")
    else:
        elsewhere = ("--data", arguments.data) if arguments.data else ()
        where = " in the final evaluation" if ended["steps"] == recipe.train.steps else ""
        again = command("train", "--resume", run.root, *elsewhere)
        print(f"stopped after step {ended['steps']}{where}, saved; go on with: {again}")
    return 0 if ended["finished"] else INTERRUPTED


def data(arguments: argparse.Namespace) -> int:
    """``clearseek data``."""
    from rich.console import Console

    from clearseek.cli import report
    from clearseek.data.progress import data_progress
    from clearseek.data.shards import prepare
    from clearseek.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    console = Console(stderr=True)
    with data_progress(console, quiet=arguments.json) as progress:
        manifest = prepare(recipe.data, recipe.model.vocab_size, arguments.out, progress)
    if arguments.json:
        _print_json(manifest.model_dump(mode="json", exclude={"config"}))
    else:
        report.print_manifest(Console(highlight=False), manifest, arguments.out)
    return 0


@sharing_cores()
def generate(arguments: argparse.Namespace) -> int:
    """``clearseek generate``."""
    from clearseek.data.tokenizer import BOS, EOS
    from clearseek.inference.sampler import Sampling
    from clearseek.inference.sampler import generate as sample

    sampling = Sampling(arguments.temperature, arguments.top_p, arguments.seed)
    if arguments.max_tokens < 1:
        raise UserError(f"--max-tokens {arguments.max_tokens}: use a number from 1 up")
    try:  # in a locale that is not UTF-8 the shell's bytes arrive as escapes
        text = os.fsencode(arguments.prompt).decode()
    except UnicodeError:
        raise UserError("--prompt: not UTF-8 text: set the terminal's encoding to UTF-8") from None
    model, tokenizer = _load(arguments.model, arguments.step)
    prompt = [tokenizer.id_of(BOS), *tokenizer.encode(text)]
    stream = sample(model, prompt, arguments.max_tokens, sampling, frozenset({tokenizer.id_of(EOS)}))
    first = list(islice(stream, 1))  # what is wrong with the prompt shows here, before it is repeated
    sys.stdout.write(arguments.prompt)
    written: list[int] = []
    shown = ""
    for token in chain(first, stream):
        written.append(token)
        so_far = tokenizer.decode(written).rstrip("\ufffd")  # a character may be split over tokens
        sys.stdout.write(so_far[len(shown) :])
        sys.stdout.flush()
        shown = so_far
    sys.stdout.write("\n")
    longest = model.config.max_position_embeddings
    if len(written) < arguments.max_tokens and len(prompt) + len(written) == longest:
        print(f"(ended at the model's longest sequence, {longest} tokens with the prompt's)", file=sys.stderr)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """``clearseek export``."""
    import torch
    from rich.console import Console

    from clearseek.cli import report
    from clearseek.data.tokenizer import Tokenizer, trained_here
    from clearseek.hub.config_json import Scales
    from clearseek.hub.portability import check_portability
    from clearseek.hub.write import export_hf
    from clearseek.train.run import RunFolder

    run = RunFolder(arguments.run)
    recipe = run.read_recipe()
    model, step = run.load_model(arguments.step)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.float8_e4m3fn}[arguments.dtype]
    in_fp8 = recipe.train.precision == "fp8"  # such weights were multiplied under scales of this kind
    scales: Scales = "power-of-two" if in_fp8 and recipe.fp8.scales == "power-of-two" else "float"
    export_hf(model.state_dict(), recipe.model, run.tokenizer, arguments.out, dtype, scales=scales)
    print(f"{arguments.out}: step {step} of {run.root} as {arguments.dtype}, a Hugging Face folder")
    findings = check_portability(recipe.model, trained_here(Tokenizer.load(run.tokenizer)))
    report.print_findings(Console(highlight=False), findings)
    return 0


def import_model(arguments: argparse.Namespace) -> int:
    """``clearseek import``."""
    from clearseek.config import DataConfig, Recipe, TrainConfig
    from clearseek.counts import count_parameters
    from clearseek.files import atomic_folder, write_atomic
    from clearseek.hub.read import import_hf
    from clearseek.hub.tokenizer_files import refuse_without_tokenizer
    from clearseek.train import checkpoint
    from clearseek.train.run import RunFolder

    out: Path = arguments.run
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty:
        raise UserError(f"{out}: exists and is no empty folder: choose a new folder for the run")
    refuse_without_tokenizer(arguments.folder)
    config, tensors = import_hf(arguments.folder, arguments.without_mtp)
    tokenizer = _tokenizer(arguments.folder / "tokenizer.json", config)
    recipe = Recipe(
        name="imported",
        description="Imported from a Hugging Face folder",
        model=config,
        data=DataConfig(sequence_length=min(4096, config.max_position_embeddings)),
        train=TrainConfig(steps=1, batch_size=1),
    )
    buffers = {name: t for name, t in tensors.items() if name.endswith("e_score_correction_bias")}
    weights = {name: t for name, t in tensors.items() if name not in buffers}
    with atomic_folder(out, replace=empty) as folder:
        run = RunFolder(folder)
        run.write_recipe(recipe)
        write_atomic(run.tokenizer, tokenizer.content)
        checkpoint.save(run.checkpoints, 0, {"weights": weights, "buffers": buffers}, {"imported": True}, keep=1)
    count = count_parameters(config)
    mtp = f" and {count.mtp:,} more for multi-token prediction" if count.mtp else ""
    print(f"{out}: {config.model_type} with {count.total:,} parameters{mtp}")
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """``clearseek convert``."""
    from rich.console import Console

    from clearseek.cli.convert import convert_progress, summary
    from clearseek.hub.convert.run import convert as convert_checkpoint
    from clearseek.interrupts import stop_on_signal
    from clearseek.machine import keep_heap

    keep_heap()
    asked = Event()
    with stop_on_signal(asked.set), convert_progress(Console(stderr=True), quiet=arguments.json) as progress:
        ended = convert_checkpoint(
            arguments.folder, arguments.out, arguments.dtype, arguments.scales, progress=progress, stop=asked.is_set
        )
    if arguments.json:
        _print_json({"out": str(arguments.out), **asdict(ended)})
    elif ended.finished:
        print(f"{arguments.out}: {summary(ended)}")
    else:
        scales = ("--scales", arguments.scales) if arguments.scales else ()
        again = command("convert", arguments.folder, arguments.out, "--dtype", arguments.dtype, *scales)
        print(f"stopped with {ended.files_done} of {ended.files} files done; go on with: {again}")
    return 0 if ended.finished else INTERRUPTED


def doctor(arguments: argparse.Namespace) -> int:
    """``clearseek doctor``."""
    from rich.console import Console

    from clearseek.cli.doctor import examine, print_findings

    found = examine(arguments.device)
    if arguments.json:
        _print_json(found)
    else:
        print_findings(Console(highlight=False), found)
    return 0


def _load(folder: Path, step: int | None) -> tuple[DeepSeekModel, Tokenizer]:
    """A model ready to generate, from a run folder or an export, and its tokenizer.

    It computes in FP32, whatever is stored: what a seed gives must not hang on how fast this machine is in BF16 today.
    """
    import torch

    from clearseek.hub.read import import_hf
    from clearseek.hub.tokenizer_files import refuse_without_tokenizer
    from clearseek.model.transformer import DeepSeekModel
    from clearseek.train.run import RunFolder

    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'a file' if folder.exists() else 'no such folder'}: give a run folder or an exported one"
        )
    if (folder / "config.json").is_file():
        if step is not None:
            raise UserError("--step is for run folders: an exported folder holds one model")
        refuse_without_tokenizer(folder)
        config, tensors = import_hf(folder, allow_missing_mtp=True)
        with torch.device("meta"):
            model = DeepSeekModel(config)
        model.load_state_dict(tensors, assign=True)
        return model.set_dtype(torch.float32).requires_grad_(False), _tokenizer(folder / "tokenizer.json", config)
    run = RunFolder(folder)
    model, _ = run.load_model(step)
    return model, _tokenizer(run.tokenizer, model.config)


def _tokenizer(file: Path, config: ModelConfig) -> Tokenizer:
    """A model's tokenizer. Raises UserError when it has tokens that the model does not know."""
    from clearseek.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(file)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{file}: {tokenizer.vocab_size} tokens, but the model has vocab_size = {config.vocab_size}: "
            "put the tokenizer.json there that the model was trained with"
        )
    return tokenizer


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))
