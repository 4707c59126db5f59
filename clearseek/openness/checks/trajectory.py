"""Checkpoints along the way: are they there, are they different, do they come with the optimiser's state.

Published checkpoints of a training run let others study it, and verify it. It has happened that most branches of a
release held the final weights under other names, which nothing but their hashes shows. So steps must differ, and the
distance between weights must grow with the distance between steps. Some publish a step as a folder, others as a branch
of their repository: there the hashes that the hub keeps of large files tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from clearseek.errors import UserError
from clearseek.openness.checks.numbers import Tensors, matrices, numbers
from clearseek.openness.evidence import Evidence, Grade, Row
from clearseek.openness.subject import Subject

_MOST_CHECKPOINTS = 64
_MOST_MATRICES = 24
_STEP = re.compile(r"(?:^|/)(?:step|checkpoint|ckpt|iter)[-_]?(\d+)(?:/|$)|(?:^|/)(\d{3,})/")


def rows(subject: Subject) -> Iterator[Row]:
    """Intermediate weights, optimiser state, and that checkpoints differ."""
    steps = checkpoints(subject)
    elsewhere = {} if steps else branches(subject)
    yield _intermediate(subject, steps, elsewhere)
    yield _optimizer(subject, steps)
    yield _distinct_branches(subject, elsewhere) if elsewhere else _distinct(subject, steps)
    yield _ordered(subject, steps)


def checkpoints(subject: Subject) -> dict[int, tuple[str, ...]]:
    """Step -> weight files, of the folders that are named after a step."""
    found: dict[int, list[str]] = {}
    for path in subject.source.sizes:
        folder, _, base = path.rpartition("/")
        match = _STEP.search(f"{folder}/")
        if match and base.endswith(".safetensors"):
            found.setdefault(int(match[1] or match[2]), []).append(path)
    return {step: tuple(found[step]) for step in sorted(found)}


_BRANCH = re.compile(r"(?:^|[-_/.])(?:step|checkpoint|ckpt|iter)[-_]?(\d+)(?=$|[-_/.])|^(\d{3,})$", re.I)
_WEIGHTS = re.compile(r"\.(?:safetensors|bin|pt|pth|npz|gguf|msgpack)$")


def branches(subject: Subject) -> dict[str, frozenset[str]]:
    """Branch or tag named after a step -> hashes of its weight files, in the order of their steps."""
    found: dict[str, tuple[int, frozenset[str]]] = {}
    for name, files in subject.source.revisions.items():
        match = _BRANCH.search(name)
        hashes = frozenset(digest for path, digest in files.items() if _WEIGHTS.search(path) and _weights((path,)))
        if match and hashes:
            found[name] = int(match[1] or match[2]), hashes
    return {name: found[name][1] for name in sorted(found, key=lambda name: (found[name][0], name))}


def _weights(files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in files if not re.search(r"optim|buffers|rng|scheduler", path.rpartition("/")[2]))


def _intermediate(subject: Subject, steps: dict[int, tuple[str, ...]], elsewhere: dict[str, frozenset[str]]) -> Row:
    title, name = "Checkpoints from during training are published", "weights.intermediate"
    held = {step: _weights(files) for step, files in steps.items() if _weights(files)}
    if held:
        places = tuple(subject.source.whole(files[0]) for files in held.values())[:6]
        listed = ", ".join(map(str, list(held)[:8])) + (", …" if len(held) > 8 else "")
        return Row(name, "definition", title, "yes", Grade.PRESENT, f"{len(held)}: steps {listed}", places)
    if elsewhere:
        listed = ", ".join(list(elsewhere)[:8]) + (", …" if len(elsewhere) > 8 else "")
        reason = f"{len(elsewhere)} revisions of the repository named after steps: {listed}"
        return Row(name, "definition", title, "yes", Grade.PRESENT, reason, _at(elsewhere))
    return Row(name, "definition", title, "no", Grade.ABSENT, "no folder of one here")


def _at(revisions: Iterable[str]) -> tuple[Evidence, ...]:
    return tuple(Evidence("./", f"revision {name}") for name in list(revisions)[:8])


def _distinct_branches(subject: Subject, elsewhere: dict[str, frozenset[str]]) -> Row:
    """Revisions of different steps share no weight file, and none but the last one's is this revision's."""
    title, name = "Checkpoints of different steps are different", "weights.trajectory"
    final = {digest for path, digest in subject.source.hashes.items() if _WEIGHTS.search(path) and "/" not in path}
    order = list(elsewhere)
    same: dict[str, str] = {}
    seen: dict[str, str] = {}
    for revision in order:
        twin = next((seen[digest] for digest in sorted(elsewhere[revision]) if digest in seen), "")
        if elsewhere[revision] & final and revision != order[-1]:
            same[revision] = "the final weights"
        elif twin:
            same[revision] = twin
        for digest in elsewhere[revision]:
            seen.setdefault(digest, revision)
    if same:
        shown = "; ".join(f"{revision} holds files of {other}" for revision, other in list(same.items())[:6])
        reason = f"{len(same)} of {len(order)} revisions, by the hashes that the hub keeps: {shown}"
        return Row(name, "technical", title, "no", Grade.PRESENT, reason, _at(same))
    if len(order) < 2:
        reason = "there are not two checkpoints to compare"
        return Row(name, "technical", title, "not applicable", Grade.ABSENT, reason)
    reason = f"{len(order)} revisions, no two with a file in common, by the hashes that the hub keeps"
    return Row(name, "technical", title, "yes", Grade.CHECKED, reason, _at(order))


def _optimizer(subject: Subject, steps: dict[int, tuple[str, ...]]) -> Row:
    title, name = "The optimiser's state is published", "weights.optimizer"
    files = tuple(path for files in steps.values() for path in files if "optim" in path.rpartition("/")[2])
    if files:
        places = tuple(subject.source.whole(path) for path in files[:6])
        return Row(name, "definition", title, "yes", Grade.PRESENT, f"with {len(files)} checkpoints", places)
    return Row(name, "definition", title, "no", Grade.ABSENT, "no file of one here")


def _distinct(subject: Subject, steps: dict[int, tuple[str, ...]]) -> Row:
    title, name = "Checkpoints of different steps are different", "weights.trajectory"
    held = {step: _weights(files) for step, files in steps.items() if _weights(files)}
    if len(held) < 2:
        reason = "there are not two checkpoints to compare"
        return Row(name, "technical", title, "not applicable", Grade.ABSENT, reason)
    seen: dict[tuple[str, ...], int] = {}
    same: list[str] = []
    for step, files in held.items():
        hashes = tuple(sorted(subject.source.sha256(path) for path in files))
        if not all(hashes):
            reason = "the checkpoints were not hashed (--no-hash)"
            return Row(name, "technical", title, "unknown", Grade.PRESENT, reason)
        other = seen.setdefault(hashes, step)
        if other != step:
            same.append(f"step {step} is step {other}, byte for byte")
    places = tuple(subject.source.whole(files[0]) for files in held.values())[:8]
    if same:
        return Row(name, "technical", title, "no", Grade.PRESENT, "; ".join(same[:6]), places)
    reason = f"{len(held)} checkpoints, no two alike"
    return Row(name, "technical", title, "yes", Grade.CHECKED, reason, places)


def _ordered(subject: Subject, steps: dict[int, tuple[str, ...]]) -> Row:
    """Training moves away from where it was: the weights most like a checkpoint's are those of a step next to it."""
    title, name = "The weights of checkpoints lie in the order of their steps", "weights.order"
    held = {step: _weights(files) for step, files in steps.items() if _weights(files)}
    if len(held) < 3:
        reason = "there are not three checkpoints to put in order"
        return Row(name, "technical", title, "not applicable", Grade.ABSENT, reason)
    chosen = list(held)[:: -(-len(held) // _MOST_CHECKPOINTS)]
    places = tuple(subject.source.whole(held[step][0]) for step in chosen)[:8]
    try:
        tensors = [_tensors(subject, held[step]) for step in chosen]
        most = min(_MOST_MATRICES, subject.source.most_samples // len(chosen))
        names = matrices(*tensors, most=most) if most else []
        if not names:
            reason = "they share no matrices of plain floats" if most else "too many to sample from here"
            return Row(name, "technical", title, "unknown", Grade.PRESENT, reason, places)
        vectors = [np.concatenate([numbers(subject.source, each, one) for one in names]) for each in tensors]
    except UserError as error:
        return Row(name, "technical", title, "unknown", Grade.PRESENT, str(error), places)
    if len({len(vector) for vector in vectors}) > 1:
        return Row(name, "technical", title, "unknown", Grade.PRESENT, "some are cut off", places)
    astray = _astray(vectors)
    sampled = f"{len(chosen)} checkpoints by {len(names)} matrices of each, {sum(map(len, vectors)):,} numbers"
    if astray:
        found = "; ".join(f"step {chosen[one]} lies nearest to step {chosen[other]}" for one, other in astray[:4])
        return Row(
            name, "technical", title, "no", Grade.CLAIMED, f"{found} and to neither neighbour: {sampled}", places
        )
    return Row(name, "technical", title, "yes", Grade.CHECKED, f"each lies nearest to a neighbour: {sampled}", places)


def _tensors(subject: Subject, files: tuple[str, ...]) -> Tensors:
    return {entry.name: (file, entry) for file in files for entry in subject.source.header(file).entries}


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
