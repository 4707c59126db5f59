"""Scores of tasks that a card states, compared with the records that the release carries.

What is read here is read as an audit reads: by the release's list of files, through no link that leads elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from clearseek.errors import UserError
from clearseek.evaluate.records import INDEX, Index, read_head
from clearseek.release.evaluations import FOLDER, Carried
from clearseek.release.scores import hub_results, model_index, table
from clearseek.verify.records import Records

_LONGEST_HEAD: Final = 1 << 20
"""Bytes of a file of records that are read for its first line."""


def stated_otherwise(records: Records) -> str:
    """What the card states otherwise than the evaluations that are carried, in words, or an empty string."""
    card, found = records.subject.card, _carried(records)
    if not found or card is None:
        return ""
    for each in found:
        for line in table(each):
            if line not in card.lines:
                return f"README.md does not state what {FOLDER}/{each.name} comes to: {line:.200}"
    stated = (records.subject.metadata.value or {}).get("model-index")
    there = [each.get("results") for each in stated if isinstance(each, dict)] if isinstance(stated, list) else []
    if any(index["results"] not in there for index in model_index("", found)):
        return f"the model-index of README.md is not what the records in {FOLDER}/ come to"
    for path, text in hub_results(found).items():
        if path not in records.source.sizes or records.source.read(path, _LONGEST_HEAD) != text.encode():
            return f"{path} is not what the records in {FOLDER}/ come to"
    return ""


def _carried(records: Records) -> list[Carried]:
    """The evaluations of a release. Raises UserError for one that cannot be read."""
    found = []
    for path in sorted(records.source.sizes):
        folder, _, name = path.rpartition("/")
        if name == INDEX and folder.rpartition("/")[0] == FOLDER:
            try:
                index = Index.model_validate(records.json(path))
            except ValidationError as error:
                raise UserError(f"{path}: {error.errors(include_url=False)[0]['msg']}") from None
            heads = {
                task: read_head(_first_line(records, f"{folder}/{listed.file}"), f"{folder}/{listed.file}:1")
                for task, listed in index.tasks.items()
            }
            found.append(Carried(folder.rpartition("/")[2], Path(folder), index, heads))
    return found


def _first_line(records: Records, path: str) -> bytes:
    return records.source.read(path, _LONGEST_HEAD).split(b"\n")[0] + b"\n"
