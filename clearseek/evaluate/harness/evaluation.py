"""Tasks of lm-evaluation-harness in an evaluation's folder: a file for each, with the harness's own records in it.

A sample's score is the task's first metric that is a share (of its first filter), or the bits of a text that was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import clearseek
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Local
from clearseek.evaluate.evaluation import listed
from clearseek.evaluate.harness.tasks import Options, TaskResult, run_tasks
from clearseek.evaluate.records import Head, Index, Log, Record, file_name, write_index
from clearseek.evaluate.scores import BITS, SHARE

PREFIX = "harness:"
"""Begins the names of the harness's tasks in an evaluation."""
_BITS = "bits_per_byte"


def evaluate_tasks(
    answerer: Local, names: Sequence[str], options: Options, folder: Path, index: Index,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:  # fmt: skip
    """Run the harness's tasks on a model here, and add their records to the folder and its index.

    Raises UserError as :func:`clearseek.evaluate.harness.tasks.run_tasks`, and where a task has no score of a sample.
    """
    for result in run_tasks(answerer.loaded, names, options):
        name = PREFIX + result.task
        metric = _metric(result)
        records = [_recorded(number, each, metric) for number, each in enumerate(result.records)]
        head = Head(
            task=name, version=1, settings=_settings(result, options, metric), model=answerer.model,
            environment={"clearseek": clearseek.__version__, **answerer.environment,
                         "lm-eval": result.records[0]["versions"]["lm_eval"]},
            questions=len(records),
        )  # fmt: skip
        log = Log(folder / file_name(name), head)
        log.replace(records)
        index.tasks[name] = listed(log.path, head, records, log.chain)
        write_index(folder, index)
        if progress is not None:
            progress(name, len(records), len(records))


def _settings(result: TaskResult, options: Options, metric: tuple[str, str]) -> dict[str, Any]:
    chosen = {"num_fewshot": options.num_fewshot, "chat": options.chat, "generation": dict(options.generation)}
    return {
        "questions": options.limit, "version": result.version, "filter": metric[0], "metric": metric[1],
        "unit": BITS if metric[1] == _BITS else SHARE, "own": chosen, "task": result.config,
    }  # fmt: skip


def _metric(result: TaskResult) -> tuple[str, str]:
    """Filter and name of the metric that scores a sample. Raises UserError where none does."""
    if not result.records:
        raise UserError(f"{result.task}: no samples")
    first = result.records[0]["metrics"]
    for chosen, metrics in first.items():
        for name in metrics:
            if name == _BITS or all(_is_share(each["metrics"][chosen].get(name)) for each in result.records):
                return chosen, name
    shown = ", ".join(f"{name} of {chosen}" for chosen, metrics in first.items() for name in metrics)
    raise UserError(f"{result.task}: no metric scores each sample by a share or by bits: {shown or 'none at all'}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0.0 <= value <= 1.0


def _recorded(number: int, found: dict[str, Any], metric: tuple[str, str]) -> Record:
    value, first = found["metrics"][metric[0]][metric[1]], found["requests"][0]
    score = -float(value[0]) / math.log(2) + 0.0 if metric[1] == _BITS else float(value)
    return Record(
        question=number, name=f"{found['task']} {found['hashes']['doc']}", prompt=first["prompt"],
        prompt_ids=first.get("prompt_ids"), output=first["text"], output_ids=first.get("ids"),
        logprobs=first.get("logprobs"), answer=str(found["target"]), score=score if math.isfinite(score) else None,
        note="" if math.isfinite(score) else "a score that is no number", harness=found,
    )  # fmt: skip
