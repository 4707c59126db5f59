"""Seconds of training to the same held-out bits per byte: ClearSeek's mixture of experts against its peers.

Same text, tokenizer, batches, machine and threads (`contest.py`). The contenders (`contenders.py`, `peer_trainer.py`):

- ``clearseek``: the recipe's model without its MTP module, which the peer cannot train, under Muon;
- ``dense twin``: the same with dense layers, as many active parameters, the same optimiser;
- ``transformers``: transformers' DeepSeek-V3 of ClearSeek's shapes, its Trainer, AdamW;
- ``dense gpt``: a dense GPT by nanochat's recipe (`dense_gpt.py`), as many active parameters.

Each is first run in every setting that it has (attention, experts, type, compiler), and keeps its fastest. Its peak
rates are tuned by the same sweep: four factors, two apart, at a quarter of the seconds, and where the best is the first
or the last, the next beyond, twice at most. Then each trains for a quarter, a half and all of the seconds, each time
with a whole schedule of rates, from several seeds. Processes work by turns, a slice of seconds each. Counted are the
seconds between the first step's begin and the last one's end, without compiling, setting up and evaluating.

Of two contenders the worse one's bits per byte after all seconds are the target. When each reaches it is read off its
three runs, on straight lines over the logarithm of seconds; a target that the shortest run reached gives a bound.

``python benchmarks/time_to_loss.py --folder DIR --text tinyshakespeare.txt`` goes on where it was interrupted, and
writes ``benchmarks/results/time_to_loss.json``. It needs transformers, accelerate and, for compiled peers, a C++
compiler.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from record import write_result
from turns import Side

from clearseek.data.shards import prepare_data
from clearseek.files import write_atomic
from clearseek.machine import describe
from clearseek.recipe import load_recipe

HERE = Path(__file__).parent
RESULT = HERE / "results" / "time_to_loss.json"
NAMES = ("clearseek", "dense twin", "transformers", "dense gpt")
BARS = {"dense twin": 1.3, "transformers": 3.0, "dense gpt": 1.3}
CORPORA = {"shakespeare": "shakespeare", "stdlib": "quickstart-small"}
"""Corpus -> the shipped recipe whose data, dimensions and batch it is."""
SHORT = (
    "train.batch_size=16", "train.bias_update_speed=0.01", "train.bias_update_until=1.0",
    "train.balance_loss_weight=1e-3", 'optimizer.schedule=[{shape="linear", until=0.05, to=1.0}, '
    '{shape="constant", until=0.4, to=1.0}, {shape="linear", until=1.0, to=0.02}]',
)  # fmt: skip
"""What quickstart-small has and shakespeare has not: more steps of fewer tokens, and experts that settle sooner."""
FACTORS = (0.5, 1.0, 2.0, 4.0)
"""Factors on each contender's peak rates that everybody tries."""
SHARES = (0.25, 0.5, 1.0)
"""Lengths of runs, as shares of the seconds."""
TRIED, UNCOUNTED = 16, 6
"""Steps by which a setting's speed is measured, and how many first ones do not count: kernels are compiled in them."""


class Record:
    """What has been measured, kept in a file after every run."""

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        self.file = file
        self.found: dict[str, Any] = {"settings": settings, "corpora": {}}
        if file.is_file():
            self.found = json.loads(file.read_text(encoding="utf-8"))
            if self.found["settings"] != settings:
                raise SystemExit(f"{file}: measured with {self.found['settings']}: give the same, or another --folder")

    def corpus(self, name: str) -> dict[str, Any]:
        """Measurements of a corpus by contender."""
        empty: dict[str, Any] = {"contenders": {each: {"sweep": {}, "runs": {}} for each in NAMES}}
        found: dict[str, Any] = self.found["corpora"].setdefault(name, empty)
        return found

    def keep(self) -> None:
        """Write it."""
        write_atomic(self.file, json.dumps(self.found, indent=1).encode())


class Progress:
    """Lines with the time that is left, from the seconds of training that are."""

    def __init__(self, planned: float) -> None:
        self.planned, self.done, self.trained, self.took = planned, 0.0, 0.0, 0.0
        self.began = time.monotonic()

    def tell(self, what: str) -> None:
        """Print a line."""
        gone = time.monotonic() - self.began
        left = max(0.0, self.planned - self.done) * (self.took / self.trained if self.trained else 1.2)
        print(f"[{gone / 60:5.1f} min, about {left / 60:.0f} left] {what}", flush=True)

    def add(self, seconds: float, took: float | None = None) -> None:
        """Count planned seconds of training as done, in so many seconds in all, or as found in the record."""
        self.done += seconds
        if took is not None:
            self.trained += seconds
            self.took += took


def by_turns(
    sides: Mapping[str, Side], asked: Mapping[str, dict[str, Any]], slice_: float
) -> dict[str, dict[str, Any]]:
    """Train several contenders, a slice of seconds each in turn; what each says at its end, with its bits per byte."""
    answers: dict[str, dict[str, Any]] = {}
    for name, request in asked.items():
        sides[name].ask(do="run", **request)
    cpu = dict.fromkeys(asked, 0.0)
    while len(answers) < len(asked):
        for name in asked:
            if name not in answers:
                answer = sides[name].ask(seconds=slice_)
                cpu[name] += answer["cpu"]
                if answer["finished"]:
                    answers[name] = answer | {"cpu_seconds": cpu[name]}
    for name, answer in answers.items():
        answer["bpb"] = sides[name].ask(do="evaluate")["bpb"] if answer["finite"] else None
    return answers


def settle(side: Side, found: dict[str, Any]) -> None:
    """Find the fastest setting of a contender, and its seconds a step; compiled in the fastest type alone."""
    settings = sorted(side.facts.pop("settings"), key=lambda setting: setting.get("compiled", False))
    if "setting" in found:
        return
    tried = list[dict[str, Any]]()
    for setting in settings:
        if setting.get("compiled") and setting["precision"] != _fastest(tried)["setting"]["precision"]:
            continue
        request = {"setting": setting, "steps": TRIED, "factor": 0.01, "seed": 0}
        answer = by_turns({side.name: side}, {side.name: request}, math.inf)[side.name]
        tried.append({"setting": setting, "seconds_per_step": statistics.median(answer["times"][UNCOUNTED:])})
        print(f"    {side.name} {setting}: {tried[-1]['seconds_per_step']:.3f} s a step", flush=True)
    found |= side.facts | _fastest(tried) | {"tried": tried}


def _fastest(tried: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return min(tried, key=lambda each: each["seconds_per_step"])


class Measurement:
    """The sweep and the runs of one corpus."""

    def __init__(self, corpus: str, sides: Mapping[str, Side], record: Record, progress: Progress,
                 arguments: argparse.Namespace) -> None:  # fmt: skip
        self.corpus, self.sides, self.record, self.progress, self.arguments = corpus, sides, record, progress, arguments
        self.found: dict[str, dict[str, Any]] = record.corpus(corpus)["contenders"]

    def run(self, share: float, factors: Mapping[str, float], seed: int, kind: str, key: str) -> None:
        """Train all that are named for a share of the seconds, where the record does not have it yet."""
        seconds = share * self.arguments.seconds
        missing = {name: factor for name, factor in factors.items() if key.format(factor) not in self.found[name][kind]}
        self.progress.add(seconds * (len(factors) - len(missing)))
        if not missing:
            return
        asked, began = dict[str, dict[str, Any]](), time.monotonic()
        for name, factor in missing.items():
            own = self.found[name]
            steps = max(2, round(seconds / own["seconds_per_step"]))
            asked[name] = {"setting": own["setting"], "steps": steps, "factor": factor, "seed": seed}
        for name, answer in by_turns(self.sides, asked, self.arguments.slice).items():
            kept = {key: answer[key] for key in ("steps", "seconds", "cpu_seconds", "bpb")}
            self.found[name][kind][key.format(missing[name])] = {
                "factor": missing[name],
                "share": share,
                "seed": seed,
            } | kept
        self.progress.add(seconds * len(missing), time.monotonic() - began)
        self.record.keep()
        shown = ", ".join(
            f"{name} {_bits(self.found[name][kind][key.format(f)]['bpb'])}" for name, f in missing.items()
        )
        self.progress.tell(f"{self.corpus}, {kind}, {seconds:.1f} s, seed {seed}: {shown}")

    def sweep(self) -> None:
        """Tune everybody's rates."""
        for factor in FACTORS:
            self.run(SHARES[0], dict.fromkeys(NAMES, factor), 0, "sweep", "{}")
        for _ in range(2):
            beyond = {name: next_ for name in NAMES if (next_ := self._beyond(name)) is not None}
            if beyond:
                self.progress.planned += SHARES[0] * self.arguments.seconds * len(beyond)
                self.run(SHARES[0], beyond, 0, "sweep", "{}")

    def _beyond(self, name: str) -> float | None:
        """The next factor to try, where the best is at an end of what was tried."""
        tried = sorted(each["factor"] for each in self.found[name]["sweep"].values())
        best = self.best(name)
        return best / 2 if best == tried[0] else 2 * best if best == tried[-1] else None

    def best(self, name: str) -> float:
        """The factor with the fewest bits per byte."""
        tried = self.found[name]["sweep"].values()
        factor: float = min(tried, key=lambda each: math.inf if each["bpb"] is None else each["bpb"])["factor"]
        return factor

    def runs(self) -> None:
        """Train for all lengths from all seeds."""
        factors = {name: self.best(name) for name in NAMES}
        for name, factor in factors.items():
            self.found[name]["factor"] = factor
        for seed in range(1, self.arguments.seeds + 1):
            for share in SHARES:
                self.run(share, factors, seed, "runs", f"seed {seed}, {share} of the seconds")


def _bits(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def curve(found: Mapping[str, Any], seed: int) -> list[tuple[float, float]]:
    """Seconds and bits per byte of a contender's runs from a seed, the shortest first."""
    runs = sorted((run for run in found["runs"].values() if run["seed"] == seed), key=lambda run: run["share"])
    return [(run["seconds"], math.inf if run["bpb"] is None else run["bpb"]) for run in runs]


def reached(points: Sequence[tuple[float, float]], target: float) -> tuple[float, bool]:
    """Seconds after which a target is reached, and whether they are only an upper bound; infinite where never."""
    if points[0][1] <= target:
        return points[0][0], True
    for (before, worse), (after, better) in pairwise(points):
        if better <= target:
            part = (worse - target) / (worse - better) if math.isfinite(worse) else 1.0
            return before * (after / before) ** part, False
    return math.inf, False


def compare(found: Mapping[str, Any], other: str, seeds: int) -> dict[str, Any]:
    """How much sooner ClearSeek is where another contender is, by seed."""
    ratios, targets, bounds = [], [], []
    for seed in range(1, seeds + 1):
        ours, theirs = curve(found["clearseek"], seed), curve(found[other], seed)
        target = max(ours[-1][1], theirs[-1][1])
        (soon, bound), (late, also) = reached(ours, target), reached(theirs, target)
        ratios.append(late / soon)
        targets.append(target)
        bounds.append("unknown" if bound and also else "at least" if bound else "at most" if also else "")
    return {
        "times_sooner": ratios, "bound": bounds, "median": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)], "target_bpb": targets, "bar": BARS[other],
        "met": min(ratios) >= BARS[other] and {"", "at least"}.issuperset(bounds),
    }  # fmt: skip


def report(record: Record, corpora: Sequence[str], arguments: argparse.Namespace) -> None:
    """Print the comparisons, and write them with all that was measured."""
    found = record.found
    for corpus in corpora:
        contenders = found["corpora"][corpus]["contenders"]
        print(f"{corpus}: held-out bits per byte after {', '.join(f'{s * arguments.seconds:g}' for s in SHARES)} s")
        for name in NAMES:
            runs = contenders[name]["runs"].values()
            for share in SHARES:
                bits = [math.inf if run["bpb"] is None else run["bpb"] for run in runs if run["share"] == share]
                print(f"  {name:14}" * (share == SHARES[0]) + f"  {statistics.median(bits):.4f} "
                      f"({min(bits):.4f} to {max(bits):.4f})", end="")  # fmt: skip
            print(f"  rates x {contenders[name]['factor']:g}")
        others = {other: compare(contenders, other, arguments.seeds) for other in BARS}
        found["corpora"][corpus]["clearseek_sooner_than"] = others
        for other, each in others.items():
            low, high = each["spread"]
            bound = "".join(f"{word} " for word in sorted(set(each["bound"])) if word)
            print(f"  ClearSeek is where {other} is {bound}{each['median']:.2f} times sooner ({low:.2f} to {high:.2f}; "
                  f"bar {each['bar']}: {'met' if each['met'] else 'missed'})")  # fmt: skip
    write_result(arguments.out, found, describe() | {"threads": arguments.threads})


def prepare(corpus: str, folder: Path, arguments: argparse.Namespace) -> str:
    """Make a corpus's data and the contest's description, where they are missing; the data's fingerprint."""
    changes = [f"train.threads={arguments.threads}", "model.num_nextn_predict_layers=0"]
    if corpus == "shakespeare":
        changes += [f"data.paths={json.dumps([str(arguments.text)])}", *SHORT]
    recipe = load_recipe(CORPORA[corpus], changes)
    folder.mkdir(parents=True, exist_ok=True)
    contest = {"recipe": CORPORA[corpus], "changes": changes, "windows": arguments.windows}
    write_atomic(folder / "contest.json", json.dumps(contest).encode())
    manifest = folder / "data" / "manifest.json"
    if not manifest.is_file():
        print(f"{corpus}: preparing data", flush=True)
        prepare_data(recipe.data, recipe.model.vocab_size, folder / "data")
    fingerprint: str = json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"]
    return fingerprint


def measure(corpus: str, record: Record, progress: Progress, arguments: argparse.Namespace) -> None:
    """All that one corpus asks for."""
    folder = arguments.folder / corpus
    found = record.corpus(corpus)
    found |= {"recipe": CORPORA[corpus], "data_fingerprint": prepare(corpus, folder, arguments)}
    program = [sys.executable, str(HERE / "contenders.py")]
    sides = {}
    for name in NAMES:
        log = folder / f"{name.replace(' ', '-')}.log"
        sides[name] = Side(name, [*program, name, str(folder)], arguments.threads, log)
        sides[name].ready()
        settle(sides[name], found["contenders"][name])
        record.keep()
    measurement = Measurement(corpus, sides, record, progress, arguments)
    measurement.sweep()
    measurement.runs()
    for side in sides.values():
        side.close()


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where data and measurements are kept")
    parser.add_argument("--text", type=Path, default=Path("tinyshakespeare.txt"), help="tinyshakespeare's file")
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--seconds", type=float, default=20.0, help="training seconds of the longest runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slice", type=float, default=3.0, help="seconds of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=256, help="held-out windows, spread evenly")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if importlib.util.find_spec("accelerate") is None or importlib.util.find_spec("transformers") is None:
        parser.error("transformers' Trainer is a contender: pip install transformers accelerate")
    if "shakespeare" in arguments.corpora and not arguments.text.is_file():
        parser.error(f"--text {arguments.text}: no such file: give tinyshakespeare's, or --corpora stdlib")
    arguments.text = arguments.text.resolve()
    return arguments


def main() -> None:
    arguments = options()
    names = ("seconds", "seeds", "slice", "threads", "windows")
    record = Record(arguments.folder / "measured.json", {name: getattr(arguments, name) for name in names})
    each = SHARES[0] * len(FACTORS) + sum(SHARES) * arguments.seeds
    progress = Progress(each * len(NAMES) * len(arguments.corpora) * arguments.seconds)
    progress.tell(f"{progress.planned:,.0f} s of training")
    for corpus in arguments.corpora:
        measure(corpus, record, progress, arguments)
    report(record, arguments.corpora, arguments)


if __name__ == "__main__":
    main()
