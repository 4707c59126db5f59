"""``clearseek audit``: how open a release is, from its bytes."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clearseek.cli.exits import FAILED
from clearseek.errors import UserError, nearest

if TYPE_CHECKING:
    from clearseek.audit.evidence import Audit, Grade, Question
    from clearseek.reading.source import Source
    from clearseek.signing.hashing import Progress

_HALVES: Final = re.compile("[\ud800-\udfff]")


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek audit my-model --format html --out audit.html\n"
        "  clearseek audit one other --compare\n"
        "  clearseek audit my-model --require licence.weights=E3   (else exit code 1)"
    )
    parser.add_argument("releases", nargs="+", metavar="RELEASE",
                        help="folder of a release, or a repository on the hub: owner/name or "
                        "owner/name@revision")  # fmt: skip
    parser.add_argument("--name", help="the model's name, where its card names several or none")
    parser.add_argument("--compare", action="store_true", help="put several releases side by side")
    parser.add_argument("--all", action="store_true",
                        help="show also rows that have nothing to show; with --compare, those alike")  # fmt: skip
    parser.add_argument("--evidence", action="store_true", help="show where each finding can be seen")
    parser.add_argument("--format", default="text", metavar="FORM",
                        help="text (default), json, markdown or html, or for other tools: cyclonedx, spdx, croissant, "
                        "mot, european-index",
                        choices=("text", "json", "markdown", "html", "cyclonedx", "spdx", "croissant", "mot",
                                 "european-index"))  # fmt: skip
    parser.add_argument("--out", type=Path, help="file to write instead of standard output")
    parser.add_argument("--no-hash", action="store_true", help="do not hash the files: faster, and proves less")
    parser.add_argument("--require", action="append", default=[], metavar="ROW[=GRADE]",
                        help="exit with 1 unless this row is a yes, of this grade at least; repeatable")  # fmt: skip
    parser.add_argument("--base", metavar="RELEASE", help="release it may be made from: their weights are compared")
    parser.add_argument("--json", action="store_true", help="same as --format json")


def run(arguments: argparse.Namespace) -> int:
    from clearseek.audit.audit import audit_release
    from clearseek.audit.render.text import print_audit, print_comparison
    from clearseek.cli.report import output
    from clearseek.files import write_atomic
    from clearseek.signing.tree import visible

    paths: list[str] = arguments.releases
    if len(paths) > 1 and not arguments.compare:
        raise UserError("several releases: add --compare to put them side by side")
    if arguments.name and len(paths) > 1:
        raise UserError("--name goes with one release")
    required = {each: _required(each) for each in arguments.require}
    base = None if arguments.base is None else _source(arguments.base)
    audits = []
    for path in paths:
        source = _source(path, not arguments.no_hash, arguments.json)
        audits.append(audit_release(source, arguments.name or "", base))
    missing = [line for found in audits for line in _missing(found, required)]
    kind = "json" if arguments.json else arguments.format
    text = _render(audits, kind, arguments.compare, arguments.all)
    if arguments.out is not None:
        if kind == "text":
            raise UserError("--out writes a file: choose its --format, such as html or json")
        write_atomic(arguments.out, text)
        print(f"{arguments.out}: written", file=sys.stderr)
    elif kind != "text":
        sys.stdout.write(text)
    elif arguments.compare:
        print_comparison(output(), audits, arguments.all)
    else:
        print_audit(output(), audits[0], arguments.evidence, arguments.all)
    for line in missing:
        print(f"clearseek: {visible(line)}", file=sys.stderr)
    return FAILED if missing else 0


def _source(path: str, hashed: bool = False, quiet: bool = False) -> Source:
    """A release; the files of a folder are hashed if `hashed`."""
    from clearseek.audit.audit import open_source
    from clearseek.reading.source import Folder
    from clearseek.signing.hashing import hash_files

    source = open_source(path)
    if hashed and isinstance(source, Folder):
        size = sum(source.sizes.values())
        with _bar(size) if size >= 500_000_000 and sys.stderr.isatty() and not quiet else nullcontext() as progress:
            source.hashes.update(hash_files(source.root, source.tree.files, progress))
    return source


@contextmanager
def _bar(size: int) -> Iterator[Progress]:
    """A progress bar for hashing, which can take minutes."""
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("hashing"), rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn())
    with rich.Progress(*columns, rich.TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("hashing", total=size)
        yield lambda done, _: bar.update(task, completed=done)


def _render(audits: list[Audit], kind: str, compare: bool, everything: bool) -> str:
    """The audits in a format; an empty string for the terminal's format."""
    from clearseek.audit.render import exports
    from clearseek.audit.render.pages import as_html, as_markdown, comparison_html, comparison_markdown
    from clearseek.audit.verdict import verdict
    from clearseek.audit.views import views

    if kind == "text":
        return ""
    if kind == "json":
        content = [
            {"verdict": verdict(each).as_json(), **each.as_json(), "views": [view.as_json() for view in views(each)]}
            for each in audits
        ]
        return json.dumps(_writable(content if compare else content[0]), indent=1, ensure_ascii=False) + "\n"
    if kind == "markdown":
        return comparison_markdown(audits, everything) if compare else as_markdown(audits[0], everything)
    if kind == "html":
        return comparison_html(audits, everything) if compare else as_html(audits[0])
    if compare:
        raise UserError(
            f"--format {kind} shows one release: leave out --compare (text, json, markdown and html compare)"
        )
    document = _writable(getattr(exports, f"as_{kind.replace('-', '_')}")(audits[0]))
    return str(document) if isinstance(document, str) else json.dumps(document, indent=1) + "\n"


def _writable(value: Any) -> Any:
    """JSON values with lone surrogates, which UTF-8 cannot encode, spelt by their numbers."""
    if isinstance(value, str):
        return _HALVES.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    if isinstance(value, dict):
        return {_writable(key): _writable(each) for key, each in value.items()}
    return [_writable(each) for each in value] if isinstance(value, list | tuple) else value


def _required(text: str) -> tuple[Question, Grade]:
    """Row and least grade of ``data.training=E4``, the grade optional. Raises UserError for an unknown row or grade."""
    from clearseek.audit.evidence import Grade
    from clearseek.audit.questions import QUESTIONS

    id, _, grade = text.partition("=")
    if grade and grade not in ("E1", "E2", "E3", "E4", "E5"):
        raise UserError(f"--require {text}: the grade must be E1 to E5")
    known = {each.id: each for each in QUESTIONS}
    if id not in known:
        raise UserError(f"--require {text}: no row {id}{nearest(id, known)}; --json has all")
    return known[id], Grade(int(grade[1:] or 1))


def _missing(found: Audit, required: dict[str, tuple[Question, Grade]]) -> Iterator[str]:
    """Yield a line for each row of an audit that is not as required."""
    for text, (question, grade) in required.items():
        row = found.get(question)
        if row is None:
            yield f"{found.facts['name']}: {question.id} does not concern it; required: {text}"
        elif row.answer != "yes" or row.grade < grade:
            yield f"{found.facts['name']}: {row.id} is “{row.answer}”, E{int(row.grade)}; required: {text}"
