"""What it costs to check published completions, against writing them again, and what the check finds.

Trains a base, cold starts and some steps of GRPO as the ladder does, with a checkpoint of each round: additions of two
digits (completions of at most 8 tokens) and of three with written columns (64). Then, for the first and the last round,
by turns: write the completions again; check them by the engine, as `verify` does; check them by the model that is
trained, as it does where the compiled loops do not run. A third case shares nothing: one completion of 64 tokens for
each prompt, by the base, at temperature 1.

Over all rounds, at least 100,000 draws: the share of draws that is decided here and on an imitated processor with AVX2
alone; and whether one changed token, one changed reward and another seed are found.

``python benchmarks/rollout_check.py`` writes ``benchmarks/results/rollout_check.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from record import write_result

from clearseek.inference.request import Settings
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.grpo import PolicyOptimisation
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.parent import dimensions
from clearseek.posttrain.rollouts import Rollouts, seed_of, write_completions
from clearseek.recipe import load_recipe
from clearseek.train.checkpoints import checkpoint
from clearseek.train.run import Run, model_of
from clearseek.train.session import train_recipe
from clearseek.verify.draws import Judged
from clearseek.verify.forced import check_draws, judge_by_model
from clearseek.verify.rollouts import _not_its_address

RESULT = Path(__file__).parent / "results" / "rollout_check.json"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "",
}  # fmt: skip
COLUMNS = ["problems.digits=3", "problems.working=true"]
CASES: dict[str, tuple[list[str], int, list[str]]] = {
    "8 tokens": ([], 170, ["train.steps=32"]),
    "64 tokens": (COLUMNS, 250, [*COLUMNS, "grpo.max_tokens=64", "train.steps=5"]),
}
"""Settings of the cold start, its steps, and settings of the policy optimisation."""
WAYS = {"engine": check_draws, "model": judge_by_model}
TRIALS = 50
"""Changed tokens, one at a time."""


def trained(folder: Path, rung: str, settings: list[str]) -> Run:
    """A run of the ladder, trained where it is not there yet."""
    run = Run(folder)
    if not (folder / "done").is_file():
        recipe = load_recipe(f"ladder-{rung}", [*settings, "train.eval_every=0", "train.threads=1"], dimensions)
        train_recipe(recipe, run, method=method_of(recipe))
        (folder / "done").touch()
    return run


def prepare(folder: Path) -> dict[str, Run]:
    """The runs whose completions are checked."""
    trained(folder / "base", "base", [])
    found = {}
    for name, (cold, steps, policy) in CASES.items():
        short = name.split()[0]
        start, base = folder / f"start-{short}", f"parent.path={json.dumps(str(folder / 'base'))}"
        trained(start, "start", [*cold, base, f"train.steps={steps}"])
        every = ["train.checkpoint_every=1", "train.keep_checkpoints=1000", f"parent.path={json.dumps(str(start))}"]
        found[name] = trained(folder / f"policy-{short}", "grpo", [*policy, *every])
    return found


def opened(run: Run) -> tuple[PolicyOptimisation, Callable[[int], DeepSeekModel], range]:
    """A run's task, the policy at the begin of a round, and its rounds."""
    recipe = run.read_recipe()
    task = method_of(recipe).task(recipe, run, run.parent)
    assert isinstance(task, PolicyOptimisation)

    def policy(number: int) -> DeepSeekModel:
        where = checkpoint.find(run.checkpoints if number else run.parent, number)
        return model_of(recipe, checkpoint.load(where, checkpoint.MODEL).tensors, torch.float32)

    return task, policy, range(recipe.train.steps)


# -- what it costs ----------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def cost(model: DeepSeekModel, rollouts: Rollouts, prompts: Any, settings: Settings, repeat: int) -> dict[str, Any]:
    """CPU seconds of writing again and of the two ways of checking, by turns."""
    asked, prompt_N, seed_N = prompts
    sides: dict[str, Callable[[], object]] = {
        "writing": lambda: write_completions(model, asked, prompt_N, seed_N, settings)
    }
    for way in WAYS:
        sides[way] = lambda way=way: WAYS[way](model, rollouts, settings)  # type: ignore[misc]
    for side in sides.values():
        side()
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, side in sides.items():
            turns[name].append(seconds(side))
    median = {name: statistics.median(each) for name, each in turns.items()}
    pieces = [piece.tolist() for piece in rollouts.token_T.split(rollouts.length_N.tolist())]
    return {
        "completions": len(rollouts), "draws": len(rollouts.logp_C), "read": sum(len(each) - 1 for each in pieces),
        "different_prefixes": len({tuple(each[: k + 1]) for each in pieces for k in range(len(each) - 1)}),
        "entropy": float(-rollouts.logp_C.double().mean()), "cpu_seconds": median,
        "share_of_writing": {way: median[way] / median["writing"] for way in WAYS}, "turns": turns,
    }  # fmt: skip


def nothing_shared(folder: Path, repeat: int) -> dict[str, Any]:
    """Completions of 64 tokens, each of a prompt of its own."""
    run, (task, _, _) = Run(folder / "base"), opened(Run(folder / "policy-64"))
    saved = checkpoint.load(checkpoint.find(run.checkpoints, run.read_recipe().train.steps), checkpoint.MODEL)
    model = model_of(run.read_recipe(), saved.tensors, torch.float32)
    asked = [task.questions.ids(task.questions.problems.train(index)) for index in range(1024)]
    numbers, seeds = list(range(1024)), [seed_of(1, 0, k) for k in range(1024)]
    settings = replace(task.drawing, max_tokens=64)
    found = write_completions(model, asked, numbers, seeds, settings)
    rollouts = Rollouts.of(numbers, asked, seeds, found)
    return cost(model, rollouts, (asked, numbers, seeds), settings, repeat)


# -- what it finds ----------------------------------------------------------------------------------------------------


def everything(run: Run, way: str) -> Judged:
    """All rounds of a run."""
    task, policy, rounds = opened(run)
    found = Judged()
    for number in rounds:
        found.add(WAYS[way](policy(number), Rollouts.read(task.file_of(number)), task.drawing))
    return found


def finds(run: Run) -> dict[str, Any]:
    """Whether changes are found, each alone among all draws of a run."""
    task, policy, rounds = opened(run)
    rng, number = random.Random(1), rounds[-1]
    model, size = policy(number), task.recipe.model.vocab_size
    drawn, exact = 0, 0
    for _ in range(TRIALS):
        rollouts = Rollouts.read(task.file_of(number))
        k = rng.randrange(len(rollouts))
        position = int(rollouts.prompt_N[k]) + rng.randrange(int(rollouts.drawn_n[k]))
        place = int(rollouts.length_N[:k].sum()) + position
        rollouts.token_T[place] = (int(rollouts.token_T[place]) + 1 + rng.randrange(size - 1)) % size
        wrong = check_draws(model, rollouts, task.drawing).wrong
        drawn += bool(wrong)
        named = [each for each in wrong if not each.startswith(f"completion {k}, ")]
        exact += any(each.startswith(f"completion {k}, position {position}: token") for each in wrong) and not named
    rollouts = Rollouts.read(task.file_of(number))
    rollouts.reward_N[5] = 1 - rollouts.reward_N[5]
    problems, prompts, prompt_N, seeds = task.asked(number)
    others = [seed_of(task.recipe.data.seed + 1, number, k) for k in range(len(seeds))]
    written = write_completions(model, prompts, prompt_N, others, task.drawing)
    lied = Rollouts.of([problems[k] for k in prompt_N], [prompts[k] for k in prompt_N], seeds, written)
    wrong = check_draws(model, lied, task.drawing).wrong
    return {
        "one token, trials": TRIALS, "found": drawn, "found by its place and no other completion accused": exact,
        "one reward": _not_its_address(task, task.recipe.model, number, rollouts),
        "completions by another seed that state the right one, contradictions": len(wrong),
    }  # fmt: skip


def elsewhere(folder: Path) -> dict[str, Any]:
    """Every run, both ways, on a processor with AVX2 alone."""
    command = [sys.executable, __file__, "--judge", str(folder)]
    answer = subprocess.run(command, env=os.environ | AVX2, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def judged(folder: Path) -> dict[str, Any]:
    """Every run, both ways."""
    found: dict[str, Any] = {}
    for name in CASES:
        for way in WAYS:
            each = everything(Run(folder / f"policy-{name.split()[0]}"), way)
            found.setdefault(name, {})[way] = asdict(each) | {"decided": 1 - each.undecided / each.draws}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7, help="turns that count")
    parser.add_argument("--runs", type=Path, help="a folder for the runs, which are trained where they are missing")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = (arguments.runs or Path(place)).resolve()
        report: dict[str, Any] = {"what": __doc__.splitlines()[0], "cost": {}}
        for name, run in prepare(folder).items():
            task, policy, rounds = opened(run)
            for number in (rounds[0], rounds[-1]):
                rollouts, (_, *prompts) = Rollouts.read(task.file_of(number)), task.asked(number)
                report["cost"][f"{name}, round {number}"] = cost(
                    policy(number), rollouts, prompts, task.drawing, arguments.repeat
                )
        report["cost"]["64 tokens, nothing shared"] = nothing_shared(folder, arguments.repeat)
        report["here"], report["avx2"] = judged(folder), elsewhere(folder)
        report["finds"] = {name: finds(Run(folder / f"policy-{name.split()[0]}")) for name in CASES}
    write_result(arguments.out, report)
    for each in report["cost"].values():
        del each["turns"]
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--judge"]:
        torch.set_num_threads(1)
        print(json.dumps(judged(Path(sys.argv[2]))))
    else:
        main()
