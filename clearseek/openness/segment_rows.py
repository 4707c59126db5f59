"""Rows of a segment that was trained again: the same bits, or on another kind of machine the same within drift."""

from __future__ import annotations

import json

import torch

from clearseek.errors import UserError
from clearseek.openness.drift import NUDGES, Outcome, distance, farthest, outcome
from clearseek.openness.evidence import Answer, Evidence, Grade, Row
from clearseek.openness.replay import Replay, Segment
from clearseek.train import checkpoint


def redone(name: str, title: str, answer: Answer, reason: str, *evidence: Evidence) -> Row:
    """A row of what was computed again: "yes" is E5."""
    grade = Grade.REEXECUTED if answer == "yes" else Grade.CLAIMED
    return Row(name, "impact", title, answer, grade, reason, evidence)


def compared(name: str, title: str, answer: Answer, reason: str, *evidence: Evidence) -> Row:
    """A row of bytes that were set beside other bytes: "yes" is E4."""
    grade = Grade.CHECKED if answer == "yes" else Grade.CLAIMED
    return Row(name, "impact", title, answer, grade, reason, evidence)


def transcript_line(step: int) -> Evidence:
    """Where a step is written; 0 is the header."""
    return Evidence("training/transcript.jsonl", f"line {step + 1}")


def segment_row(replay: Replay, segment: Segment) -> Row:
    """Train the steps of a segment again, and compare lines and state."""
    title = f"Steps {segment.begin + 1} to {segment.end}, trained again, give the same bits"
    name, release = f"verify.steps.{segment.begin + 1}-{segment.end}", replay.release
    try:
        lines, tensors = replay.train(segment)
        saved = checkpoint.load(checkpoint.find(release.checkpoints, segment.end))
        found = _first_difference(replay, segment, lines, tensors, saved)
        if found is not None and (replay.differs or replay.other_code):
            return _within_drift(replay, segment, outcome(lines, tensors["weights"]), saved, found[0])
    except UserError as error:
        return Row(name, "impact", title, "unknown", Grade.PRESENT, f"cannot be trained here: {error}")
    if found is not None:
        return redone(name, title, "no", *found)
    reason = f"{len(lines)} lines of the transcript and every tensor of the checkpoint"
    if replay.differs:
        reason += f", though this machine differs: {', '.join(replay.differs)}"
    return redone(name, title, "yes", reason, transcript_line(segment.end))


def _first_difference(
    replay: Replay, segment: Segment, lines: list[bytes], tensors: dict[str, dict[str, torch.Tensor]],
    saved: checkpoint.Checkpoint,
) -> tuple[str, Evidence] | None:  # fmt: skip
    """The first step and the first tensor that are not the published ones; None where all bits are."""
    tensor = _first_tensor(tensors, saved)
    after = "" if tensor is None else f"after step {segment.end} {' '.join(tensor)} is another than the checkpoint's"
    for step, line in enumerate(lines, segment.begin + 1):
        if line != replay.release.lines[step]:
            reason = _differing(step, line, replay.release.lines[step])
            return f"{reason}; {after or 'every tensor of the checkpoint is the same'}", transcript_line(step)
    if tensor is None:
        return None
    return after, Evidence(f"checkpoints/step-{segment.end:08d}/{tensor[0]}.safetensors")


def _first_tensor(tensors: dict[str, dict[str, torch.Tensor]], saved: checkpoint.Checkpoint) -> tuple[str, str] | None:
    """Group and name of the first tensor whose bits differ, by name."""
    for group, found in tensors.items():
        for name, value in sorted(found.items()):
            stated = saved.tensors.get(group, {}).get(name)
            if stated is None or not _same_bits(stated, value.cpu()):
                return group, name
    return None


def _within_drift(replay: Replay, segment: Segment, ours: Outcome, saved: checkpoint.Checkpoint, first: str) -> Row:
    """On another kind of machine: set the distance to the published run against what rounding does here."""
    steps = f"{segment.begin + 1} to {segment.end}"
    title = f"Steps {steps}, trained again on another kind of machine, end within honest drift"
    published = outcome(replay.release.lines[segment.begin + 1 : segment.end + 1], saved.tensors.get("weights", {}))
    others = []
    for size in NUDGES:
        lines, tensors = replay.train(segment, nudged=size)
        others.append(distance(ours, outcome(lines, tensors["weights"])))
    drift = farthest(others)
    away = distance(ours, published)
    name = f"verify.drift.{segment.begin + 1}-{segment.end}"
    differs = f"this machine differs: {', '.join(replay.differs)}" if replay.differs else ""
    if replay.other_code:
        differs += f"{' and ' * bool(differs)}this ClearSeek is not the release's: {replay.other_code}"
    reason = (
        f"bits are not to be expected, for {differs}; "
        f"first difference: {first}; the published run is {away.loss:.2g} nats a step and {away.weights:.3g} in its "
        f"weights away from ours, and runs changed in their last places {drift.loss:.2g} and {drift.weights:.3g}"
    )
    if away.within(drift):
        return Row(name, "impact", title, "yes", Grade.CHECKED, reason, (transcript_line(segment.end),))
    return redone(name, title, "no", f"more than rounding does: {reason}", transcript_line(segment.end))


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Type, shape and every bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def _differing(step: int, found: bytes, stated: bytes) -> str:
    """The first field in which two lines differ."""
    ours, theirs = json.loads(found), json.loads(stated)
    keys = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key) and key != "prev"]
    if not keys:
        return f"step {step}: the line before it is another"
    key = keys[0]
    return f"step {step}: {key} is {ours.get(key)!r:.80}, and the transcript says {theirs.get(key)!r:.80}"
