"""Checkpoints along the way: here, or linked; different files; with the optimiser's state.

Published checkpoints of a training run let others study it, and verify it. They lie in folders that are named after
steps, in branches of the repository, or in a place that a card links to. It has happened that most branches of a
release held the final weights under other names: so the hashes of steps must differ from each other's and from those of
the final weights, the last step's excepted. Hashes show that files are alike, and not that the numbers in others differ
(:mod:`clearseek.verify.trajectory` compares those of ClearSeek's releases).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from clearseek.audit import questions as ask
from clearseek.audit.checks.intermediate import offers
from clearseek.audit.evidence import Grade, Row
from clearseek.audit.hub import STEP_REVISION
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.subject import Subject, is_weights
from clearseek.sysfiles import system_file

_STEP = re.compile(r"(?:^|/)(?:step|checkpoint|ckpt|iter)[-_]?(\d+)(?:/|$)|(?:^|/)(\d{3,})/")


@dataclass(frozen=True, slots=True)
class State:
    """Weights of a step: a folder, or a revision of the repository, that is named after it."""

    name: str
    stage: str
    """The text before the step: states of one stage are of one run."""
    step: int
    weights: frozenset[str]
    """Hashes of its weight files."""
    place: Evidence


def rows(subject: Subject) -> Iterator[Row]:
    """Intermediate weights, optimiser state, and where there are several checkpoints, that their files differ."""
    steps = checkpoints(subject)
    folders = tuple(_folders(subject, steps))
    states = folders or tuple(_revisions(subject))
    note = "" if folders else str(getattr(subject.source, "revisions_note", ""))
    yield _intermediate(subject, states, note)
    state = [path for files in steps.values() for path in files if "optim" in path.rpartition("/")[2]]
    if state:
        places = map(subject.source.whole, state[:6])
        yield ask.WEIGHTS_OPTIMIZER.yes(Grade.PRESENT, f"with {amount(len(state), 'checkpoint')}", *places)
    else:
        reason = "no folder of a checkpoint holds a file of the optimiser's state"
        yield ask.WEIGHTS_OPTIMIZER.no(Grade.ABSENT, reason)
    if len(states) > 1 or note:
        yield _distinct(subject, states, note)


def checkpoints(subject: Subject) -> dict[int, tuple[str, ...]]:
    """Step -> safetensors files, of the folders that are named after a step."""
    found: dict[int, list[str]] = {}
    for path in subject.source.sizes:
        folder, _, base = path.rpartition("/")
        match = _STEP.search(f"{folder}/")
        if match and base.endswith(".safetensors") and not system_file(base):
            found.setdefault(int(match[1] or match[2]), []).append(path)
    return {step: tuple(found[step]) for step in sorted(found)}


def _folders(subject: Subject, steps: dict[int, tuple[str, ...]]) -> Iterator[State]:
    for step, files in steps.items():
        if held := {path: subject.source.sha256(path) for path in files if is_weights(path)}:
            yield State(f"step {step}", "", step, _hashes(held), subject.source.whole(next(iter(held))))


def _revisions(subject: Subject) -> list[State]:
    """Branches and tags named after a step that hold weights, in the order of their steps."""
    found: list[State] = []
    for name, files in subject.source.revisions.items():
        if (match := STEP_REVISION.search(name)) and (weights := _hashes(files)):
            step, stage = int(match["step"] or match["number"]), name[: match.start()].strip("-_/.")
            found.append(State(name, stage, step, weights, Evidence("./", f"revision {name}")))
    return sorted(found, key=lambda each: (each.stage, each.step, each.name))


def _hashes(files: dict[str, str]) -> frozenset[str]:
    """Hashes of the weights; where there are adapters, of these alone: the weights below them stay the same."""
    held = {path: digest for path, digest in files.items() if digest and is_weights(path)}
    return frozenset(digest for path, digest in held.items() if "adapter" in path) or frozenset(held.values())


def _intermediate(subject: Subject, states: tuple[State, ...], note: str) -> Row:
    after = f"; {note}" if note else ""
    if states:
        listed = ", ".join(each.name for each in states[:8]) + (", …" if len(states) > 8 else "")
        reason = f"{amount(len(states), 'checkpoint')}, named after their steps: {listed}{after}"
        return ask.WEIGHTS_INTERMEDIATE.yes(Grade.PRESENT, reason, *(each.place for each in states[:8]))
    places, linked = offers(subject)
    if places:
        shown = ", ".join(list(dict.fromkeys(place.quote for place in places))[:4])
        reason = f"not here; {'a document links to them' if linked else 'a document says so'}: {shown}{after}"
        return ask.WEIGHTS_INTERMEDIATE.yes(Grade.LINKED if linked else Grade.CLAIMED, reason, *places[:6])
    if note:
        return ask.WEIGHTS_INTERMEDIATE.unknown(Grade.ABSENT, f"no checkpoint of an earlier step is here{after}")
    reason = "no checkpoint of an earlier step is here, and no document offers any"
    return ask.WEIGHTS_INTERMEDIATE.no(Grade.ABSENT, reason)


def _distinct(subject: Subject, states: tuple[State, ...], note: str) -> Row:
    """States of different steps hold different files, and none but the last of a stage holds the final weights'."""
    same, after = _copies(subject, states), f"; {note}" if note else ""
    places = tuple(each.place for each in states if not same or each.name in same)[:8]
    if same:
        shown = "; ".join(f"{state} holds the files of {other}" for state, other in list(same.items())[:6])
        return ask.WEIGHTS_TRAJECTORY.no(Grade.PRESENT, f"{len(same)} of {len(states)}: {shown}{after}", *places)
    if getattr(subject.source, "revisions_failed", False) or not states:
        return ask.WEIGHTS_TRAJECTORY.unknown(Grade.ABSENT, note, *places)
    if not all(each.weights for each in states):
        return ask.WEIGHTS_TRAJECTORY.unknown(Grade.PRESENT, "the checkpoints were not hashed (--no-hash)", *places)
    reason = f"{amount(len(states), 'checkpoint')}, no two with the same weight files, by their hashes; "
    reason += f"their numbers were not compared{after}"
    return ask.WEIGHTS_TRAJECTORY.yes(Grade.PRESENT, reason, *places)


def _copies(subject: Subject, states: tuple[State, ...]) -> dict[str, str]:
    """State -> what it is a copy of."""
    final = _hashes({path: digest for path, digest in subject.source.hashes.items() if "/" not in path})
    first = {each.stage: each.step for each in reversed(states)}  # sorted by stage and step
    last = {each.stage: each.step for each in states}
    same: dict[str, str] = {}
    seen: dict[frozenset[str], State] = {}
    for each in (each for each in states if each.weights):
        if each.step != last[each.stage] and final and (each.weights <= final or final <= each.weights):
            same[each.name] = "the final weights"
        twin = seen.setdefault(each.weights, each)
        pairs = ((twin, each), (each, twin)) if twin.stage != each.stage else ()
        passed_on = any(one.step == last[one.stage] and other.step == first[other.stage] for one, other in pairs)
        if twin.step != each.step and not passed_on:  # of one step they are one checkpoint under two names
            same.setdefault(each.name, twin.name)
    return same
