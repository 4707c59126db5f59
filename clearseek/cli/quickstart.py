"""``clearseek quickstart``: from nothing to a trained, exported model in minutes, on text every machine has.

The standard library of the running Python is the corpus; a tokenizer is trained on it; a small model of DeepSeek-V3's
architecture is trained, measured in held-out bits per byte beside ``gzip`` and ``xz`` on the same bytes, sampled,
drawn, and exported for transformers. Every stage is a library call that other commands make too. An unfinished
quickstart is resumed; beside a finished one a new run is made, and the two are compared.

Of two recipes, one for processors that multiply in BF16 and one with a sixth of the work, a run takes the first that
this machine is fast enough for, by a measured rate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.cli.exits import INTERRUPTED
from clearseek.cli.options import add_overrides
from clearseek.errors import UserError
from clearseek.program import command

if TYPE_CHECKING:
    from rich.console import Console

    from clearseek.config import Recipe
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.model.transformer import DeepSeekModel

PROMPTS = ("def ", "class ", "import os\n")
RECIPES = ("quickstart", "quickstart-small")
"""The large recipe and the small one."""
LONGEST = 330.0
"""Most seconds of training, by estimate, for which the large recipe is chosen."""
SHARE = 0.9
"""Share of the measured matmul rate that products reach."""
REST = 2.5e-4
"""Core-seconds of a token of the large recipe beside products: 1.7e-4 and 3.1e-4 on two processors with 0.8 and 1.9
TFLOP/s in BF16 (docs/notebook.md)."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek quickstart"
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
    parser.add_argument("--recipe", choices=RECIPES,
                        help="how large a model (default: by this machine's measured speed)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    began = time.perf_counter()
    from rich.console import Console

    from clearseek.cli.report import print_json, si
    from clearseek.cli.watch import run_training
    from clearseek.counts import count_parameters
    from clearseek.data.shards import held_out_bytes
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.evaluate.bits import compressed_bits_per_byte
    from clearseek.files import write_atomic
    from clearseek.hub.write import export_hf
    from clearseek.machine import peak_memory
    from clearseek.recipe import load_recipe
    from clearseek.train.session import free_run_folder

    runs, quiet = arguments.runs, arguments.json
    console = Console(stderr=True) if quiet else Console(highlight=False)
    asked = arguments.recipe
    name, why = (asked, "as asked for") if asked else choose_recipe(runs, arguments.overrides)
    recipe = load_recipe(name, arguments.overrides)
    shortest = 2 + max(map(len, PROMPTS))  # at worst a token a byte, one before, and one to write
    if recipe.model.max_position_embeddings < shortest:
        raise UserError(
            f"model.max_position_embeddings = {recipe.model.max_position_embeddings}: the samples at the end need at "
            f"least {shortest}"
        )
    folder, resume = free_run_folder(runs, RECIPES[0], recipe)
    other = command("quickstart", "--recipe", *(each for each in RECIPES if each != name))
    console.print(f"recipe {name} ({why}; the other one: {other})", markup=False, soft_wrap=True)
    count = count_parameters(recipe.model)
    source = "Python's standard library" if recipe.data.source == "python-stdlib" else ", ".join(recipe.data.paths)
    console.print(
        f"{'Going on with' if resume else 'Training'} a small DeepSeek-V3 in {folder.root}: {si(count.total)} "
        f"parameters, {si(count.activated_without_embedding)} activated, {si(recipe.tokens)} tokens of {source}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    ended = run_training(recipe, folder, resume=resume, quiet=quiet)
    if not ended["finished"]:
        console.print(f"stopped after step {ended['steps']}, saved; run the same command to go on", markup=False)
        return INTERRUPTED
    yardsticks = compressed_bits_per_byte(held_out_bytes(folder.data))
    model, _ = folder.load_model()
    samples = _samples(model, Tokenizer.load(folder.tokenizer))
    write_atomic(folder.root / "samples.txt", "\n\n".join(samples) + "\n")
    export_hf(model.state_dict(), recipe.model, folder.tokenizer, folder.export)
    summary = ended | {
        "run": str(folder.root),
        "export": str(folder.export),
        "compressors_bits_per_byte": yardsticks,
        "samples": samples,
        "total_seconds": time.perf_counter() - began,
        "peak_memory_bytes": peak_memory(),
        "same_weights_as": _twins(runs, folder.root, ended["weights_sha256"]),
    }
    print_end(console, recipe, summary)
    if arguments.json:
        print_json(summary)
    return 0


def choose_recipe(runs: Path, overrides: Sequence[str]) -> tuple[str, str]:
    """Name of the recipe for this machine, and the reason: an existing run's, else by the measured rate."""
    import torch

    from clearseek.counts import flops_per_token
    from clearseek.machine import pick_precision
    from clearseek.recipe import load_recipe
    from clearseek.train.preflight import settle_numerics
    from clearseek.train.run import Run

    there = Run(runs / RECIPES[0])
    if there.begun and (name := there.read_recipe().name) in RECIPES:
        return name, f"as in {there.root}"
    settle_numerics(None, "cpu")
    recipe = load_recipe(RECIPES[0], overrides)
    precision = pick_precision(recipe.train.precision)
    rate = max(precision.rates.values())
    work = recipe.tokens * flops_per_token(recipe.model, recipe.data.sequence_length)
    seconds = work / (SHARE * rate) + recipe.tokens * REST / torch.get_num_threads()
    kind = "BF16" if precision.dtype == torch.bfloat16 else "FP32"
    why = f"{rate / 1e9:,.0f} GFLOP/s in {kind} here: {RECIPES[0]} would train for about {seconds / 60:.0f} minutes"
    return RECIPES[0 if seconds <= LONGEST else 1], why


def _samples(model: DeepSeekModel, tokenizer: Tokenizer) -> list[str]:
    """Texts that continue :data:`PROMPTS`."""
    from clearseek.data.tokenizer import BOS, EOS
    from clearseek.inference.sampler import Sampling, generate

    stop = frozenset({tokenizer.id_of(EOS)})
    texts = []
    for seed, prompt in enumerate(PROMPTS):
        start = [tokenizer.id_of(BOS), *tokenizer.encode(prompt)]
        written = list(generate(model, start, 90, Sampling(temperature=0.7, top_p=0.9, seed=seed), stop))
        texts.append(prompt + tokenizer.decode(written))
    return texts


def _twins(runs: Path, ours: Path, weights_sha256: str) -> list[str]:
    """Folders of other runs beside `ours` that ended in the same bits."""
    from clearseek.train.run import Run
    from clearseek.train.transcript import last_line

    same = []
    for folder in sorted(runs.iterdir()):
        with suppress(UserError, OSError):  # other files and broken runs do not concern this run
            last = last_line(Run(folder).transcript).record if folder != ours else None
            if last is not None and last.weights_sha256 == weights_sha256:
                same.append(str(folder))
    return same


def print_end(console: Console, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    """Print the end of a quickstart: results, their places and quality, and commands to try next."""
    from rich.text import Text

    from clearseek.cli.report import print_rows

    run = summary["run"]
    bpb, others = summary["held_out_bpb"], summary["compressors_bits_per_byte"]
    console.print()
    for sample in summary["samples"]:
        console.print(Text(sample, style="cyan"), soft_wrap=True)
        console.print(Text("-" * 40, style="dim"))
    measured = ["none" if bpb is None else f"{bpb:.3f} bits per byte"]
    measured += [f"{name} {value:.3f}" for name, value in others.items()]
    rows = [
        ("held-out text", "   ".join(measured)),
        ("time, memory", f"{summary['total_seconds']:.0f} s ({summary['seconds']:.0f} s training), "
                         f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB at most"),
        ("weights", f"sha256 {summary['weights_sha256']}"),
        ("", "the same bits as " + ", ".join(summary["same_weights_as"]) if summary["same_weights_as"] else
             "run the command again: the same bits"),
        ("for transformers", summary["export"]),
        ("pictures", f"{run}/pictures/loss.png, {run}/pictures/experts.png"),
        ("record", f"{run}/transcript.jsonl"),
        ("try next", command("generate", run, "--prompt", "class Parser")),
        ("", command("train", "shakespeare", "--set", 'data.paths=["my.txt"]') + "   (a text file of yours)"),
        ("", command("train", "--resume", run, "--more-steps", str(recipe.train.steps)) + "   (as long again)"),
    ]  # fmt: skip
    print_rows(console, rows)
