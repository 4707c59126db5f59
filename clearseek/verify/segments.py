"""Rows of segments trained again: the same bits, or the same within drift where other bits are expected.

Other bits are expected of another kind of machine, of other code, and of one process where the run merged the gradients
of experts over several.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Question, Row
from clearseek.posttrain.lessons import DIVERGENCE
from clearseek.posttrain.solved import PASS
from clearseek.reading.evidence import Evidence, amount
from clearseek.train.checkpoints import checkpoint
from clearseek.train.record import LOSS, StepRecord, encode
from clearseek.train.transcript import hasher
from clearseek.verify import children
from clearseek.verify.drift import NUDGES, Distance, Outcome, distance, farthest, outcome
from clearseek.verify.replay import Release, Replay, Segment
from clearseek.verify.rows import attempted


def transcript_line(step: int) -> Evidence:
    """Line of a step in the transcript; 0 is the header."""
    return Evidence("training/transcript.jsonl", f"line {step + 1}")


def segment_row(replay: Replay, segment: Segment) -> Row:
    """Row of a segment trained again, its lines and state compared with the release's."""
    question = ask.VERIFY_STEPS.of_steps(segment.begin + 1, segment.end)
    place = transcript_line(segment.end - replay.release.begin)
    return attempted(question, lambda: _segment(question, replay, segment, place), place)


def _segment(question: Question, replay: Replay, segment: Segment, place: Evidence) -> Row:
    release = replay.release
    saved = checkpoint.load(checkpoint.find(release.checkpoints, segment.end))
    forged = _other_hashes(release, segment, saved)
    if forged:
        return question.no(Grade.CLAIMED, forged, place)
    records, tensors = replay.train(segment)
    found = _first_difference(replay, segment, records, tensors, saved)
    if found is not None and replay.other:
        return _elsewhere(replay, segment, records, tensors, saved, found[0])
    if found is not None:
        return question.no(Grade.CLAIMED, *found)
    reason = f"{amount(len(records), 'line')} of the transcript and every tensor of the checkpoint"
    if replay.differs:
        reason += f", though this machine differs: {', '.join(replay.differs)}"
    return question.yes(Grade.REEXECUTED, reason, place)


def _other_hashes(release: Release, segment: Segment, saved: checkpoint.Checkpoint) -> str:
    """Difference of the checkpoint at the segment's end from the transcript's hashes, or an empty string."""
    groups = {"weights": ("weights", "buffers"), "optimizer": ("optimizer",)}
    record = release.record(segment.end)
    for group, parts in groups.items():
        stated = getattr(record, f"{group}_sha256")
        found = hasher(release.transcript.version)(
            [pair for part in parts for pair in saved.tensors.get(part, {}).items()]
        )
        if stated is not None and stated != found:
            return f"the {group} after step {segment.end} are not those whose hash the transcript has"
    return ""


def _first_difference(
    replay: Replay, segment: Segment, records: list[StepRecord], tensors: dict[str, dict[str, torch.Tensor]],
    saved: checkpoint.Checkpoint,
) -> tuple[str, Evidence] | None:  # fmt: skip
    """First step and first tensor that differ from the published ones, with the place; None where all bits agree."""
    tensor = _first_tensor(tensors, saved)
    after = "" if tensor is None else f"after step {segment.end} {' '.join(tensor)} differs from the checkpoint's"
    for record in records:
        stated = replay.release.record(record.step)
        if replay.release.transcript.version == 1:  # its hashes are of another kind, and checked apart
            record = replace(record, weights_sha256=None, optimizer_sha256=None)
            stated = replace(stated, weights_sha256=None, optimizer_sha256=None)
        if record != stated:
            reason = f"{_differing(record, stated)}; {after or 'every tensor of the checkpoint is the same'}"
            return reason, transcript_line(record.step - replay.release.begin)
    if tensor is None:
        return None
    return after, Evidence(f"checkpoints/step-{segment.end:08d}/", " ".join(tensor))


def _first_tensor(tensors: dict[str, dict[str, torch.Tensor]], saved: checkpoint.Checkpoint) -> tuple[str, str] | None:
    """Group and name of the first tensor, by name, whose bits differ or that only one side has; None without one."""
    for group in sorted(tensors.keys() | saved.tensors.keys()):
        ours, theirs = tensors.get(group, {}), saved.tensors.get(group, {})
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in ours or name not in theirs or not _same_bits(theirs[name], ours[name].cpu()):
                return group, name
    return None


def _elsewhere(
    replay: Replay, segment: Segment, records: list[StepRecord], tensors: dict[str, dict[str, torch.Tensor]],
    saved: checkpoint.Checkpoint, first: str,
) -> Row:  # fmt: skip
    """Row of a segment with other bits where other bits are expected.

    Where a model learns from what it writes, one draw that rounds the other way changes all that comes after it. So it
    learns from the published completions, whose draws :mod:`clearseek.verify.rollouts` checks one by one.
    """
    recipe, release = replay.release.recipe, replay.release
    place = transcript_line(segment.end - release.begin)
    stated = [release.record(step) for step in range(segment.begin + 1, segment.end + 1)]
    if not children.writes(recipe):
        return _within_drift(replay, segment, outcome(records, tensors), stated, saved, first)
    if wrong := _other_share(records, stated):
        return ask.VERIFY_DRIFT.of_steps(segment.begin + 1, segment.end).no(Grade.CLAIMED, wrong, place)
    records, tensors = replay.train(segment, given=True)
    return _within_drift(replay, segment, outcome(_losses(records), tensors), _losses(stated), saved, first)


def _other_share(records: list[StepRecord], stated: list[StepRecord]) -> str:
    """A published share of solved problems that lies outside the interval of ours, in words; else empty."""
    for ours, theirs in zip(records, stated, strict=True):
        for name in (PASS, f"{PASS}_before"):
            if name in ours.scalars:
                low, high = (ours.scalars[name.replace(PASS, f"{PASS}_{end}")] for end in ("low", "high"))
                if not low <= theirs.scalars.get(name, -1.0) <= high:
                    said = theirs.scalars.get(name)
                    return f"step {ours.step}: {name} is {ours.scalars[name]:.4f}, and the transcript says {said}"
    return ""


def _losses(records: list[StepRecord]) -> list[StepRecord]:
    """Records without shares of tokens and of problems, which jump as single ones do."""
    kept = (LOSS, DIVERGENCE, "reward")
    return [replace(each, scalars={k: v for k, v in each.scalars.items() if k in kept}) for each in records]


def _within_drift(
    replay: Replay, segment: Segment, ours: Outcome, stated: list[StepRecord], saved: checkpoint.Checkpoint, first: str
) -> Row:
    """Row of a segment with other bits: the distance to the published run against the drift here."""
    question = ask.VERIFY_DRIFT.of_steps(segment.begin + 1, segment.end)
    place = transcript_line(segment.end - replay.release.begin)
    published = outcome(stated, saved.tensors)
    away = distance(ours, published)
    if away.groups.get("weights") == 0 and any(away.groups.values()):
        return question.no(Grade.CLAIMED, f"the weights are ours, and the rest of the state is not: {first}", place)
    drift = farthest([distance(ours, _nudged(replay, segment, size)) for size in NUDGES])
    reason = (
        f"equal bits are not expected, for {replay.other}; first difference: {first}; the published run is "
        f"{_shown(away)} away from ours, and runs changed in their last places {_shown(drift)}"
    )
    if away.within(drift, _slack(replay, ours)):
        return question.yes(Grade.CHECKED, reason, place)
    return question.no(Grade.CLAIMED, f"more than rounding does: {reason}", place)


def _nudged(replay: Replay, segment: Segment, size: float) -> Outcome:
    """Outcome from weights that differ in their last places."""
    given = children.writes(replay.release.recipe)
    records, tensors = replay.train(segment, size, given)
    return outcome(_losses(records) if given else records, tensors)


def _slack(replay: Replay, ours: Outcome) -> dict[str, float]:
    """Distance of balance biases, which move by whole steps, when each expert's load rounds the other way."""
    speed = replay.release.recipe.train.bias_update_speed
    count = sum(value.numel() for value in ours.tensors.get("buffers", {}).values())
    return {"buffers": 2 * speed * count**0.5}


def _shown(away: Distance) -> str:
    groups = ", ".join(f"{value:.3g} in its {group}" for group, value in sorted(away.groups.items(), reverse=True))
    return f"{away.loss:.2g} nats a step, {away.norm:.2g} in the gradient's norm and {groups}"


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def _differing(found: StepRecord, stated: StepRecord) -> str:
    """First field in which two records differ, in words."""
    ours, theirs = ({**line.pop("scalars"), **line} for line in (encode(found), encode(stated)))  # no name is in both
    key = next(key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key))
    return f"step {found.step}: {key} is {ours.get(key)!r:.80}, and the transcript says {theirs.get(key)!r:.80}"
