"""What the command line prints: tables in a terminal, plain lines elsewhere. No logic, only words and columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from clearseek.config import Recipe
from clearseek.counts import count_parameters, flops_per_token, training_memory
from clearseek.data.manifest import Manifest
from clearseek.files import amount
from clearseek.hub.portability import Finding, check_portability
from clearseek.program import command


def print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names and values in two columns. Lines are never broken, so that a pipe gets each fact whole."""
    width = 2 + max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text(name.ljust(width), style="dim") + Text(value), soft_wrap=True)


def si(value: float, unit: str = "") -> str:
    """A number with a decimal prefix: 12,402,176 -> ``12.4 M``."""
    for power, prefix in zip(range(24, 0, -3), "YZEPTGMk", strict=True):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def print_recipes(console: Console, recipes: Mapping[str, Recipe]) -> None:
    """One line a recipe."""
    rows = [("recipe", "parameters", "activated", "what it is")]
    for name, recipe in recipes.items():
        count = count_parameters(recipe.model)
        rows.append((name, si(count.total), si(count.activated_without_embedding), recipe.description))
    widths = [max(len(row[column]) for row in rows) for column in range(3)] + [0]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.print(line, markup=False, soft_wrap=True)


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """What a recipe costs, as JSON values."""
    count = count_parameters(recipe.model)
    precision = "bf16" if recipe.train.precision == "auto" else recipe.train.precision
    memory = training_memory(
        recipe.model, recipe.optimizer.name, precision, recipe.train.held_sums, recipe.optimizer.moments
    )
    length = recipe.data.sequence_length
    tokens = recipe.train.steps * recipe.train.batch_size * length
    flops = flops_per_token(recipe.model, length)
    findings = check_portability(recipe.model, recipe.data.tokenizer is None)
    return {
        "recipe": recipe.model_dump(mode="json"),
        "parameters": {
            "total": count.total,
            "mtp": count.mtp,
            "embedding": count.embedding,
            "activated": count.activated,
            "activated_without_embedding": count.activated_without_embedding,
            "activated_without_embedding_and_head": count.activated_without_embedding_and_head,
        },
        "memory_bytes": {
            "weights": memory.weights,
            "master_weights": memory.master_weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "total_without_activations": memory.total,
            "partial_sums_in_one_process": memory.partial_sums,
        },
        "flops_per_token": flops,
        "tokens": tokens,
        "total_flops": flops * tokens,
        "portability": [f"{each.severity}: {each.tool}: {each.message}" for each in findings],
    }  # fmt: skip


def print_dry_run(console: Console, recipe: Recipe, as_json: bool) -> None:
    """What a recipe costs, then the recipe with every setting."""
    costs = dry_run(recipe)
    if as_json:
        print(json.dumps(costs, indent=1))
        return
    parameters, memory = costs["parameters"], costs["memory_bytes"]
    rows = [
        ("parameters", f"{parameters['total']:,}" + f" + {parameters['mtp']:,} MTP" * bool(parameters["mtp"])),
        ("activated", f"{parameters['activated']:,} with input embedding and output head"),
        ("", f"{parameters['activated_without_embedding']:,} without the embedding lookup"),
        ("", f"{parameters['activated_without_embedding_and_head']:,} without embedding and head"),
        ("embedding", f"{parameters['embedding']:,}"),
        ("memory", f"{amount(memory['total_without_activations'])} for weights, gradients and "
                   "optimiser state; activations come on top"),
        ("", f"{amount(memory['partial_sums_in_one_process'])} more while one process sums all its "
             "micro-batches"),
        ("training", f"{si(costs['flops_per_token'], 'FLOP')} a token, {costs['tokens']:,} tokens, "
                     f"{si(costs['total_flops'], 'FLOP')}"),
    ]  # fmt: skip
    print_rows(console, rows)
    print_findings(console, check_portability(recipe.model, recipe.data.tokenizer is None))
    console.print("\nThe recipe, resolved:", style="bold")
    for table, settings in costs["recipe"].items():
        if not isinstance(settings, dict):
            console.print(f"{table} = {json.dumps(settings)}", markup=False, soft_wrap=True)
            continue
        console.print(f"\n[{table}]", markup=False, style="bold")
        for key, value in settings.items():
            text = f"{key} = {json.dumps(value)}" if value is not None else f"# {key} is not set"
            console.print(text, markup=False, soft_wrap=True)


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """What other programs will say to the model."""
    colours = {"error": "red", "warning": "yellow", "note": "dim"}
    for finding in findings:
        head = Text(f"{finding.severity}: ", style=colours.get(finding.severity, ""))
        console.print(head + Text(f"{finding.tool}: {finding.message}"), soft_wrap=True)


def _documents(count: int) -> str:
    return f"{count:,} document{'s' * (count != 1)}"


def print_manifest(console: Console, manifest: Manifest, out: Path) -> None:
    """What was prepared."""
    licences = ", ".join(f"{_documents(count)} {licence}" for licence, count in manifest.licences.items())
    rows = [("data", str(out)), ("source", f"{manifest.source}, {licences}")]
    for name, half in {"training": manifest.train, "held out": manifest.heldout}.items():
        rows.append((name, f"{_documents(half.documents)}, {half.bytes:,} bytes, {half.tokens:,} tokens"))
    rows.append(("left out", f"{manifest.duplicates} duplicates, {manifest.left_out} unusable"))
    rows += [("note", line) for line in manifest.remarks.lines()]
    rows.append(("fingerprint", manifest.fingerprint))
    print_rows(console, rows)


def print_quickstart_head(console: Console, recipe: Recipe, run: Path, resume: bool) -> None:
    """What is about to happen."""
    count = count_parameters(recipe.model)
    tokens = recipe.train.steps * recipe.train.batch_size * recipe.data.sequence_length
    source = "Python's standard library" if recipe.data.source == "python-stdlib" else ", ".join(recipe.data.paths)
    console.print(
        f"{'Going on with' if resume else 'Training'} a small DeepSeek-V3 in {run}: {si(count.total)} parameters, "
        f"{si(count.activated_without_embedding)} activated, {si(tokens)} tokens of {source}",
        markup=False,
        soft_wrap=True,
    )


def print_quickstart_end(console: Console, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    """The one screen at the end: what was made, where, how good it is, what to try next."""
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
