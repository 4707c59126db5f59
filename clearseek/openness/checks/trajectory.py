"""Checkpoints along the way: are they there, are they different, do they come with the optimiser's state.

Published checkpoints of a training run let others study it, and verify it. It has happened that most branches of a
release held the final weights under other names, which nothing but their hashes shows. So steps must differ, and the
distance between weights must grow with the distance between steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.openness.evidence import Grade, Row
from clearseek.openness.subject import Subject

_STEP = re.compile(r"(?:^|/)(?:step|checkpoint|ckpt|iter)[-_]?(\d+)(?:/|$)|(?:^|/)(\d{3,})/")


def rows(subject: Subject) -> Iterator[Row]:
    """Intermediate weights, optimiser state, and that checkpoints differ."""
    steps = checkpoints(subject)
    yield _intermediate(subject, steps)
    yield _optimizer(subject, steps)
    yield _distinct(subject, steps)


def checkpoints(subject: Subject) -> dict[int, tuple[str, ...]]:
    """Step -> weight files, of the folders that are named after a step."""
    found: dict[int, list[str]] = {}
    for path in subject.source.sizes:
        folder, _, base = path.rpartition("/")
        match = _STEP.search(f"{folder}/")
        if match and base.endswith(".safetensors"):
            found.setdefault(int(match[1] or match[2]), []).append(path)
    return {step: tuple(found[step]) for step in sorted(found)}


def _weights(files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in files if not re.search(r"optim|buffers|rng|scheduler", path.rpartition("/")[2]))


def _intermediate(subject: Subject, steps: dict[int, tuple[str, ...]]) -> Row:
    title, name = "Checkpoints from during training are published", "weights.intermediate"
    held = {step: _weights(files) for step, files in steps.items() if _weights(files)}
    if held:
        places = tuple(subject.source.whole(files[0]) for files in held.values())[:6]
        listed = ", ".join(map(str, list(held)[:8])) + (", …" if len(held) > 8 else "")
        return Row(name, "definition", title, "yes", Grade.PRESENT, f"{len(held)}: steps {listed}", places)
    return Row(name, "definition", title, "no", Grade.ABSENT, "no folder of one here")


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
