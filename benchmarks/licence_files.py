"""How often a licence file is named and judged rightly: ``python -m benchmarks.licence_files FOLDER... [--out FILE]``.

Looks in the folders for files whose SHA-256 is in ``panels/licence_files.json``, where a reader wrote down which
licences each holds for the thing itself (not for parts that it bundles) and whether it is open. A file is right where
both are. The texts are their owners' and not here: they are those of the packages that ``.[dev]`` installs, of other
popular projects, and of models whose makers wrote terms of their own (these must never be "open").
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from pathlib import Path
from typing import Any

from benchmarks.record import write_result
from clearseek.licences import identify, is_open_for
from clearseek.licences.clauses import RESTRICTING
from clearseek.licences.markup import without_markup

LABELS = Path(__file__).parent / "panels" / "licence_files.json"


def judge(text: str) -> tuple[list[str], str]:
    """The licences of a text, and ``yes``, ``no`` or ``unknown``: whether it is open."""
    match = identify(without_markup(text))
    ids = [licence.id for licence in match.licences]
    if match.licence is None:
        limits = any(clause.flag in RESTRICTING for clause in match.clauses)
        return ids, "no" if limits else "unknown"
    if match.changes:
        return ids, "no"
    return ids, "yes" if all(is_open_for(licence, "weights") for licence in match.licences) else "no"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    labels = json.loads(LABELS.read_text(encoding="utf-8"))
    wrong: list[dict[str, Any]] = []
    seen: dict[str, list[bool]] = {}
    begun = time.process_time()
    for path in sorted(each for folder in arguments.folders for each in folder.rglob("*") if each.is_file()):
        raw = path.read_bytes() if path.stat().st_size < 1_000_000 else b""
        label = labels.pop(hashlib.sha256(raw).hexdigest(), None)
        if label is None:
            continue
        ids, is_open = judge(raw.decode("utf-8", errors="replace"))
        right = is_open == label["open"] and (label["open"] == "no" or set(ids) == set(label["licences"]))
        seen.setdefault(label["set"], []).append(right)
        if not right:
            wrong.append({"file": label["file"], "found": ids, "open": is_open, "label": label["licences"]})
            print(f"wrong: {label['file']}: {ids} {is_open}, label {label['licences']} {label['open']}")
    result = {
        "sets": {name: {"files": len(found), "right": sum(found)} for name, found in seen.items()},
        "not found": len(labels), "wrong": wrong, "seconds": round(time.process_time() - begun, 1),
        "python": platform.python_version(), "machine": platform.machine(),
    }  # fmt: skip
    for name, found in seen.items():
        print(f"{name}: {sum(found)} of {len(found)} right ({100 * sum(found) / len(found):.1f} %)")
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()
