"""What was asked of a teacher and what it answered: kept in the run's folder, and named by its hashes.

A teacher is asked once. The folder ``teacher/`` of a run holds its answers, and ``teacher.json`` says which model it
is, by the hash of its weights, what it was asked, and, once all answers are there, the SHA-256 of each file. The
record stands in the header of the transcript and decides the task's fingerprint, so a run that begins with other
answers is another run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clearseek.errors import UserError
from clearseek.files import atomic_folder, reading, remove_folder, sha256_file, write_atomic
from clearseek.train.run import TEACHER, Run

_FILES = "files"


def begin(run: Run, asked: dict[str, Any]) -> bool:
    """Make the folder for the answers to `asked`, JSON values; whether they are all there already.

    Answers to other questions are deleted: they are of this run before its first step, which began again.
    """
    found = run.read_teacher()
    if found is not None and {name: value for name, value in found.items() if name != _FILES} == asked:
        if _FILES not in found:
            return False
        check(run)
        return True
    if run.teacher.is_dir():
        remove_folder(run.teacher)
    with atomic_folder(run.teacher) as folder:
        _write(folder, asked)
    return False


def finish(run: Run, names: list[str]) -> dict[str, Any]:
    """Record that all answers are there, in files with these names; the record."""
    asked = run.read_teacher()
    assert asked is not None
    with reading(run.teacher):
        record = asked | {_FILES: {name: sha256_file(run.teacher / name) for name in sorted(names)}}
    _write(run.teacher, record)
    return record


def check(run: Run) -> dict[str, Any]:
    """The record of complete answers. Raises UserError where they are missing, unfinished or changed."""
    record, cure = run.read_teacher(), "restore it from a copy, or begin the run again"
    if record is None or not isinstance(record.get(_FILES), dict):
        raise UserError(f"{run.teacher}: what the run learns from its teacher is not there: {cure}")
    for name, sha256 in record[_FILES].items():
        file = run.teacher / Path(name).name
        with reading(file, cure):
            if sha256_file(file) != sha256:
                raise UserError(f"{file}: changed file: its SHA-256 is not that of {TEACHER}: {cure}")
    return record


def _write(folder: Path, record: dict[str, Any]) -> None:
    write_atomic(folder / TEACHER, json.dumps(record, indent=1, sort_keys=True) + "\n")
