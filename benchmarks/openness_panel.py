"""How far the audit agrees with people, on releases that its rules were not written with in sight.

Two kinds of panel. **Repositories**, read by one reader before the audit was asked:

    python benchmarks/openness_panel.py --labels benchmarks/panels/repositories.toml --folder checkouts

audits each ``checkouts/OWNER/NAME`` twice, under its own name and as a folder called ``x``, each time in a process of
its own. Compared are the answers on weights, complete training data, training code, the weights' licence and the
report; of releases that were judged row by row also each "no" and each "yes". A *false no* is an accusation that a
careful reader would not make, a *false yes* praise that such a reader would not give, *missed* is what such a reader
finds and the audit leaves open. ``--code`` audits with the code of another checkout of ClearSeek, ``--state`` names it
in the results.

**Ratings** that others published, such as the European Open Source AI Index's:

    python benchmarks/openness_panel.py --panel panel.json OLMo.yaml=path/to/OLMo smollm.yaml=path@SmolLM3 ...

The panel's file has the index's classes under ``osai`` by file name; three are compared. Where it has the Model
Openness Tool's entries under ``mot``, what those decide is compared too: the final parameters' licence, and for class I
the data sets and the training code (a lower class says nothing of them: the tool counts no higher class before the
lower is whole).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from record import write_result

from clearseek.audit.evidence import Answer, Audit

RESULTS: Final = Path(__file__).parent / "results"
CLASSES: Final[dict[Answer, str]] = {
    "yes": "open", "partly": "partial", "no": "closed", "unknown": "closed", "not applicable": "closed",
}  # fmt: skip
QUESTIONS: Final = {
    "weights": "weights.final", "data": "data.training", "code": "code.training", "licence": "licence.weights",
    "report": "documents.report",
}  # fmt: skip
CORE: Final = ("weights", "data", "code")
"""What agreement is counted on first: the three things that a model is made of."""
SCRIPT: Final = """
import json, resource, sys
from clearseek.audit.audit import audit_release
found = audit_release(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
    "peak_megabytes": round(used.ru_maxrss / 1024),
    "rows": {row.id: {"answer": row.answer, "grade": int(row.grade), "reason": row.reason} for row in found},
}))
"""
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Release:
    """a repository with a reader's answers, the likeliest first."""

    repository: str
    """``owner/name``."""
    cells: dict[str, tuple[str, ...]]
    """Weights, data, code, licence, report -> answers that a careful reader gives or accepts."""
    rows: dict[str, tuple[str, ...]]
    """Row -> answers that a careful reader accepts; empty where the release was not judged row by row."""


def read_labels(path: Path) -> list[Release]:
    """The releases of a file of labels."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    common = {row: _answers(text) for row, text in content["rows"].items()}
    out = []
    for each in content["release"]:
        cells = {name: _answers(each[name]["answers"]) for name in QUESTIONS}
        rows = {}
        if "rows" in each:
            own = dict(line.split(": ", 1) for line in each["rows"])
            rows = common | {QUESTIONS[name]: answers for name, answers in cells.items()}
            rows |= {row: _answers(text) for row, text in own.items()}
        out.append(Release(each["repository"], cells, rows))
    return out


def _answers(text: str) -> tuple[str, ...]:
    return tuple("not applicable" if word == "na" else word for word in text.split())


def audit_apart(folder: Path, code: Path) -> dict[str, Any]:
    """Rows, CPU seconds (imports included) and peak memory of an audit in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(code)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True, text=True, env=environment, cwd=code, timeout=600,
    )  # fmt: skip
    if ended.returncode:
        raise SystemExit(f"{folder}: the audit failed\n{ended.stderr}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def cell(name: str, rows: Rows) -> str:
    """The audit's answer to one of the five questions; what is left open counts as not there, but for a licence."""
    answer = str(rows[QUESTIONS[name]]["answer"]) if QUESTIONS[name] in rows else "unknown"
    if name == "weights" and answer == "yes" and rows.get("barriers.access", {}).get("answer") in ("no", "partly"):
        answer = "partly"
    return "no" if name != "licence" and answer in ("unknown", "not applicable") else answer


def judge(rows: Rows, expected: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Rows in which a careful reader does not agree, by kind."""
    out: dict[str, list[str]] = {"false no": [], "false yes": [], "missed": []}
    for id, accepted in expected.items():
        if id not in rows or (answer := rows[id]["answer"]) in accepted:
            continue
        if answer == "no" or (answer == "partly" and "yes" in accepted):
            out["false no"].append(id)
        elif answer in ("yes", "partly"):
            out["false yes"].append(id)
        else:
            out["missed"].append(id)
    return out


def as_x(folder: Path, place: Path) -> Path:
    """The same files in a folder called ``x``."""
    shutil.copytree(folder, place / "x", symlinks=True, copy_function=os.link)
    return place / "x"


def measure(release: Release, folder: Path, code: Path) -> dict[str, Any]:
    """What the audit says about one release under both names, beside what a reader says."""
    labels = {question: " ".join(answers) for question, answers in release.cells.items()}
    out: dict[str, Any] = {"repository": release.repository, "labels": labels}
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        for name, path in (("own", folder), ("x", as_x(folder, Path(place)))):
            found = audit_apart(path, code)
            rows = found["rows"]
            out[name] = {
                "cells": {each: cell(each, rows) for each in QUESTIONS},
                "wrong": judge(rows, release.rows) if release.rows else None,
                "cpu_seconds": found["cpu_seconds"],
                "peak_megabytes": found["peak_megabytes"],
                "rows": rows,
            }
    return out


def totals(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Agreement in percent on each question, and wrong rows a release, under both names."""
    out: dict[str, Any] = {"releases": len(results)}
    for name in ("own", "x"):
        exact: Counter[str] = Counter()
        accepted: Counter[str] = Counter()
        for each in results:
            for question in QUESTIONS:
                labels, answer = each["labels"][question].split(), each[name]["cells"][question]
                exact[question] += answer == labels[0]
                accepted[question] += answer in labels
        judged = [each[name]["wrong"] for each in results if each[name]["wrong"] is not None]
        out[name] = {
            "agreement": {question: round(100 * accepted[question] / len(results), 1) for question in QUESTIONS},
            "agreement on weights, data, code": _percent(accepted, len(results)),
            "exactly": _percent(exact, len(results)),
            "judged row by row": len(judged),
            **{kind: round(sum(len(each[kind]) for each in judged) / max(1, len(judged)), 2)
               for kind in ("false no", "false yes", "missed")},
            "most_cpu_seconds": max(each[name]["cpu_seconds"] for each in results),
            "most_megabytes": max(each[name]["peak_megabytes"] for each in results),
        }  # fmt: skip
    return out


def _percent(count: Counter[str], releases: int) -> float:
    return round(100 * sum(count[question] for question in CORE) / (len(CORE) * releases), 1)


def lines(results: list[dict[str, Any]]) -> Iterator[str]:
    """The table for people: a line a release, ``!`` where a reader says something else, then the wrong rows."""
    for each in results:
        shown = []
        for question in QUESTIONS:
            labels, answers = each["labels"][question].split(), [each[name]["cells"][question] for name in ("own", "x")]
            mark = "" if all(answer in labels for answer in answers) else f"!({labels[0]})"
            shown.append("/".join(dict.fromkeys(answers)) + mark)
        cells = "".join(f"{text:21}" for text in shown)
        yield f"{each['repository']:42}{cells}{each['own']['cpu_seconds']:5.1f} s"
        wrong = each["own"]["wrong"] or {}
        for kind, ids in wrong.items():
            if ids:
                yield f"    {kind}: {', '.join(ids)}"


def repositories(arguments: argparse.Namespace) -> None:
    """Audit every labelled checkout, print the table, keep the totals under the state's name."""
    results = []
    for release in read_labels(arguments.labels):
        folder = arguments.folder / release.repository
        if folder.is_dir():
            results.append(measure(release, folder, arguments.code))
            print("\n".join(lines(results[-1:])), flush=True)
        else:
            print(f"{release.repository:42}no checkout at {folder}")
    summary = totals(results)
    print(json.dumps(summary, indent=1))
    out = arguments.out or RESULTS / "openness_repositories.json"
    kept = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"states": {}}
    kept["states"].setdefault(arguments.labels.stem, {})[arguments.state] = summary
    write_result(out, kept)
    if arguments.details:
        arguments.details.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def ours(found: Audit) -> dict[str, tuple[str, str]]:
    """Our class and reason for each of the index's dimensions."""
    rows: Rows = {row.id: {"answer": row.answer, "reason": row.reason} for row in found}
    kept = {"weights_basemodel": "weights", "datasources_basemodel": "data", "trainingcode": "code"}
    answers: dict[str, Any] = {dimension: cell(name, rows) for dimension, name in kept.items()}
    return {each: (CLASSES[answers[each]], rows[QUESTIONS[name]]["reason"]) for each, name in kept.items()}


MOT: Final = {
    "deepseek-v3.yaml": "DeepSeek-V3", "deepseek-R1.yaml": "DeepSeek-R1", "llama-3-instruct.yaml": "Llama-3-8B",
    "Mistral.yaml": "Mistral-7B-v0.1", "OLMo.yaml": "OLMo-7B", "Pythia.yaml": "Pythia-2.8B",
}  # fmt: skip
"""The index's file -> the tool's entry of the same family."""


def tool(found: Audit, entry: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Component, our answer, the tool's, and our reason, for what the tool's entry decides."""
    from clearseek.audit.views import view

    entries = {each.name: each for each in view(found, "mof").entries}
    invalid = {name for name, _ in entry["invalid_III"]} | set(entry["missing_III"]) | set(entry["unlicensed_III"])
    theirs = {"III Open Model: Model parameters (Final)": "Model parameters (Final)" not in invalid}
    if entry["class"] == 1:
        theirs |= {"I Open Science: Datasets": True, "II Open Tooling: Training code": True}
    out = []
    for name, there in theirs.items():
        ours = entries[name]
        reason = "; ".join(f"{row.id}: {row.reason}" for id in ours.rows if (row := found.get(id)) is not None)
        out.append((name, "open" if ours.claimed == "yes" else "not open", "open" if there else "not open", reason))
    return out


def ratings(arguments: argparse.Namespace) -> None:
    """Compare with what others published, print every cell, keep all with their evidence."""
    from clearseek.audit.audit import audit_release
    from clearseek.reading.source import Folder

    content: dict[str, Any] = json.loads(arguments.panel.read_text(encoding="utf-8"))
    panel, tools = content["osai"], content.get("mot", {})
    rows: list[dict[str, str]] = []
    for each in arguments.releases:
        file, _, place = each.partition("=")
        folder, _, name = place.partition("@")
        found = audit_release(Folder(Path(folder)), name)
        for dimension, (answer, reason) in ours(found).items():
            theirs = panel[file]["classes"][dimension]
            rows.append({"release": file, "dimension": dimension, "audit": answer, "index": theirs, "reason": reason})
            print(f"{file:24} {dimension:24} {answer:8} {theirs:8} {'' if answer == theirs else 'DIFFERS: ' + reason}")
        for name, answer, theirs, reason in tool(found, tools[MOT[file]]) if file in MOT and tools else ():
            rows.append({"release": file, "dimension": name, "audit": answer, "tool": theirs, "reason": reason})
            print(f"{file:24} {name:42} {answer:8} {theirs:8} {'' if answer == theirs else 'DIFFERS: ' + reason}")
    agree = sum(row["audit"] == row.get("index", row.get("tool")) for row in rows) / len(rows)
    print(f"agreement: {100 * agree:.0f} % of {len(rows)}")
    out = arguments.out or RESULTS / "openness_panel.json"
    write_result(out, {"agreement": agree, "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", metavar="INDEX_FILE=FOLDER", help="with --panel")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--panel", type=Path, help="ratings that others published")
    which.add_argument("--labels", type=Path, help="repositories with a reader's answers")
    parser.add_argument("--folder", type=Path, default=Path(), help="where OWNER/NAME are checked out")
    here = Path(__file__).parent.parent
    parser.add_argument("--code", type=Path, default=here, help="the checkout of ClearSeek that audits")
    parser.add_argument("--state", default="now", help="name of the results")
    parser.add_argument("--details", type=Path, help="also write every row of every release")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    (repositories if arguments.labels else ratings)(arguments)


if __name__ == "__main__":
    main()
