"""Checkpoints along the way: are they there, are they different, do they come with the optimiser's state.

Published checkpoints of a training run let others study it, and verify it. It has happened that most branches of a
release held the final weights under other names. A byte of metadata gives the same weights another hash, so tensors are
compared, not files: steps must differ, and the distance between weights must grow with the distance between steps. Some
publish a step as a branch of their repository: of those only the hashes that the hub keeps are known, which show that
files are alike, and not that the numbers in others differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Evidence, Grade, Row
from clearseek.audit.read.hub import STEP_REVISION
from clearseek.audit.read.numbers import Tensors, fingerprint, matrices, numbers
from clearseek.audit.read.subject import Subject, is_weights
from clearseek.errors import UserError
from clearseek.sysfiles import system_file

_MOST_CHECKPOINTS = 64
_MOST_MATRICES = 24
_MOST_COMPARED = 256
_STEP = re.compile(r"(?:^|/)(?:step|checkpoint|ckpt|iter)[-_]?(\d+)(?:/|$)|(?:^|/)(\d{3,})/")
_FINAL = "the final weights"


@dataclass(frozen=True, slots=True)
class Branch:
    """A revision of the repository that is named after a step."""

    name: str
    stage: str
    """The text before the step: branches of one stage are of one run."""
    step: int
    weights: dict[str, frozenset[str]]
    """Kind of weight file, such as ``model.safetensors``, whatever its shards -> their hashes."""


def rows(subject: Subject) -> Iterator[Row]:
    """Intermediate weights, optimiser state, and that checkpoints differ."""
    steps = checkpoints(subject)
    held = {step: _weights(files) for step, files in steps.items() if _weights(files)}
    elsewhere = () if steps else branches(subject)
    note = "" if steps else str(getattr(subject.source, "revisions_note", ""))
    yield _intermediate(subject, held, elsewhere, note)
    yield _optimizer(subject, steps)
    yield _distinct_branches(subject, elsewhere, note) if elsewhere or note else _distinct(subject, held)
    yield _ordered(subject, held)


def checkpoints(subject: Subject) -> dict[int, tuple[str, ...]]:
    """Step -> weight files, of the folders that are named after a step."""
    found: dict[int, list[str]] = {}
    for path in subject.source.sizes:
        folder, _, base = path.rpartition("/")
        match = _STEP.search(f"{folder}/")
        if match and base.endswith(".safetensors") and not system_file(base):
            found.setdefault(int(match[1] or match[2]), []).append(path)
    return {step: tuple(found[step]) for step in sorted(found)}


def branches(subject: Subject) -> tuple[Branch, ...]:
    """Branches and tags named after a step that hold weights, in the order of their steps."""
    found: list[Branch] = []
    for name, files in subject.source.revisions.items():
        match = STEP_REVISION.search(name)
        weights = _kinds(files)
        if match and weights:
            step = int(match["step"] or match["number"])
            found.append(Branch(name, name[: match.start()].strip("-_/."), step, weights))
    return tuple(sorted(found, key=lambda each: (each.stage, each.step, each.name)))


def _kinds(hashes: dict[str, str]) -> dict[str, frozenset[str]]:
    """Kind of weight file -> hashes. Adapters are told by themselves: the weights below them stay the same."""
    found: dict[str, set[str]] = {}
    for path, digest in hashes.items():
        if digest and is_weights(path):
            kind = re.sub(r"[-_.]\d{2,}(?:[-_]of[-_]\d+)?(?=[-_.])", "", path)
            found.setdefault(kind, set()).add(digest)
    adapters = {kind: held for kind, held in found.items() if "adapter" in kind}
    return {kind: frozenset(held) for kind, held in (adapters or found).items()}


def _weights(files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in files if is_weights(path))


def _intermediate(subject: Subject, held: dict[int, tuple[str, ...]], elsewhere: tuple[Branch, ...], note: str) -> Row:
    if held:
        places = tuple(subject.source.whole(files[0]) for files in held.values())[:6]
        listed = ", ".join(map(str, list(held)[:8])) + (", …" if len(held) > 8 else "")
        return ask.WEIGHTS_INTERMEDIATE.yes(Grade.PRESENT, f"{len(held)}: steps {listed}", *places)
    if elsewhere:
        listed = ", ".join(each.name for each in elsewhere[:8]) + (", …" if len(elsewhere) > 8 else "")
        reason = f"{len(elsewhere)} revisions of the repository named after steps: {listed}"
        reason += f"; {note}" if note else ""
        return ask.WEIGHTS_INTERMEDIATE.yes(Grade.PRESENT, reason, *_at(each.name for each in elsewhere))
    if note:
        return ask.WEIGHTS_INTERMEDIATE.unknown(Grade.ABSENT, f"no folder of one here; {note}")
    return ask.WEIGHTS_INTERMEDIATE.no(Grade.ABSENT, "no folder of one here")


def _at(revisions: Iterable[str]) -> tuple[Evidence, ...]:
    return tuple(Evidence("./", f"revision {name}") for name in list(revisions)[:8])


def _distinct_branches(subject: Subject, elsewhere: tuple[Branch, ...], note: str) -> Row:
    """Revisions of different steps hold different files, and none but the last of a stage holds this revision's."""
    same = _copies(subject, elsewhere)
    after = f"; {note}" if note else ""
    if same:
        shown = "; ".join(f"{revision} holds the files of {other}" for revision, other in list(same.items())[:6])
        reason = f"{len(same)} of {len(elsewhere)} revisions, by the hashes that the hub keeps: {shown}{after}"
        return ask.WEIGHTS_TRAJECTORY.no(Grade.PRESENT, reason, *_at(same))
    places = _at(each.name for each in elsewhere)
    if getattr(subject.source, "revisions_failed", False):
        return ask.WEIGHTS_TRAJECTORY.unknown(Grade.ABSENT, note, *places)
    if len(elsewhere) < 2:
        return ask.WEIGHTS_TRAJECTORY.not_applicable("there are not two checkpoints to compare")
    reason = f"{len(elsewhere)} revisions, no two with the same weight files, by the hashes that the hub keeps; "
    reason += f"their numbers were not compared{after}"
    return ask.WEIGHTS_TRAJECTORY.yes(Grade.PRESENT, reason, *places)


def _copies(subject: Subject, elsewhere: tuple[Branch, ...]) -> dict[str, str]:
    """Revision -> what it is a copy of."""
    final = _kinds({path: digest for path, digest in subject.source.hashes.items() if "/" not in path})
    first: dict[str, Branch] = {}
    last: dict[str, Branch] = {}
    for each in elsewhere:  # sorted by stage and step
        first.setdefault(each.stage, each)
        last[each.stage] = each
    same: dict[str, str] = {}
    seen: dict[frozenset[str], Branch] = {}
    for each in elsewhere:
        if each.step != last[each.stage].step and set(each.weights.values()) & set(final.values()):  # all of a kind
            same[each.name] = _FINAL
        for held in each.weights.values():
            twin = seen.setdefault(held, each)
            alias = twin.step == each.step  # one checkpoint under two names
            passed_on = twin.stage != each.stage and (
                (twin == last[twin.stage] and each == first[each.stage])
                or (each == last[each.stage] and twin == first[twin.stage])
            )
            if not alias and not passed_on:
                same.setdefault(each.name, twin.name)
    return same


def _optimizer(subject: Subject, steps: dict[int, tuple[str, ...]]) -> Row:
    files = tuple(path for files in steps.values() for path in files if "optim" in path.rpartition("/")[2])
    if files:
        places = tuple(subject.source.whole(path) for path in files[:6])
        return ask.WEIGHTS_OPTIMIZER.yes(Grade.PRESENT, f"with {len(files)} checkpoints", *places)
    return ask.WEIGHTS_OPTIMIZER.no(Grade.ABSENT, "no file of one here")


def _distinct(subject: Subject, held: dict[int, tuple[str, ...]]) -> Row:
    """Steps in folders: all tensors of two that look alike in samples are compared, where they are here."""
    if len(held) < 2:
        return ask.WEIGHTS_TRAJECTORY.not_applicable("there are not two checkpoints to compare")
    places = tuple(subject.source.whole(files[0]) for files in held.values())[:8]
    same = _same_files(subject, held)
    if same:
        return ask.WEIGHTS_TRAJECTORY.no(Grade.PRESENT, "; ".join(same[:6]), *places)
    if not all(subject.source.sha256(path) for files in held.values() for path in files):
        return ask.WEIGHTS_TRAJECTORY.unknown(Grade.PRESENT, "the checkpoints were not hashed (--no-hash)")
    most = min(_MOST_MATRICES, subject.source.most_samples // (min(len(held), _MOST_COMPARED) + 1))
    if not most:
        reason = f"{len(held)} checkpoints, no two with the same files; too many to compare their numbers from here"
        return ask.WEIGHTS_TRAJECTORY.yes(Grade.PRESENT, reason, *places)
    try:
        certain, possible = _same_numbers(subject, held, most)
    except UserError as error:
        return ask.WEIGHTS_TRAJECTORY.unknown(Grade.PRESENT, str(error), *places)
    if certain:
        return ask.WEIGHTS_TRAJECTORY.no(Grade.PRESENT, "; ".join(certain[:6]), *places)
    if possible:
        return ask.WEIGHTS_TRAJECTORY.unknown(Grade.PRESENT, "; ".join(possible[:6]), *places)
    looked = f"{_MOST_COMPARED} of {len(held)}" if len(held) > _MOST_COMPARED else f"{len(held)}"
    return ask.WEIGHTS_TRAJECTORY.yes(Grade.CHECKED, f"{looked} checkpoints, no two with the same numbers", *places)


def _same_files(subject: Subject, held: dict[int, tuple[str, ...]]) -> list[str]:
    """Steps that are another step, or the final weights, byte for byte."""
    seen: dict[tuple[str, ...], int] = {}
    same: list[str] = []
    final = tuple(sorted(subject.source.sha256(path) for path in subject.weight_files))
    for step, files in held.items():
        hashes = tuple(sorted(subject.source.sha256(path) for path in files))
        if not all(hashes):
            continue
        if hashes == final and step != max(held):
            same.append(f"step {step} is {_FINAL}, byte for byte")
        other = seen.setdefault(hashes, step)
        if other != step:
            same.append(f"step {step} is step {other}, byte for byte")
    return same


def _same_numbers(subject: Subject, held: dict[int, tuple[str, ...]], most: int) -> tuple[list[str], list[str]]:
    """Steps whose tensors are those of another or of the final weights, and those that may be. Raises UserError."""
    source = subject.source
    chosen = list(held)[:: -(-len(held) // _MOST_COMPARED)]
    states = {f"step {step}": _tensors(subject, held[step]) for step in chosen}
    last = f"step {max(held)}"
    if subject.weights.complete:
        states[_FINAL] = subject.weights.tensors
    alike: dict[bytes, list[str]] = {}
    for state, tensors in states.items():
        alike.setdefault(fingerprint(source, tensors, most), []).append(state)
    certain: list[str] = []
    possible: list[str] = []
    for group in alike.values():
        if len(group) < 2 or set(group) == {last, _FINAL}:
            continue
        if not source.whole_bytes:
            possible.append(f"{' and '.join(group[:4])} are alike wherever they were sampled")
            continue
        whole: dict[bytes, list[str]] = {}
        for state in group:
            whole.setdefault(fingerprint(source, states[state]), []).append(state)
        for found in whole.values():
            if len(found) > 1 and set(found) != {last, _FINAL}:
                certain.append(f"{' and '.join(found[:4])} hold the same numbers in every tensor")
    return certain, possible


def _ordered(subject: Subject, held: dict[int, tuple[str, ...]]) -> Row:
    """Training moves away from where it was: the weights most like a checkpoint's are those of a step next to it."""
    if len(held) < 3:
        return ask.WEIGHTS_ORDER.not_applicable("there are not three checkpoints to put in order")
    chosen = list(held)[:: -(-len(held) // _MOST_CHECKPOINTS)]
    places = tuple(subject.source.whole(held[step][0]) for step in chosen)[:8]
    try:
        tensors = [_tensors(subject, held[step]) for step in chosen]
        most = min(_MOST_MATRICES, subject.source.most_samples // len(chosen))
        names = matrices(*tensors, most=most) if most else []
        if not names:
            reason = "they share no matrices of plain floats" if most else "too many to sample from here"
            return ask.WEIGHTS_ORDER.unknown(Grade.PRESENT, reason, *places)
        vectors = [np.concatenate([numbers(subject.source, each, one) for one in names]) for each in tensors]
    except UserError as error:
        return ask.WEIGHTS_ORDER.unknown(Grade.PRESENT, str(error), *places)
    if len({len(vector) for vector in vectors}) > 1:
        return ask.WEIGHTS_ORDER.unknown(Grade.PRESENT, "some are cut off", *places)
    twins = _twins(vectors)
    if twins:
        found = "; ".join(f"step {chosen[one]} and step {chosen[other]}" for one, other in twins[:4])
        reason = f"nothing lies between {found}: the same numbers wherever they were sampled"
        return ask.WEIGHTS_ORDER.no(Grade.CLAIMED, reason, *places)
    astray = _astray(vectors)
    sampled = f"{len(chosen)} checkpoints by {len(names)} matrices of each, {sum(map(len, vectors)):,} numbers"
    if astray:
        found = "; ".join(f"step {chosen[one]} lies nearest to step {chosen[other]}" for one, other in astray[:4])
        return ask.WEIGHTS_ORDER.no(Grade.CLAIMED, f"{found} and to neither neighbour: {sampled}", *places)
    return ask.WEIGHTS_ORDER.yes(Grade.CHECKED, f"each lies nearest to a neighbour: {sampled}", *places)


def _tensors(subject: Subject, files: tuple[str, ...]) -> Tensors:
    return {entry.name: (file, entry) for file in files for entry in subject.source.header(file).entries}


def _twins(vectors: list[NDArray[np.float32]]) -> list[tuple[int, int]]:
    """Places of vectors that are the same as an earlier one."""
    seen: dict[bytes, int] = {}
    twins = [(seen.setdefault(vector.tobytes(), place), place) for place, vector in enumerate(vectors)]
    return [(one, other) for one, other in twins if one != other]


def _astray(vectors: list[NDArray[np.float32]]) -> list[tuple[int, int]]:
    """Places of vectors whose nearest other is not next to them, each with that other."""
    count = len(vectors)
    distances = np.full((count, count), np.inf)
    for one in range(count):
        for other in range(one):
            distances[one, other] = distances[other, one] = float(np.linalg.norm(vectors[one] - vectors[other]))
    nearest = distances.argmin(axis=1)
    neighbours = [[each for each in (one - 1, one + 1) if 0 <= each < count] for one in range(count)]
    return [
        (one, int(nearest[one]))
        for one in range(count)
        if distances[one, neighbours[one]].min() > distances[one, nearest[one]]
    ]
