"""Scores of carried evaluations, as cards have them: a table, `model-index`, and `.eval_results` of the hub.

Hugging Face reads two forms. `model-index` stands in a card's metadata, for any task
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md). `.eval_results/*.yaml` is for data sets that are
registered as benchmarks on the hub alone, and feeds their leaderboards
(https://huggingface.co/docs/hub/eval-results). A `verifyToken` there comes from Hugging Face's own jobs: none is
written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from clearseek.evaluate.records import Head
from clearseek.evaluate.scores import BITS
from clearseek.evaluate.tasks import HARNESS
from clearseek.program import command
from clearseek.release.evaluations import Carried

_STORED: Final = {"F32": "fp32", "BF16": "bf16", "I8": "int8"}
"""How matrices were stored -> `--weights`."""


@dataclass(frozen=True)
class Benchmark:
    """A data set that is registered as a benchmark on the hub, and the task of ours that asks all of it."""

    id: str
    """The data set's, on the hub."""
    task_id: str
    """Of its `eval.yaml`."""
    name: str
    split: str
    questions: int
    """Of the split: a score of fewer is not the benchmark's."""


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    "harness:gsm8k": Benchmark("openai/gsm8k", "gsm8k", "GSM8K", "test", 1319),
}
"""Our task -> the benchmark.

The hub's documentation (above) names GSM8K, GPQA, MMLU-Pro and HLE as registered; every other data set must ask to be.
GPQA is left out, for which documentation and published results have different task ids (`gpqa_diamond` and `diamond`);
MMLU-Pro, which lm-evaluation-harness divides into fourteen tasks; and HLE, which it does not have.
"""


def table(each: Carried) -> list[str]:
    """Lines of the table of an evaluation's scores, in Markdown."""
    intervals = {"sampled": "95 %: questions like these", "fixed": "95 %: these questions"}
    if not any("fixed" in task.scores for task in each.index.tasks.values()):
        del intervals["fixed"]  # with one answer to each question nothing says how much an answer varies
    rows = [("task", "score", *intervals.values(), "questions", "samples", "missing")]
    for name, task in each.index.tasks.items():
        counts = (f"{task.scores[count]:,}" for count in ("questions", "samples", "missing"))
        shown = _shown(task.scores), *(_interval(task.scores, interval) for interval in intervals)
        rows.append((_text(name), *shown, *counts))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _text(name: str) -> str:
    """The name of anybody's task, of which no cell, link or tag comes."""
    return re.sub(r"[|\[`\\]", r"\\\g<0>", name).replace("<", "&lt;")


def _shown(said: Mapping[str, Any]) -> str:
    """A score as people read it."""
    if said["score"] is None:
        return "none"
    return f"{said['score']:.4f} {BITS}" if said["unit"] == BITS else f"{100 * said['score']:.1f} %"


def _interval(said: Mapping[str, Any], name: str) -> str:
    if not (ends := said.get(name)):
        return ""
    if said["unit"] == BITS:
        return f"{ends[0]:.4f} to {ends[1]:.4f}"
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def again(each: Carried, model: str, *more: str | Path, out: str = "") -> list[str]:
    """Commands that ask a model the same again, with `more` options; records go to `out`."""
    tasks: dict[tuple[str, ...], list[str]] = {}
    for name, head in each.heads.items():
        tasks.setdefault(tuple(_options(head)), []).append(_task(name, head.settings["own"]))
    return [
        command("evaluate", model, "--tasks", *names, *options, *more, "--out", out or f"evaluations/{each.name}")
        for options, names in tasks.items()
    ]


def _task(name: str, own: Any) -> str:
    """A task with its options as the command line takes them."""
    if name.startswith(HARNESS):
        return name
    chosen = {key: value for key, value in own.items() if (name, key) not in _FOUND}
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in chosen.items()}
    options = ",".join(f"{key}={value}" for key, value in words.items())
    return f"{name}:{options}" if options else name


_FOUND: Final = frozenset((("bits-per-byte", "text"), ("bits-per-byte", "sha256"), ("python", "grammar"),
                           ("reasoning-gym", "generator")))  # fmt: skip
"""Settings that say what was found, and are not chosen."""


def _options(head: Head) -> Iterator[str]:
    settings = head.settings
    if settings.get("questions") is not None:
        yield from ("--questions", str(settings["questions"]))
    if head.task.startswith(HARNESS):
        own: Any = settings["own"]
        yield from ("--few-shot", str(own["num_fewshot"])) * (own["num_fewshot"] is not None)
        yield from ("--template", "chat") * bool(own["chat"])
    else:
        yield from ("--seed", str(settings["seed"]))
    if "temperature" in settings:
        yield from ("--samples", str(head.samples)) * (head.samples > 1)
        yield from ("--temperature", str(settings["temperature"])) * (settings["temperature"] != 0)
        yield from ("--draws", str(settings["draws"])) * (settings.get("draws", 0) != 0)
        yield from ("--template", str(settings["template"])) * (settings["template"] != "plain")
    stored = _STORED.get(str(head.environment.get("weights stored as")), "fp32")
    yield from ("--weights", stored) * (stored != "fp32")
    yield from ("--device", "cuda") * (head.environment.get("device", "cpu") != "cpu")
    yield from ("--allow-code",) * (head.task == "human-eval")


def model_index(name: str, found: Sequence[Carried]) -> list[dict[str, Any]]:
    """The card's `model-index`: a result for each task that has a score; empty where none has.

    Args:
        name: The model's.
        found: The evaluations.
    """
    results = [
        _result(task, each.heads[task], listed.scores)
        for each in found
        for task, listed in each.index.tasks.items()
        if listed.scores.get("score") is not None
    ]
    return [{"name": name, "results": results}] if results else []


def _result(task: str, head: Head, said: Mapping[str, Any]) -> dict[str, Any]:
    benchmark = BENCHMARKS.get(task)
    if benchmark is not None:
        dataset: dict[str, Any] = {"type": benchmark.id, "name": benchmark.name, "split": benchmark.split}
    else:  # a data set is asked for, and questions that a generator makes are in none
        slug = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in task)
        dataset = {"type": f"clearseek-{slug}", "name": f"{task}, version {head.version} (ClearSeek)"}
    asked = {name: value for name, value in head.settings.items() if name not in ("stops", "task")}
    dataset["args"] = {"version": head.version, "samples": head.samples, **asked}
    kind = "bits_per_byte" if said["unit"] == BITS else "accuracy" if "right" in said else "mean_reward"
    metric = {"type": kind, "value": said["score"], "name": _measured(said), "args": _protocol(said)}
    return {"task": {"type": "text-generation", "name": task}, "dataset": dataset, "metrics": [metric]}


def _protocol(said: Mapping[str, Any]) -> dict[str, Any]:
    """Of how many questions and answers a score is, with its interval and how that was computed: for programs."""
    counted = {name: said[name] for name in ("questions", "samples", "missing")}
    if not said.get("sampled"):
        return counted
    method = "wilson" if "exact" in said else "clustered" if "fixed" in said else "bootstrap"
    return counted | {"confidence": said["confidence"], "interval": list(said["sampled"]), "method": method}


def _measured(said: Mapping[str, Any]) -> str:
    """What was measured, of how many questions and how surely, in words."""
    name = BITS if said["unit"] == BITS else "share right" if "right" in said else "mean reward"
    interval = f", 95 % interval {_interval(said, 'sampled')}" if said.get("sampled") else ""
    samples = f" with {said['samples']:,} answers each" if said["samples"] > 1 else ""
    missing = f", {said['missing']:,} more without an answer" if said["missing"] else ""
    return f"{name} of {said['questions']:,} questions{samples}{missing}{interval}"


def hub_results(found: Sequence[Carried]) -> dict[str, str]:
    """Path -> text of `.eval_results`, of registered benchmarks that were asked as a whole."""
    texts = {}
    for each in found:
        for task, listed in each.index.tasks.items():
            benchmark, said = BENCHMARKS.get(task), dict[str, Any](listed.scores)
            if benchmark is None or said["missing"] or said["questions"] != benchmark.questions:
                continue
            value = round(100 * said["score"], 2)  # leaderboards are in percent
            entry = {"dataset": {"id": benchmark.id, "task_id": benchmark.task_id}, "value": value,
                     "notes": f"lm-evaluation-harness in ClearSeek, {_measured(said)}"}  # fmt: skip
            path = f".eval_results/{benchmark.task_id}-{each.name}.yaml"
            texts[path] = as_yaml([entry])
    return texts


def as_yaml(value: Any) -> str:
    """YAML that keeps the order of keys, as the hub's own library writes it."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000))
