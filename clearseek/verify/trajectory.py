"""Checkpoints by their numbers: steps must differ, and the distance between weights must grow with that of steps.

A byte of metadata gives the same weights another hash, so tensors are compared here, not files. Training moves away
from where it was: the weights most like a checkpoint's are those of a step next to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clearseek.audit import questions as ask
from clearseek.audit.checks.trajectory import checkpoints
from clearseek.audit.evidence import Grade, Row
from clearseek.errors import UserError
from clearseek.hub.safetensors import Entry, tensor_bytes
from clearseek.reading.evidence import amount
from clearseek.reading.numbers import Tensors, matrices, numbers
from clearseek.reading.source import Source
from clearseek.reading.subject import Subject, is_weights

_MOST_CHECKPOINTS: Final = 64
_MOST_MATRICES: Final = 24
_MOST_COMPARED: Final = 256
_PIECE: Final = 4_096
"""Bytes that a sampled hash takes of a tensor at its beginning, its middle and its end."""
_FINAL: Final = "the final weights"
_RECIPE: Final = "training/recipe.json"


def rows(subject: Subject) -> Iterator[Row]:
    """That checkpoints differ, and lie in the order of their steps."""
    steps = checkpoints(subject)
    held = {step: kept for step, files in steps.items() if (kept := tuple(path for path in files if is_weights(path)))}
    yield _distinct(subject, held)
    yield _ordered(subject, held)


def _distinct(subject: Subject, held: dict[int, tuple[str, ...]]) -> Row:
    """Steps whose sampled numbers are alike are compared in all of their tensors."""
    if len(held) < 2:
        return ask.WEIGHTS_TRAJECTORY.not_applicable("there are not two checkpoints to compare")
    places = tuple(subject.source.whole(files[0]) for files in held.values())[:8]
    chosen = list(held)[:: -(-len(held) // _MOST_COMPARED)]
    try:
        same = _same_numbers(subject, {step: held[step] for step in chosen})
    except UserError as error:
        return ask.WEIGHTS_TRAJECTORY.unknown(Grade.PRESENT, str(error), *places)
    if same:
        reason = "; ".join(f"{' and '.join(group[:4])} hold the same numbers in every tensor" for group in same[:6])
        return ask.WEIGHTS_TRAJECTORY.no(Grade.PRESENT, reason, *places)
    looked = f"{len(chosen)} of " * (len(chosen) < len(held)) + amount(len(held), "checkpoint")
    return ask.WEIGHTS_TRAJECTORY.yes(Grade.CHECKED, f"{looked}, no two with the same numbers", *places)


def _same_numbers(subject: Subject, held: dict[int, tuple[str, ...]]) -> list[list[str]]:
    """Groups of states, steps or the final weights, that are one. The last step may be the final weights.

    Raises UserError where a file cannot be read.
    """
    source, last = subject.source, f"step {max(held)}"
    states = {f"step {step}": _tensors(subject, files) for step, files in held.items()}
    if subject.weights.complete:
        states[_FINAL] = subject.weights.tensors
    alike = [list(states)]
    for most in (min(_MOST_MATRICES, source.most_samples // (len(held) + 1)), None):
        groups: dict[tuple[int, bytes], list[str]] = {}
        for number, group in enumerate(alike):
            for state in group:
                groups.setdefault((number, fingerprint(source, states[state], most)), []).append(state)
        alike = [group for group in groups.values() if len(group) > 1 and set(group) != {last, _FINAL}]
    return alike


def _ordered(subject: Subject, held: dict[int, tuple[str, ...]]) -> Row:
    """Training moves away from where it was: the weights most like a checkpoint's are those of a step next to it."""
    part = _trained_part(subject)
    if part == "lora":  # what is frozen is the same in all; the parent has no adapters
        held = {step: files for step, files in held.items() if _adapters(_tensors(subject, files))}
    if len(held) < 3:
        return ask.WEIGHTS_ORDER.not_applicable("there are not three checkpoints to put in order")
    chosen = list(held)[:: -(-len(held) // _MOST_CHECKPOINTS)]
    places = tuple(subject.source.whole(held[step][0]) for step in chosen)[:8]
    if part == "experts":
        return ask.WEIGHTS_ORDER.unknown(Grade.PRESENT, "only some experts were trained, and none is sampled", *places)
    try:
        tensors = [_tensors(subject, held[step]) for step in chosen]
        if part == "lora":
            tensors = [_adapters(each) for each in tensors]
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
    sampled = f"{amount(len(chosen), 'checkpoint')} by {amount(len(names), 'matrix', 'matrices')} of each, "
    sampled += f"{sum(map(len, vectors)):,} numbers"
    if astray:
        found = "; ".join(f"step {chosen[one]} lies nearest to step {chosen[other]}" for one, other in astray[:4])
        return ask.WEIGHTS_ORDER.no(Grade.CLAIMED, f"{found} and to neither neighbour: {sampled}", *places)
    return ask.WEIGHTS_ORDER.yes(Grade.CHECKED, f"each lies nearest to a neighbour: {sampled}", *places)


def _trained_part(subject: Subject) -> str:
    """Table of the recipe that says that a part of the weights was trained, or an empty string."""
    try:
        recipe = subject.source.json(_RECIPE) if _RECIPE in subject.source.sizes else {}
    except UserError:
        return ""
    return next((part for part in ("lora", "experts") if isinstance(recipe, dict) and recipe.get(part)), "")


def _adapters(tensors: Tensors) -> Tensors:
    return {name: place for name, place in tensors.items() if name.endswith((".lora_A", ".lora_B"))}


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


def fingerprint(source: Source, tensors: Tensors, most: int | None = None) -> bytes:
    """A hash of what tensors hold, whatever they and their files are called. Raises UserError.

    With `most`, of pieces of that many of them, spread evenly from the largest to the smallest.
    """
    ordered = sorted(tensors.values(), key=lambda each: (-each[1].size, each[1].dtype, each[1].shape, each[1].name))
    chosen = ordered if most is None else ordered[:: max(1, -(-len(ordered) // most))]
    held = sorted(
        f"{entry.dtype} {entry.shape} {_hash(source, file, entry, most is not None)}" for file, entry in chosen
    )
    return hashlib.sha256("\n".join(held).encode()).digest()


def _hash(source: Source, file: str, entry: Entry, sampled: bool) -> str:
    """SHA-256 of a tensor's bytes, or of its beginning, middle and end."""
    piece, digest, count = _PIECE if sampled else None, hashlib.sha256(), 0
    for raw in tensor_bytes(source.read, file, entry, piece):
        digest.update(raw)
        count += len(raw)
    if count != sum(end - begin for begin, end in entry.spans(piece)):
        raise UserError(f"{file}: {entry.name} is cut off")
    return digest.hexdigest()
