"""``clearseek quickstart``: from nothing to a trained, exported model in minutes, on text every machine has.

The standard library of the running Python becomes a corpus; a tokenizer is trained on it; a small model of
DeepSeek-V3's architecture is trained on that, measured in held-out bits per byte beside ``gzip`` and ``xz`` on the
same bytes, asked to write something, drawn, and exported for transformers. Every stage is an ordinary library call
that other commands make too.

There are two recipes, one for processors that multiply in BF16 and one with a sixth of the work: a run takes the
first that this machine is fast enough for, by a measured rate.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from clearseek.cli import report
from clearseek.cli.watch import run_training
from clearseek.counts import flops_per_token
from clearseek.data.shards import held_out_bytes
from clearseek.data.tokenizer import BOS, EOS, Tokenizer
from clearseek.errors import UserError
from clearseek.evaluate.bits import compressed_bits_per_byte
from clearseek.files import write_atomic
from clearseek.hub.write import export_hf
from clearseek.inference.sampler import Sampling, generate
from clearseek.machine import peak_memory, pick_precision
from clearseek.model.transformer import DeepSeekModel
from clearseek.program import command
from clearseek.recipe import load_recipe
from clearseek.train.preflight import settle_numerics
from clearseek.train.run import RunFolder
from clearseek.train.session import free_run_folder
from clearseek.train.transcript import last_line

PROMPTS = ("def ", "class ", "import os\n")
RECIPES = ("quickstart", "quickstart-small")
"""Large and small."""
LONGEST = 330.0
"""Seconds of training that the large recipe may take, by estimate, to be chosen."""
SHARE = 0.9
"""Share of the measured matmul rate that products reach."""
REST = 2.5e-4
"""Core-seconds that a token of the large recipe takes beside products: 1.7e-4 and 3.1e-4 on two processors with 0.8 and
1.9 TFLOP/s in BF16 (docs/notebook.md)."""


def choose_recipe(runs: Path, overrides: Sequence[str]) -> tuple[str, str]:
    """The recipe that suits this machine, and why: that of a run that is there, else by the measured rate."""
    there = RunFolder(runs / RECIPES[0])
    if there.begun and (name := there.read_recipe().name) in RECIPES:
        return name, f"as in {there.root}"
    settle_numerics(None, "cpu")
    recipe = load_recipe(RECIPES[0], overrides)
    precision = pick_precision(recipe.train.precision)
    rate = max(precision.rates.values())
    tokens = recipe.train.steps * recipe.train.batch_size * recipe.data.sequence_length
    work = tokens * flops_per_token(recipe.model, recipe.data.sequence_length)
    seconds = work / (SHARE * rate) + tokens * REST / torch.get_num_threads()
    kind = "BF16" if precision.dtype == torch.bfloat16 else "FP32"
    why = f"{rate / 1e9:,.0f} GFLOP/s in {kind} here: {RECIPES[0]} would train for about {seconds / 60:.0f} minutes"
    return RECIPES[0 if seconds <= LONGEST else 1], why


def run_quickstart(
    runs: Path, overrides: Sequence[str], quiet: bool = False, recipe_name: str | None = None
) -> dict[str, Any] | None:
    """Do it all.

    Args:
        runs: Folder that holds run folders. An unfinished quickstart in it is gone on with; beside a finished one a new
            run is made, and the two are compared.
        overrides: Settings to change, as for ``--set``.
        quiet: Print nothing on standard output.
        recipe_name: One of :data:`RECIPES`; None for the one that suits this machine.

    Returns:
        What was made and measured, as JSON values; None when the run was interrupted (and saved).
    """
    began = time.perf_counter()
    console = Console(stderr=True) if quiet else Console(highlight=False)
    name, why = choose_recipe(runs, overrides) if recipe_name is None else (recipe_name, "as asked for")
    recipe = load_recipe(name, overrides)
    shortest = 2 + max(map(len, PROMPTS))  # a token a byte at worst, one in front, and one to write
    if recipe.model.max_position_embeddings < shortest:
        raise UserError(
            f"model.max_position_embeddings = {recipe.model.max_position_embeddings}: the samples at the end need at "
            f"least {shortest}"
        )
    run, resume = free_run_folder(runs, RECIPES[0], recipe)
    other = command("quickstart", "--recipe", *(each for each in RECIPES if each != name))
    console.print(f"recipe {name} ({why}; the other one: {other})", markup=False, soft_wrap=True)
    report.print_quickstart_head(console, recipe, run.root, resume)
    ended = run_training(recipe, run, resume=resume, quiet=quiet)
    if not ended["finished"]:
        console.print(f"stopped after step {ended['steps']}, saved; run the same command to go on", markup=False)
        return None
    yardsticks = compressed_bits_per_byte(held_out_bytes(run.data))
    model, _ = run.load_model()
    tokenizer = Tokenizer.load(run.tokenizer)
    samples = _samples(model, tokenizer)
    write_atomic(run.root / "samples.txt", "\n\n".join(samples) + "\n")
    export_hf(model.state_dict(), recipe.model, run.tokenizer, run.export)
    summary = ended | {
        "run": str(run.root),
        "export": str(run.export),
        "compressors_bits_per_byte": yardsticks,
        "samples": samples,
        "total_seconds": time.perf_counter() - began,
        "peak_memory_bytes": peak_memory(),
        "same_weights_as": _twins(runs, run, ended["weights_sha256"]),
    }
    report.print_quickstart_end(console, recipe, summary)
    return summary


def _samples(model: DeepSeekModel, tokenizer: Tokenizer) -> list[str]:
    """A few texts, each begun with a prompt that fits the corpus."""
    stop = frozenset({tokenizer.id_of(EOS)})
    texts = []
    for seed, prompt in enumerate(PROMPTS):
        start = [tokenizer.id_of(BOS), *tokenizer.encode(prompt)]
        written = list(generate(model, start, 90, Sampling(temperature=0.7, top_p=0.9, seed=seed), stop))
        texts.append(prompt + tokenizer.decode(written))
    return texts


def _twins(runs: Path, run: RunFolder, weights_sha256: str) -> list[str]:
    """Other runs beside this one that ended in the same bits."""
    same = []
    for folder in sorted(runs.iterdir()):
        with suppress(UserError, OSError):  # whatever else lies there is none of this run's business
            last = last_line(RunFolder(folder).transcript).record if folder != run.root else None
            if last is not None and last.weights_sha256 == weights_sha256:
                same.append(str(folder))
    return same
