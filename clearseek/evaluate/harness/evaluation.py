"""Tasks of lm-evaluation-harness in an evaluation's folder: a file for each, with the harness's own records in it.

A sample's score is the task's first metric that is a share (of its first filter), or the bits of a text that was read.
Its output is the likeliest of several choices.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import clearseek
from clearseek.errors import UserError
from clearseek.evaluate.answerers import Local
from clearseek.evaluate.evaluation import listed
from clearseek.evaluate.harness.tasks import FEW_SHOT_SEED, Options, TaskResult, opened
from clearseek.evaluate.records import Head, Index, Log, Record, file_name, identity_of, read_records, write_index
from clearseek.evaluate.scores import BITS, SHARE
from clearseek.evaluate.tasks import HARNESS

_BITS = "bits_per_byte"
_DECIDES = (
    "dataset_path", "dataset_name", "output_type", "test_split", "validation_split", "fewshot_split", "doc_to_text",
    "doc_to_target", "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter", "process_docs",
    "process_results", "num_fewshot", "fewshot_config", "generation_kwargs", "repeats", "filter_list", "metric_list",
)  # fmt: skip
"""Parts of a task's definition that decide prompts and scores; the place of its data on this machine is not one."""


def evaluate_tasks(
    answerer: Local, names: Sequence[str], options: Options, folder: Path, index: Index,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:  # fmt: skip
    """Run the harness's tasks on a model here, and add their records to the folder and its index.

    A task whose file is whole is not run again. Raises UserError as
    :func:`clearseek.evaluate.harness.tasks.run_tasks`, and where a task has no score of a sample.
    """
    with opened(answerer.loaded, names, options) as session:
        made_by = {"clearseek": clearseek.__version__, **answerer.environment, "lm-eval": session.version}
        for name, task in session.tasks.items():
            documents = list(task.eval_docs)[: options.limit]
            settings = _settings(task, documents, options)
            head = Head(
                task=HARNESS + name, version=1, settings=settings, model=identity_of(answerer.model),
                environment=made_by,
                questions=len(documents),
            )  # fmt: skip
            path = folder / file_name(head.task)
            if (found := _finished(path, head)) is None:
                found = _run(path, head, session.run(name))
            index.tasks[head.task] = listed(path, *found)
            write_index(folder, index)
            if progress is not None:
                progress(head.task, len(documents), len(documents))


def _run(path: Path, head: Head, result: TaskResult) -> tuple[Head, list[Record], str]:
    """Keep a result; head, records and last hash of its file."""
    filtered, metric = _metric(result)
    chosen = {"filter": filtered, "metric": metric, "unit": BITS if metric == _BITS else SHARE}
    head = head.model_copy(update={"settings": {**head.settings, **chosen}})
    log = Log(path, head)
    log.replace([_recorded(number, each, (filtered, metric)) for number, each in enumerate(result.records)])
    return head, log.records, log.chain


def _finished(path: Path, head: Head) -> tuple[Head, list[Record], str] | None:
    """Head, records and last hash of a file that holds all of what is asked, whatever the score is of."""
    if not path.is_file():
        return None
    try:
        stated, records, chain = read_records(path)
    except UserError:  # torn by a kill, or changed: it is made again
        return None
    chosen = {key: stated.settings[key] for key in ("filter", "metric", "unit") if key in stated.settings}
    same = stated == head.model_copy(update={"settings": {**head.settings, **chosen}})
    return (stated, records, chain) if same and len(records) == head.questions else None


def _settings(task: Any, documents: Sequence[Any], options: Options) -> dict[str, Any]:
    """All that decides prompts, answers and scores, the choice of a metric left out."""
    text = json.dumps(task.dump_config(), default=str)
    config = json.loads(re.sub(r" at 0x[0-9a-f]+", "", text))  # of functions whose source is not known
    documents_text = json.dumps(documents, sort_keys=True, default=str)
    own = {"num_fewshot": options.num_fewshot, "chat": options.chat, "system": options.system,
           "generation": dict(options.generation)}  # fmt: skip
    return {
        "questions": options.limit, "version": str(task.VERSION), "own": own, "few_shot_seed": FEW_SHOT_SEED,
        "documents_sha256": hashlib.sha256(documents_text.encode()).hexdigest(),
        "task": {key: config[key] for key in _DECIDES if config.get(key) is not None},
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
    main = _main(found["requests"])
    parts = main.get("windows", [main])
    ids, logprobs = ([*itertools.chain(*(part[key] for part in parts))] for key in ("ids", "logprobs"))
    score = _score(found, metric)
    return Record(
        question=number, name=f"{found['task']} {number} {found['hashes']['doc']}", prompt=main["prompt"],
        prompt_ids=parts[0]["prompt_ids"] if parts else [], output=main["text"], output_ids=ids, logprobs=logprobs,
        ended=main.get("finish", "stop") == "stop", seed=main.get("settings", {}).get("seed", 0),
        answer=str(found["target"]), score=score if math.isfinite(score) else None,
        note="" if math.isfinite(score) else "a score that is no number", harness=found,
    )  # fmt: skip


def _main(requests: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The likeliest choice; else the only request, or the first of its repeats."""
    return max(requests, key=lambda each: math.fsum(each["logprobs"]) if each["kind"] == "loglikelihood" else 0.0)


def _score(found: Mapping[str, Any], metric: tuple[str, str]) -> float:
    value = found["metrics"][metric[0]][metric[1]]
    return -float(value[0]) / math.log(2) + 0.0 if metric[1] == _BITS else float(value)


def harness_faults(head: Head, records: Sequence[Record]) -> Iterator[tuple[int, str]]:
    """Lines of a task of the harness that contradict themselves, with how; nothing of another task.

    Whether the harness would ask and score the same, only the harness can say, with the task's data.
    """
    if not head.task.startswith(HARNESS):
        return
    metric = str(head.settings.get("filter")), str(head.settings.get("metric"))
    for number, record in enumerate(records):
        try:
            what = _contradiction(number, record, metric)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            what = f"not what the harness gives: {type(error).__name__}: {error}"
        if what:
            yield number + 2, what
    if len(records) != head.questions:
        yield 1, f"{len(records):,} records of {head.questions:,}"


def _contradiction(number: int, record: Record, metric: tuple[str, str]) -> str:
    found: dict[str, Any] = record.harness or {}
    if record != _recorded(number, found, metric):
        return "its prompt, output or score is not that of what the harness measured"
    stated = found["metrics"][metric[0]][metric[1]]
    if metric[1] == _BITS and not math.isclose(math.fsum(record.logprobs or ()), stated[0], rel_tol=1e-9):
        return "bits that its log-probabilities do not give"
    weighed = _weighed(found, metric[0])
    for each, total in zip(found["requests"], weighed, strict=False):
        if not math.isclose(math.fsum(each["logprobs"]), total, rel_tol=1e-9):
            return f"{total} as log-likelihood of {each['text']!r:.40}, whose tokens have another"
    mutual = "acc_mutual_info" in found["metrics"][metric[0]]  # its requests are twice as many
    one = len({each["prompt"] for each in found["requests"]}) == 1
    if metric[1] == "acc" and weighed and one and type(found["target"]) is int and not mutual:
        right = weighed.index(max(weighed)) == found["target"]
        return "" if stated == float(right) else f"score {stated}, where log-likelihoods and target say otherwise"
    return ""


def _weighed(found: Mapping[str, Any], filtered: str) -> list[float]:
    """Log-likelihoods of all choices as a filter gives them; none where the task is another."""
    answers = found["answers"][filtered]
    chosen = len(answers) == len(found["requests"]) and all(
        each["kind"] == "loglikelihood" for each in found["requests"]
    )
    plain = chosen and all(isinstance(each, list) and len(each) == 2 for each in answers)
    return [each[0] for each in answers] if plain and all(type(each[0]) is float for each in answers) else []
