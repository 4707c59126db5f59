"""Do the tests find faults? Plants the ones of `mutations/`, one at a time, and runs the tests that should notice.

``python benchmarks/mutate.py`` copies the tree to a temporary folder for each fault, replaces one text by another
there and runs the tests that should notice, up to the first failure. Faults go in a shuffled order, always the same, so
that what a run has reached is a sample of the whole table. ``--only train`` takes the faults whose place contains a
word, ``--part 2/3`` every third from the second on, ``--jobs 2`` runs two at once, and a table that was broken off is
gone on with: faults found before stay found, those that survived are tried again. Writes
``benchmarks/results/mutate.json``; the exit status says whether 95 % were found.

Libraries are imported once; each fault has a child process of its own, made by fork, in which the planted package is
imported. A child is ended after so much processor time that only an endless loop can take it; that counts as found.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mutations import FAULTS, TESTS
from record import write_result

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "mutate.json"
WANTED = 0.95
CPU_SECONDS = 400
DESCRIBE = "import json, clearseek.machine as m; print(json.dumps(m.describe()))"
"""Elsewhere: this process must not import what its children import with a fault in it."""
COPIED = (
    "clearseek", "tests", "recipes", "docs", "benchmarks", "cluster", "pyproject.toml", "README.md", "Makefile",
    "LICENSE", "CHANGELOG.md",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One text in one place, to be replaced by another."""

    place: str
    """File below `clearseek/`, and after a colon the function that the text is in, where that is needed."""
    old: str
    new: str
    what: str


@dataclass
class Outcome:
    """What became of a fault."""

    place: str
    what: str
    old: str
    new: str
    found: bool
    by: str
    """The first test that failed; empty where none did."""
    cpu_seconds: float


def faults() -> list[Fault]:
    """The table, one entry each."""
    return [Fault(place, *texts) for place, rows in FAULTS.items() for texts in rows]


def planted(fault: Fault, root: Path = ROOT) -> tuple[Path, str]:
    """A file, relative to the root, and its text with the fault. Raises ValueError where the table is out of date."""
    name, _, function = fault.place.partition(":")
    path = Path("clearseek", name)
    text = (root / path).read_text(encoding="utf-8")
    first, last = (0, len(text)) if not function else _span(text, function)
    if text.count(fault.old, first, last) != 1:
        raise ValueError(f"{fault.place}: {text.count(fault.old, first, last)} times in it: {fault.old!r}")
    changed = text[:first] + text[first:last].replace(fault.old, fault.new) + text[last:]
    ast.parse(changed)
    return path, changed


def stale() -> list[str]:
    """What of the table does not fit the code: texts that are not there once, and tests that do not exist."""
    wrong = []
    for fault in faults():
        try:
            planted(fault)
            missing = [test for test in tests_of(fault) if not (ROOT / "tests" / test).exists()]
        except (ValueError, SyntaxError, OSError) as error:
            wrong.append(f"{fault.place}: {error}")
        else:
            wrong += [f"{fault.place}: there is no tests/{test}" for test in missing]
    return wrong + [f"TESTS: there is no {place}" for place in TESTS if not _exists(place)]


@lru_cache(maxsize=8)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _exists(place: str) -> bool:
    return (ROOT / "clearseek" / place.partition(":")[0]).exists()


def _span(text: str, function: str) -> tuple[int, int]:
    """Where a function stands in a file: ``name`` or ``Class.name``."""
    body: list[ast.stmt] = _parsed(text).body
    node: Any = None
    for name in function.split("."):
        found = [each for each in body if getattr(each, "name", None) == name]
        if not found:
            raise ValueError(f"there is no {function}")
        node = found[0]
        body = node.body
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: node.lineno - 1])), sum(map(len, lines[: node.end_lineno]))


class FirstFailure:
    """A pytest plugin that writes down the first test to fail, and runs one case of each test before the others."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        again, seen = dict[Any, bool](), set[Any]()
        for item in items:
            test = item.parent, getattr(item, "originalname", item.name)
            again[item] = test in seen
            seen.add(test)
        items.sort(key=again.__getitem__)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.file.exists():
            self.file.write_text(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.file.exists():
            self.file.write_text(f"{report.nodeid} (import)")


def start(tree: Path, tests: Sequence[str]) -> int:
    """Run test files of a tree in a child process; returns its id."""
    child = os.fork()
    if child:
        return child
    log = os.open(tree / "log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    os.chdir(tree)
    sys.path[0] = os.environ["PYTHONPATH"] = str(tree)
    vars(sys.modules["__main__"]).pop("__file__")  # or processes that tests start would import this program
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not net", "--tb=short"]
    code = 0
    for test in tests:  # file by file, so that those behind the first failure are not even imported
        code = code or int(pytest.main([*options, f"tests/{test}"], plugins=[FirstFailure(tree / "failed.txt")]))
    import clearseek

    if not Path(clearseek.__file__).is_relative_to(tree):
        code = 99
    sys.stdout.flush()
    os._exit(code)


def copy_of(root: Path) -> Path:
    """The tree without its history, in a temporary folder."""
    tree = Path(tempfile.mkdtemp(prefix="fault-")).resolve()
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    return tree


def run(todo: list[Fault | str], jobs: int) -> Iterator[tuple[Fault | str, int, str, float]]:
    """Outcomes as they come: (fault, or a test file on the tree as it is; exit status, failed test, seconds)."""
    begun = copy_of(ROOT)  # what is edited meanwhile counts next time
    try:
        yield from _run(todo, jobs, begun)
    finally:
        shutil.rmtree(begun)


def _run(todo: list[Fault | str], jobs: int, begun: Path) -> Iterator[tuple[Fault | str, int, str, float]]:
    waiting, running = list(todo), dict[int, tuple[Fault | str, Path]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            each = waiting.pop(0)
            tree = copy_of(begun)
            if isinstance(each, Fault):
                path, text = planted(each, tree)
                (tree / path).write_text(text, encoding="utf-8")
            running[start(tree, [each] if isinstance(each, str) else tests_of(each))] = each, tree
        child, status, usage = os.wait4(-1, 0)
        each, tree = running.pop(child)
        failed = tree / "failed.txt"
        name = failed.read_text() if failed.exists() else ""
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, 1, 2) and not (code < 0 and isinstance(each, Fault)):
            raise SystemExit(f"{each}: the tests did not run: see {tree}/log.txt")
        shutil.rmtree(tree)
        yield each, code, name, usage.ru_utime + usage.ru_stime


def tests_of(fault: Fault) -> tuple[str, ...]:
    """The test files that should notice."""
    return TESTS[max((start for start in TESTS if fault.place.startswith(start)), key=len)]


def save(outcomes: dict[Fault, Outcome], sound: dict[str, str]) -> None:
    """Write what is known so far, with what another process may have found out meanwhile."""
    others, others_sound = load()
    outcomes, sound = others | outcomes, others_sound | sound
    known = [outcomes[fault] for fault in faults() if fault in outcomes]
    content = {
        "table": len(faults()),
        "planted": len(known),
        "found": sum(outcome.found for outcome in known),
        "survived": [f"{outcome.place}: {outcome.what}" for outcome in known if not outcome.found],
        "tests_pass_without_faults": dict(sorted(sound.items())),
        "faults": [asdict(outcome) for outcome in known],
    }
    write_result(RESULT, content, machine())


@cache
def machine() -> Any:
    """What ran the tests."""
    return json.loads(subprocess.check_output([sys.executable, "-c", DESCRIBE]))


def load() -> tuple[dict[Fault, Outcome], dict[str, str]]:
    """Outcomes of an earlier run for the faults that are still in the table; test files that pass, with their hash."""
    if not RESULT.exists():
        return {}, {}
    content = json.loads(RESULT.read_text())
    earlier = [Outcome(**row) for row in content["faults"]]
    known = {Fault(each.place, each.old, each.new, each.what): each for each in earlier}
    return {fault: known[fault] for fault in faults() if fault in known}, content["tests_pass_without_faults"]


def _sha256(test: str) -> str:
    return hashlib.sha256((ROOT / "tests" / test).read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose place contains this word")
    parser.add_argument("--part", default="1/1", help="K/N: every N-th of these from the K-th on")
    parser.add_argument("--jobs", type=int, default=1, help="children at once")
    parser.add_argument("--again", action="store_true", help="forget earlier outcomes of the chosen faults")
    parser.add_argument("--check", action="store_true", help="only see whether the table fits the code")
    options = parser.parse_args()
    table = faults()
    if wrong := stale():
        raise SystemExit("The table does not fit the code:\n" + "\n".join(wrong))
    print(f"{len(table)} faults")
    if options.check:
        return 0
    outcomes, sound = load()
    part, of = map(int, options.part.split("/"))
    shuffled = random.Random(0).sample(table, len(table))
    wanted = [fault for fault in shuffled if options.only in fault.place]
    chosen = wanted[part - 1 :: of]
    todo: list[Fault | str] = [f for f in chosen if options.again or not (f in outcomes and outcomes[f].found)]
    outcomes = {fault: outcomes[fault] for fault in chosen if fault in outcomes and fault not in todo}
    files = sorted({file for fault in wanted for file in tests_of(fault)})[part - 1 :: of]
    unsure = [file for file in files if options.again or sound.get(file) != _sha256(file)]
    import_libraries()
    for each, code, name, seconds in run([*unsure, *todo], options.jobs):
        if isinstance(each, str):
            if code:
                raise SystemExit(f"{each}: {name} fails without a fault")
            sound[each] = _sha256(each)
            print(f"{each} passes without a fault ({seconds:.0f} s)", flush=True)
        else:
            by = name if code >= 0 else f"{CPU_SECONDS} s of processor time"
            outcomes[each] = Outcome(each.place, each.what, each.old, each.new, code != 0, by, round(seconds, 1))
            word = f"found by {by}" if code else "SURVIVED"
            print(f"{each.place}: {each.what}: {word} ({seconds:.0f} s)", flush=True)
        save(outcomes, sound)
    outcomes = load()[0]
    found = sum(outcome.found for outcome in outcomes.values())
    print(f"{found} of {len(outcomes)} found; the table has {len(table)}")
    return 0 if found >= WANTED * len(table) else 1


def import_libraries() -> None:
    """What every child needs, once. No module of ClearSeek is among them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import hypothesis  # noqa: F401
    import matplotlib  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import rich.live  # noqa: F401
    import safetensors.torch  # noqa: F401
    import tokenizers  # noqa: F401
    import torch

    for name in ("deepseek_v2", "deepseek_v3"):
        with suppress(ImportError):
            import_module(f"transformers.models.{name}.modeling_{name}")
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


if __name__ == "__main__":
    sys.exit(main())
