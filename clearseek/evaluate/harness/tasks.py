"""Tasks of lm-evaluation-harness, run on a model here: one record for each sample, with everything that it came of.

Tasks are found by name, first in a folder of one's own, then among those that come with the harness. Their data must be
here (files that a task names, or what Hugging Face's libraries have kept), unless downloads are allowed.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clearseek.errors import UserError, nearest
from clearseek.inference.model import Model, environment

if TYPE_CHECKING:
    from clearseek.evaluate.harness.adapter import EngineLM, Raw, Setup

Record = dict[str, Any]
RANDOM_SEED, FEW_SHOT_SEED = 0, 1234
"""The harness's own: of Python's random numbers, and of NumPy's, PyTorch's and the choice of few-shot examples."""

_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


@dataclass(frozen=True)
class Options:
    """How tasks are run."""

    include_path: Path | None = None
    """A folder with tasks of one's own, as YAML."""
    limit: int | None = None
    """Most samples of a task, from its beginning."""
    num_fewshot: int | None = None
    """Examples before each question, for tasks that do not fix their number at 0; the task's own number where None."""
    chat: bool = False
    """Whether prompts are conversations, by the model's template."""
    system: str | None = None
    """System text of the conversations, or text before the prompts."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Settings of generation over a task's own."""
    allow_download: bool = False
    """Whether data may be fetched."""


@dataclass(frozen=True)
class TaskResult:
    """A task that was run."""

    task: str
    version: str
    config: dict[str, Any]
    """The task's definition, as JSON values."""
    metrics: dict[str, float]
    """The harness's own means, by metric and filter, such as ``acc,none``."""
    records: list[Record]
    """One for each sample, in order."""


def evaluate_harness(
    model: Model, tasks: Sequence[str], options: Options | None = None, setup: Setup | None = None
) -> Iterator[Record]:
    """Records of all samples of tasks, as :func:`run_tasks` gives them."""
    for result in run_tasks(model, tasks, options, setup):
        yield from result.records


def run_tasks(
    model: Model, tasks: Sequence[str], options: Options | None = None, setup: Setup | None = None
) -> Iterator[TaskResult]:
    """Run tasks, one after the other.

    Args:
        model: The model, whose weights stored as FP32 give the numbers of the exported model to rounding.
        tasks: Names of tasks, groups or tags, or YAML files.
        options: How tasks are run.
        setup: How the model is asked.

    Raises:
        UserError: the extra is not installed, no task has such a name, its data or a package that it needs are not
            here, it runs code that a model wrote, or it asks for what the model or the engine does not have.
    """
    with opened(model, tasks, options or Options(), setup) as session:
        for name in session.tasks:
            yield session.run(name)


@dataclass(frozen=True)
class Session:
    """Tasks that were found, with a model to ask."""

    adapter: EngineLM
    tasks: dict[str, Any]
    """The harness's tasks, by name."""
    options: Options
    version: str
    """Of the harness."""

    def run(self, name: str) -> TaskResult:
        """Run a task."""
        return _run(self.adapter, name, self.tasks[name], self.options)


@contextmanager
def opened(model: Model, tasks: Sequence[str], options: Options, setup: Setup | None = None) -> Iterator[Session]:
    """Find tasks, for the length of a block, in which there is no network unless downloads are allowed."""
    version = _version()
    from clearseek.evaluate.harness.adapter import EngineLM
    from clearseek.evaluate.harness.offline import offline

    adapter = EngineLM(model, setup)
    with _quiet(), nullcontext() if options.allow_download else offline():
        yield Session(adapter, _load(tasks, options), options, version)


def _version() -> str:
    """Version of the harness. Raises UserError where it is not installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("lm-evaluation-harness is not installed: pip install 'clearseek[evaluate]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's remarks to errors, until the block ends."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# --- Finding tasks ----------------------------------------------------------------------------------------------------


def _load(names: Sequence[str], options: Options) -> dict[str, Any]:
    """Tasks by their names, with their data. Raises UserError for one that cannot be had."""
    if not names:
        raise UserError("no task: name at least one")
    manager = _manager(names, options.include_path)
    found: dict[str, Any] = {}
    for name in names:
        try:
            found |= manager.load([name])["tasks"]
        except ImportError as error:
            raise UserError(f"task {name} needs a package that is not here: {_told(error)}") from error
        except OSError as error:
            cure = "see whether they are there" if options.allow_download else "allow the download"
            raise UserError(
                f"task {name}: its data are not here: {_told(error)}: {cure}, or name files of your own"
            ) from error
        except Exception as error:  # a task is anybody's text and code
            raise UserError(
                f"task {name} cannot be loaded: {type(error).__name__}: {_told(error)}: see its definition"
            ) from error
    for name, task in found.items():
        _refuse_what_is_not_supported(name, task)
        _set(task, options)
    return found


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """What finds the tasks: of one's own folder alone where all are there, for reading the others takes seconds."""
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give the one with your tasks")
    own = TaskManager(include_path=folder, include_defaults=False) if folder is not None else None
    if own is not None and all(name in own.all_tasks for name in names):
        return own
    manager = TaskManager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks and not (name.endswith(".yaml") and Path(name).is_file()):
            raise UserError(f"no task is called {name!r}{nearest(name, manager.all_tasks)}")
    return manager


def _refuse_what_is_not_supported(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"task {name} runs code that the model writes, without a sandbox: leave it out")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"task {name} has pictures or sounds: this model reads text alone")


def _set(task: Any, options: Options) -> None:
    """Set few-shot examples and generation, by the rules of the harness's `simple_evaluate`."""
    stated = task.get_config("num_fewshot")
    if options.num_fewshot is not None and stated != 0:
        task.set_config(key="num_fewshot", value=options.num_fewshot)
    elif stated is None:
        task.set_config(key="num_fewshot", value=0)
    if options.generation and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(options.generation), update=True)
    task.set_fewshot_seed(seed=FEW_SHOT_SEED)


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


# --- Running one ------------------------------------------------------------------------------------------------------


def _run(adapter: EngineLM, name: str, task: Any, options: Options) -> TaskResult:
    import torch
    from lm_eval.evaluator import evaluate

    adapter.raw.clear()
    random.seed(RANDOM_SEED)
    np.random.seed(FEW_SHOT_SEED)
    torch.manual_seed(FEW_SHOT_SEED)
    results = evaluate(
        adapter, {"tasks": {name: task}}, limit=options.limit, bootstrap_iters=0, log_samples=True,
        apply_chat_template=options.chat, system_instruction=options.system, fewshot_as_multiturn=True,
    )  # fmt: skip
    metrics = {
        key: float(value) for key, value in results["results"][name].items()
        if "," in key and "_stderr" not in key and isinstance(value, int | float)
    }  # fmt: skip
    version = str(task.VERSION)
    records = _records(adapter, name, version, task, results["samples"][name])
    return TaskResult(name, version, _plain(task.dump_config()), metrics, records)


def _records(
    adapter: EngineLM, name: str, version: str, task: Any, samples: Sequence[Mapping[str, Any]]
) -> list[Record]:
    """One record for each document; what its filters gave, side by side."""
    instances = defaultdict(list)
    for instance in sorted(task.instances, key=lambda instance: instance.idx):
        instances[instance.doc_id].append(instance)
    versions = {"lm_eval": importlib.metadata.version("lm_eval"), **environment(adapter.model.packed)}
    found: dict[int, Record] = {}
    for sample in samples:
        identity = int(sample["doc_id"])
        if identity not in found:
            found[identity] = _plain(
                {
                    "task": name, "task_version": version, "doc_id": identity, "doc": sample["doc"],
                    "target": sample["target"], "few_shot": task.get_config("num_fewshot"),
                    "requests": [request for each in instances[identity] for request in _requests(adapter, each)],
                    "answers": {}, "metrics": {},
                    "hashes": {key: sample[f"{key}_hash"] for key in ("doc", "prompt", "target")},
                    "seeds": {"few_shot": FEW_SHOT_SEED, "draws": adapter.setup.seed},
                    "weights_sha256": adapter.model.weights_sha256, "versions": versions,
                }
            )  # fmt: skip
        key = sample["filter"]
        found[identity]["answers"][key] = _plain(sample["filtered_resps"])
        found[identity]["metrics"][key] = _plain({metric: sample[metric] for metric in sample["metrics"]})
    return [found[identity] for identity in sorted(found)]


def _requests(adapter: EngineLM, instance: Any) -> Iterator[Record]:
    """What was asked of the model, with its raw output; each repeat of it."""
    for raw in adapter.raw[id(instance)]:
        kind = instance.request_type
        asked = {"kind": kind, "prompt": instance.args[0] if kind != "loglikelihood_rolling" else ""}
        yield asked | _raw(instance, raw)


def _raw(instance: Any, raw: Raw) -> Record:
    if not isinstance(raw, list):
        settings = {key: getattr(raw.settings, key) for key in _SETTINGS}
        return {
            "prompt_ids": raw.prompt, "text": raw.text, "ids": raw.tokens, "logprobs": raw.logprobs,
            "finish": raw.finish, "settings": settings | {"until": raw.until},
        }  # fmt: skip
    parts = [
        {"prompt_ids": each.prompt, "ids": each.tokens, "logprobs": each.result.logp.tolist(),
         "greedy": bool(each.result.likeliest.all())}
        for each in raw
    ]  # fmt: skip
    if instance.request_type == "loglikelihood_rolling":
        return {"text": instance.args[0], "windows": parts}
    return {"text": instance.args[1], **parts[0]}


def _plain(value: Any) -> Any:
    """JSON values of what a task holds; what has none becomes text."""
    from lm_eval.utils import handle_non_serializable

    return json.loads(json.dumps(value, default=handle_non_serializable))
