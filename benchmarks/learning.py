"""What reinforcement learning does to a very small model, from cold starts to R1's conclusion, and where it fails.

Cases, each with several seeds, all from one base that is pre-trained by ``recipes/ladder-base.toml``:

- ``two-digits``: two-digit addition, from a cold start that solves 20 to 50 %.
- ``three-digits``: three-digit addition with written columns.
- ``few``: a cold start on so few demonstrations that more epochs of them do not help.
- ``countdown``: a number made of three others.
- ``equal-compute``: beside ``three-digits``, fresh demonstrations from the same start; and a smaller student that
  learns the policy's right answers, beside the same student under GRPO for at least as many CPU seconds.
- ``failures``: a start that solves nothing, and a rate that destroys the policy.

Shares are of 512 held-out problems, one completion at temperature 1, with Wilson's interval of 95 %. A cold start is
stopped by a rule that is fixed here: the first number of steps in a list after which its share is in the wanted range.
Every run is a process of its own; seconds are its wall time and CPU time, evaluations included.

``python benchmarks/learning.py [CASE …]`` prints a table and writes ``benchmarks/results/learning.json``; cases that
are not named keep their figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from record import write_result

RESULT = Path(__file__).parent / "results" / "learning.json"
RECIPES = Path(__file__).parent.parent / "recipes"
SAMPLES = 16
TWO = {"problems": {"digits": 2}, "max_tokens": 8}
THREE = {"problems": {"digits": 3, "working": True}, "max_tokens": 40}
COUNTDOWN = {"problems": {"kind": "countdown"}, "max_tokens": 16}
Changes = dict[str, Any]
FOLDERS = ("parent.path", "distil.teacher")


class Ladder:
    """A folder of runs, and what was measured of them."""

    def __init__(self, folder: Path, seed: int, threads: int) -> None:
        self.folder, self.seed, self.threads = folder, seed, threads

    def run(self, name: str, recipe: str, changes: Changes, problems: Changes | None = None) -> dict[str, Any]:
        """Train a recipe of the ladder with changes; its curve, seconds and shares; nothing where it is finished.

        Args:
            name: Name of the run's folder.
            recipe: Name of the recipe.
            changes: Settings by dotted key.
            problems: Settings of ``[problems]`` and `max_tokens`, to measure the run by; None for a base.
        """
        run, told = self.folder / name, self.folder / f"{name}.json"
        if told.is_file():
            return dict(json.loads(told.read_text()))
        shutil.rmtree(run, ignore_errors=True)
        tables = {f"problems.{key}": value for key, value in (problems or {}).get("problems", {}).items()}
        settings = {"train.seed": self.seed, "data.seed": self.seed} | tables | changes
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={_toml(value)}")]
        command = [sys.executable, "-m", "clearseek", "train", str(RECIPES / f"{recipe}.toml"), "--run", str(run)]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        begun, load = time.monotonic(), os.getloadavg()[0]
        process = subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        report: dict[str, Any] = {
            "exit_code": code, "seconds": round(time.monotonic() - begun, 1), "load_before": round(load, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1), "recipe": recipe,
            "changes": {key: Path(v).name if key in FOLDERS else v for key, v in settings.items()},
        }  # fmt: skip
        if code:
            report["said"] = said.strip().splitlines()[-1:]
        elif problems is not None:
            report |= {"curve": _curve(run)} | measured(run, problems, self.seed)
        if code in (0, 2):
            told.write_text(json.dumps(report, indent=1))
        shares = {key: report[key] for key in ("pass_at_1", f"pass_at_{SAMPLES}") if key in report}
        print(f"seed {self.seed}, {name}: exit {code}, {report['seconds']} s, {report['cpu_seconds']} CPU-s, {shares}",
              flush=True)  # fmt: skip
        if code not in (0, 2):
            raise SystemExit(said)
        return report

    def base(self, size: Changes | None = None, name: str = "base") -> None:
        """Pre-train the base, which is the same for all seeds."""
        where = self.folder.parent / name
        if not where.is_dir():
            Ladder(self.folder.parent, 0, self.threads).run(name, "ladder-base", size or {})

    def start(self, name: str, problems: Changes, steps: Sequence[int], changes: Changes, low: float = 0.2,
              high: float = 0.5, base: str = "base") -> dict[str, Any]:  # fmt: skip
        """The first cold start of `steps` steps whose share lies between `low` and `high`, with its name."""
        for count in steps:
            run = f"{name}-{count}"
            found = self.run(run, "ladder-start", {"parent.path": str(self.folder.parent / base), "train.steps": count}
                             | changes, problems)  # fmt: skip
            if low <= found["pass_at_1"][0] <= high:
                return found | {"run": run}
        raise SystemExit(f"no cold start of {steps} steps solves {low:.0%} to {high:.0%}")

    def policy(self, name: str, parent: str, problems: Changes, changes: Changes) -> dict[str, Any]:
        """GRPO from a run."""
        settings = {"parent.path": str(self.folder / parent), "grpo.max_tokens": problems["max_tokens"]}
        return self.run(name, "ladder-grpo", settings | changes, problems)


def measured(run: Path, problems: Changes, seed: int) -> dict[str, Any]:
    """A run's share of held-out problems with one completion and with 16, each with its interval."""
    from clearseek.config.posttraining import ProblemsConfig
    from clearseek.data.tokenizer import Tokenizer
    from clearseek.posttrain.solved import PASS, measure, measure_at_k, pass_at
    from clearseek.problems.questions import questions_of
    from clearseek.train.run import Run

    what = Run(run)
    config = ProblemsConfig.model_validate({"kind": "addition"} | problems["problems"])
    recipe = what.read_recipe().model_copy(update={"problems": config})
    questions, (model, _) = questions_of(recipe, Tokenizer.load(what.tokenizer)), what.load_model()
    held_out, longest = questions.held_out(512), problems["max_tokens"]
    found = measure(model, questions, held_out, longest, seed)
    found |= measure_at_k(model, questions, held_out, SAMPLES, longest, seed)
    names = {"pass_at_1": PASS, f"pass_at_{SAMPLES}": pass_at(SAMPLES)}
    return {short: [round(found[f"{name}{end}"], 4) for end in ("", "_low", "_high")] for short, name in names.items()}


def _curve(run: Path) -> list[dict[str, float]]:
    """Shares and entropy along a run, where it measured them."""
    from clearseek.posttrain.solved import PASS

    names = {PASS: "pass_at_1", "reward": "reward", "entropy": "entropy", "groups_without_spread": "without_spread"}
    found = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        metrics = json.loads(line)
        if PASS in metrics:
            shown = {short: round(metrics[name], 4) for name, short in names.items() if name in metrics}
            found.append({"step": metrics["step"]} | shown)
    return found


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


# --- Cases ------------------------------------------------------------------------------------------------------------

AGAIN: Changes = {"problems.seed": 1}
"""Other problems than the demonstrations': where a start knows them by heart, its completions differ little."""
COLUMNS: Changes = {"sft.demonstrations": 5000, "data.sequence_length": 160, "train.batch_size": 20}
COLUMNS_GRPO: Changes = AGAIN | {
    "grpo.temperature": 1.0,
    "train.batch_size": 512,
    "train.steps": 350,
    "train.eval_every": 25,
}
FALLING = [{"shape": "linear", "until": 0.02, "to": 1.0}, {"shape": "linear", "until": 1.0, "to": 0.1}]


def two_digits(ladder: Ladder) -> dict[str, Any]:
    """A cold start of 20 to 50 %, and GRPO as in the ladder."""
    ladder.base()
    start = ladder.start("two-start", TWO, (170, 160, 180, 150, 190), {})
    return {"start": start, "grpo": ladder.policy("two-grpo", start["run"], TWO, {})}


def three_digits(ladder: Ladder) -> dict[str, Any]:
    """Three digits with written columns."""
    ladder.base()
    start = ladder.start("three-start", THREE, (156, 150, 162, 144, 168), COLUMNS)
    return {"start": start, "grpo": ladder.policy("three-grpo", start["run"], THREE, COLUMNS_GRPO)}


def few(ladder: Ladder) -> dict[str, Any]:
    """800 demonstrations learnt for ever more epochs, and GRPO from one of these runs."""
    ladder.base()
    parent = {"parent.path": str(ladder.folder.parent / "base"), "sft.demonstrations": 800,
              "optimizer.schedule": FALLING}  # fmt: skip
    lengths = (150, 300, 600, 1200, 2400)
    learnt = {str(n): ladder.run(f"few-sft-{n}", "ladder-start", parent | {"train.steps": n}, TWO) for n in lengths}
    return {"sft by steps": learnt, "grpo from 600": ladder.policy("few-grpo", "few-sft-600", TWO, {})}


def countdown(ladder: Ladder) -> dict[str, Any]:
    """A target from three numbers."""
    ladder.base()
    demonstrations = {"sft.demonstrations": 20_000, "train.batch_size": 20}
    start = ladder.start("countdown-start", COUNTDOWN, (200, 180, 220, 240), demonstrations, 0.1, 0.3)
    changes = AGAIN | {
        "optimizer.muon_learning_rate": 2e-3, "train.steps": 450, "train.batch_size": 2048, "grpo.completions": 32,
        "grpo.entropy": 0.05,
    }  # fmt: skip
    return {"start": start, "grpo": ladder.policy("countdown-grpo", start["run"], COUNTDOWN, changes)}


SMALLER: Changes = {"model.hidden_size": 48, "model.moe_intermediate_size": 48, "model.intermediate_size": 192}


def equal_compute(ladder: Ladder) -> dict[str, Any]:
    """What demonstrations and a teacher's answers give for the CPU time that GRPO takes."""
    policy = three_digits(ladder)
    fresh = AGAIN | COLUMNS | {"sft.demonstrations": 20_000, "parent.path": str(ladder.folder / policy["start"]["run"])}
    taught = {
        str(n): ladder.run(f"fresh-sft-{n}", "ladder-start", fresh | {"train.steps": n}, THREE) for n in (50, 100, 200)
    }
    ladder.base(SMALLER, "small-base")
    start = ladder.start("small-start", THREE, (200, 190, 210, 220, 180, 240), COLUMNS, base="small-base")
    parent = {"parent.path": str(ladder.folder / start["run"])}
    student = ladder.run("small-student", "ladder-student", AGAIN | parent | {
        "distil.teacher": str(ladder.folder / "three-grpo"), "distil.texts": 8000, "distil.max_tokens": 40,
        "train.steps": 150, "train.batch_size": 80}, THREE)  # fmt: skip
    alone = ladder.policy("small-grpo", start["run"], THREE, COLUMNS_GRPO | {"train.steps": 120})
    return {"grpo": policy["grpo"], "fresh demonstrations by steps": taught, "small start": start,
            "small student of the policy's right answers": student, "small student under GRPO": alone}  # fmt: skip


def failures(ladder: Ladder) -> dict[str, Any]:
    """A base that solves nothing, and pre-training's rates."""
    ladder.base()
    nothing = ladder.run("no-start", "ladder-grpo", {"parent.path": str(ladder.folder.parent / "base")}, TWO)
    start = ladder.start("two-start", TWO, (170, 160, 180, 150, 190), {})
    rates = {"optimizer.muon_learning_rate": 2e-2, "optimizer.learning_rate": 3e-3, "train.steps": 200,
             "train.eval_every": 20}  # fmt: skip
    return {"from 0 %": nothing, "at pre-training's rates": ladder.policy("destroyed", start["run"], TWO, rates)}


CASES: dict[str, Callable[[Ladder], dict[str, Any]]] = {
    "two-digits": two_digits, "three-digits": three_digits, "few": few, "countdown": countdown,
    "equal-compute": equal_compute, "failures": failures,
}  # fmt: skip


def draw(report: dict[str, Any], file: Path) -> None:
    """Draw the shares solved along every policy's run, and what learning demonstrations gives beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [name for name in ("two-digits", "three-digits", "few", "countdown") if name in report]
    figure, axes = pyplot.subplots(1, max(1, len(shown)), figsize=(3.4 * max(1, len(shown)), 3.2), squeeze=False)
    for name, axis in zip(shown, axes[0], strict=True):
        for seed, entry in report[name].items():
            found = entry["found"]
            policy = found.get("grpo") or found["grpo from 600"]
            start = found["start"] if "start" in found else found["sft by steps"]["600"]
            points = [(0, start["pass_at_1"][0]), *((point["step"], point["pass_at_1"]) for point in policy["curve"])]
            axis.plot(*zip(*points, strict=True), label=f"GRPO, {seed}")
            if "sft by steps" in found:
                best = max(each["pass_at_1"][0] for each in found["sft by steps"].values())
                axis.axhline(best, color="grey", linestyle="--", label="best of all lengths of SFT")
        axis.set(title=name.replace("-", " "), xlabel="steps of GRPO", ylim=(0, 1))
        axis.legend(fontsize=7, loc="lower right")
    axes[0][0].set_ylabel("held-out problems solved (pass@1)")
    figure.tight_layout()
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all, unless said")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept, and found again")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--picture", type=Path, help="where to draw the curves, such as docs/pictures/learning.png")
    arguments = parser.parse_args()
    wrong = [name for name in arguments.cases if name not in CASES]
    if wrong:
        parser.error(f"no case {wrong[0]!r}: use {', '.join(CASES)}")
    from clearseek.machine import describe

    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.cases or CASES:
        for seed in arguments.seeds:
            folder = arguments.folder / f"seed-{seed}"
            folder.mkdir(exist_ok=True)
            found = CASES[name](Ladder(folder, seed, arguments.threads))
            report = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
            entry = {"machine": describe() | {"threads": arguments.threads}, "found": found}
            report.setdefault(name, {})[f"seed {seed}"] = entry
            write_result(arguments.out, report)
            if arguments.picture is not None:
                draw(report, arguments.picture)


if __name__ == "__main__":
    main()
