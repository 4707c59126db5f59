"""What the records of a child say of its parent and of its own completions, read without PyTorch.

That the parent's weights are here and have the hash that the transcript names is agreement between two files. How they
were made is not in these records: only a release of the parent could say, so no row here speaks of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.errors import UserError
from clearseek.reading.evidence import Evidence, amount
from clearseek.verify.records import TRANSCRIPT, Records
from clearseek.verify.stored_hash import hash_stored

_PARENT: Final = "training/parent/parent.json"
_WEIGHTS: Final = re.compile(r"training/parent/step-\d{8,18}/(?:weights|buffers)\.safetensors")
_ROUND: Final = re.compile(r"training/rollouts/round-(\d{8})\.safetensors")


def rows(records: Records) -> Iterator[Row]:
    """Rows of a release whose recipe begins with another model; none for others."""
    try:
        header, steps = records.transcript
        recipe = header["recipe"]
        if not isinstance(recipe.get("parent"), dict):
            return
        yield _parent(records, header, recipe)
        grpo, distil = recipe.get("grpo"), recipe.get("distil")
        if isinstance(grpo, dict) or (isinstance(distil, dict) and distil.get("form") == "on-policy"):
            yield _completions(records, steps, int(grpo["updates"]) if grpo else 1)
    except (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return  # :mod:`clearseek.verify.crosscheck` says what is wrong with the transcript


def _parent(records: Records, header: dict[str, Any], recipe: dict[str, Any]) -> Row:
    """The parent's name and hash, and whether the weights that are here have it."""
    question, stated, source = ask.LINEAGE_PARENT, header.get("parent"), records.source
    place = Evidence(TRANSCRIPT, "line 1")
    if not isinstance(stated, dict) or not isinstance(digest := stated.get("weights_sha256"), str):
        return question.no(Grade.CLAIMED, "the recipe begins with another model, and the transcript names none", place)
    name = str(stated.get("name", "a model without a name"))
    reason = f"{name}, weights {digest}"
    if records.has(_PARENT) and records.json(_PARENT) != stated:
        return question.no(Grade.CLAIMED, f"{_PARENT} is not what the transcript says; {reason}", Evidence(_PARENT))
    if (asked := recipe["parent"].get("sha256")) not in (None, digest):
        return question.no(Grade.CLAIMED, f"the recipe asks for weights {asked}; {reason}", place)
    files = [path for path in source.sizes if _WEIGHTS.fullmatch(path)]
    if not files:
        return question.yes(Grade.CLAIMED, f"{reason}: they are not here", place)
    found = hash_stored(records.subject, files, 1 if "optimizer_sha256" in stated and "tokens" not in stated else 2)
    if found != digest:
        return question.no(Grade.CLAIMED, f"the weights here are {found}; {reason}", source.whole(files[0]))
    return question.yes(Grade.CHECKED, f"{reason}: they are here, and have that hash", place, source.whole(files[0]))


def _completions(records: Records, steps: list[dict[str, Any]], updates: int) -> Row:
    """Files of rounds beside the hashes that the transcript has of them."""
    question, source = ask.DATA_COMPLETIONS, records.source
    stated = {(entry["step"] - 1) // updates: entry.get("rollouts_sha256") for entry in steps}
    here = {int(match[1]): path for path in source.sizes if (match := _ROUND.fullmatch(path))}
    if not here:
        return question.no(Grade.ABSENT, "no completions are here; the transcript has their hashes")
    place = source.whole(next(iter(here.values())))
    for number, path in sorted(here.items()):
        if number not in stated or source.is_other(path, str(stated[number])):
            return question.no(Grade.CLAIMED, f"{path} is not the file whose hash the transcript has", Evidence(path))
    reason = f"{amount(len(here), 'round')} of {len(stated)}, with the hashes of the transcript"
    if len(here) < len(stated):
        return question.partly(Grade.CHECKED, reason, place)
    return question.yes(Grade.CHECKED, reason, place)
