"""A ladder of sizes: how rates and batch go with size, fitted on models that were trained.

A rung is a number of layers, from which all dimensions follow (:func:`clearseek.size.dimensions`). Every rung is
trained on so many tokens for each active parameter, at each batch and at each factor on the peak rates of
``quickstart-small``, whose text it reads. The best factor of a batch is the lowest point of the parabola through the
best one and its two neighbours, over the logarithm of the factor; a best one at an end is used as it is, and marked. Of
batches the better one counts; larger rungs try no smaller one, and no factor above twice the best of the rung below.
Then a straight line is fitted through the logarithms over all rungs, of factor, of batch in tokens and of bits per byte
against active parameters; the residuals are kept, and say what the line is worth.

``python benchmarks/size_ladder.py --folder DIR`` goes on where it was interrupted, writes
``benchmarks/results/size_ladder.json`` and prints the lines that then replace those of ``clearseek/size.py``. It needs
time, which goes with the square of the largest size: at the defaults half an hour of two idle cores with BF16.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result

from clearseek.config import Recipe
from clearseek.counts import count_parameters
from clearseek.data.shards import prepare_data
from clearseek.evaluate.bits import bits_per_byte, window_count
from clearseek.files import write_atomic
from clearseek.machine import describe
from clearseek.recipe import load_recipe, recipe_json
from clearseek.size import dimensions
from clearseek.train.preflight import Setup, preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.step import NotFiniteError, Training

RESULT = Path(__file__).parent / "results" / "size_ladder.json"
LAWS = ("factor", "batch_tokens", "bpb")
"""What a line is fitted through."""


BASE = "quickstart-small"
"""The recipe of which every rung is a size."""


def base_settings() -> dict[str, dict[str, Any]]:
    """The base recipe's peak rates, on which the factor is, what else makes them right, and how its weights begin."""
    raw = load_recipe(BASE).model_dump(mode="json")
    names = ("learning_rate", "muon_learning_rate", "embedding_learning_rate", "momentum", "schedule")
    return {
        "optimizer": {name: raw["optimizer"][name] for name in names},
        "train": {"initial_weights": raw["train"]["initial_weights"]},
    }


def recipe_of(layers: int, batch: int, factor: float, tokens_per_parameter: float, threads: int) -> Recipe:
    """The base recipe at another size, batch and rates, as long as its active parameters ask for."""
    raw = load_recipe(BASE).model_dump(mode="json")
    raw["model"] |= dimensions(layers)
    active = count_parameters(Recipe.model_validate(raw).model).activated_without_embedding
    steps = max(2, round(tokens_per_parameter * active / (batch * raw["data"]["sequence_length"])))
    rates = base_settings()["optimizer"].items()
    raw["optimizer"] |= {name: factor * rate for name, rate in rates if name.endswith("learning_rate")}
    raw["train"] |= {"batch_size": batch, "micro_batch_size": batch, "lanes": None, "steps": steps, "threads": threads,
                     "eval_every": 0, "hash_every": steps + 1}  # fmt: skip
    return Recipe.model_validate(raw)


def train(recipe: Recipe, data: Path, setup: Setup, windows: int) -> dict[str, Any]:
    """Train, and measure on so many held-out windows, spread evenly."""
    task = PreTraining(recipe, data, checked=True)
    training, began = Training(recipe, task, setup), time.perf_counter()
    count, finite = count_parameters(recipe.model), True
    try:
        while training.step < recipe.train.steps:
            training.advance()
    except NotFiniteError:
        finite = False
    seconds = time.perf_counter() - began
    bits, held_out, length = None, task.held_out, recipe.data.sequence_length
    if finite and held_out is not None:
        every = window_count(len(held_out), length)
        some = np.linspace(0, every - 1, min(every, windows)).astype(int).tolist()
        bits = bits_per_byte(training.model, held_out, held_out.manifest.heldout.bytes, length, some)
    return {"active": count.activated_without_embedding, "parameters": count.total, "steps": recipe.train.steps,
            "seconds": seconds, "bpb": bits}  # fmt: skip


def lowest(points: Sequence[tuple[float, float]]) -> tuple[float, float, bool]:
    """Factor and bits at the lowest point of a curve of (factor, bits), and whether both sides of it were tried."""
    points = sorted(points)
    best = min(range(len(points)), key=lambda index: points[index][1])
    near = points[best - 1 : best + 2] if 0 < best < len(points) - 1 else []
    if len(near) < 3 or not all(math.isfinite(bits) for _, bits in near):
        return (*points[best], False)
    a, b, c = np.polyfit([math.log(factor) for factor, _ in near], [bits for _, bits in near], 2).tolist()
    place = -b / (2 * a)
    return math.exp(place), a * place**2 + b * place + c, True


def line(active: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """value = scale x active ^ exponent by least squares of the logarithms, with each rung's value over the line's."""
    exponent, scale = np.polyfit(np.log(active), np.log(values), 1).tolist()
    over = [value / math.exp(scale + exponent * math.log(n)) for n, value in zip(active, values, strict=True)]
    return {"exponent": exponent, "scale": math.exp(scale), "value_over_line": over}


def best_of(runs: Mapping[str, dict[str, Any]], layers: int, sequence_length: int) -> dict[str, Any]:
    """The best factor and batch of a rung, and its bits."""
    of_rung = [run for run in runs.values() if run["layers"] == layers]
    by_batch: dict[int, list[tuple[float, float]]] = {}
    for run in of_rung:
        bits = math.inf if run["bpb"] is None else run["bpb"]
        by_batch.setdefault(run["batch"], []).append((run["factor"], bits))
    factor, bits, inside, batch = min(
        ((*lowest(points), batch) for batch, points in by_batch.items()), key=lambda each: each[1]
    )
    return {"layers": layers, "active": of_rung[0]["active"], "batch": batch, "batch_tokens": batch * sequence_length,
            "factor": factor, "bpb": bits, "both_sides_tried": inside}  # fmt: skip


def fit(runs: Mapping[str, dict[str, Any]], rungs: Sequence[int], sequence_length: int) -> dict[str, Any]:
    """The best of every rung, and the lines through them."""
    best = [best_of(runs, layers, sequence_length) for layers in rungs]
    active = [each["active"] for each in best]
    return {"best": best, "lines": {name: line(active, [each[name] for each in best]) for name in LAWS}}


def paste(found: Mapping[str, Any]) -> str:
    """The lines of clearseek/size.py that hold what was found."""
    laws = (f'"{name}": Law({each["scale"]:.6g}, {each["exponent"]:.4f})' for name, each in found["lines"].items())
    return "\n".join((
        f"RUNGS = {tuple(found['settings']['rungs'])}",
        f"TOKENS_PER_PARAMETER = {found['settings']['tokens']}",
        f"BASE: Mapping[str, Mapping[str, Any]] = {found['base']}".replace("'", '"'),
        "LAWS = {",
        *(f"    {law}," for law in laws),
        "}",
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where data and measurements are kept")
    parser.add_argument("--rungs", type=int, nargs="+", default=[2, 3, 4, 5], help="numbers of layers, four at least")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.35, 0.7, 1.4, 2.8])
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--tokens", type=float, default=0.75, help="training tokens for each active parameter")
    parser.add_argument("--windows", type=int, default=1024, help="held-out windows, spread evenly")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if len(set(arguments.rungs)) < 4:
        parser.error("a line through fewer than four sizes says little: give four --rungs")
    first = recipe_of(arguments.rungs[0], arguments.batches[0], 1.0, arguments.tokens, arguments.threads)
    data, kept = arguments.folder / "data", arguments.folder / "measured.json"
    if not (data / "manifest.json").is_file():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        prepare_data(first.data, first.model.vocab_size, data)
    setup, kind = preflight(first, arguments.device), {"recipe": recipe_json(load_recipe(BASE))}
    kind |= {name: getattr(arguments, name) for name in ("tokens", "windows", "threads", "device")}
    state = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {"kind": kind, "runs": {}}
    if state["kind"] != kind:
        parser.error(f"{kept}: measured with another {BASE} or other options: give another --folder")
    runs: dict[str, dict[str, Any]] = {}
    below = {"batch": 0, "factor": math.inf}
    for layers in sorted(arguments.rungs):
        for batch, factor in itertools.product(arguments.batches, arguments.factors):
            if batch < below["batch"] or factor > 2 * below["factor"]:
                continue
            key = f"{layers} layers, batch {batch}, rates x {factor:g}"
            if key not in state["runs"]:
                recipe = recipe_of(layers, batch, factor, arguments.tokens, arguments.threads)
                made = train(recipe, data, setup, arguments.windows)
                state["runs"][key] = {"layers": layers, "batch": batch, "factor": factor} | made
                write_atomic(kept, json.dumps(state, indent=1).encode())
            runs[key] = state["runs"][key]
            print(f"{key}: {runs[key]['bpb']} bits per byte, {runs[key]['seconds']:,.0f} s", flush=True)
        below = best_of(runs, layers, first.data.sequence_length)
    names = ("rungs", "factors", "batches", "tokens", "windows", "threads", "device")
    settings = {name: getattr(arguments, name) for name in names} | {"sequence_length": first.data.sequence_length}
    settings |= {"precision": str(setup.precision.dtype).removeprefix("torch."), "kernels": setup.kernels}
    found = {"settings": settings, "base": base_settings(), "runs": runs}
    found |= fit(runs, arguments.rungs, first.data.sequence_length)
    write_result(arguments.out, found, describe() | {"threads": arguments.threads})
    for name, each in found["lines"].items():
        low, high = min(each["value_over_line"]), max(each["value_over_line"])
        print(f"{name} = {each['scale']:.4g} x active ^ {each['exponent']:.4f}; rungs at {low:.3f} to {high:.3f} of it")
    print("For clearseek/size.py:", paste(found), sep="\n")


if __name__ == "__main__":
    main()
