"""Published completions checked: who drew them, from what, and what they were rewarded with.

A run that learns from its own completions publishes them, a file a round. Of every file: the transcript states its
hash; problems, prompts and seeds are functions of recipe and round, and are compared; rewards are given again. And of
rounds whose weights are here, of the parent or a checkpoint, every draw is recomputed by one pass
(:mod:`clearseek.verify.forced`), which costs less than to write the completions again, and does not need the machine to
have the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.posttrain.grpo import PolicyOptimisation
from clearseek.posttrain.rollouts import Rollouts, seed_of
from clearseek.reading.evidence import Evidence, amount
from clearseek.train import checkpoint
from clearseek.verify.children import ROLLOUTS, published_round, round_file
from clearseek.verify.forced import Judged, check_draws
from clearseek.verify.replay import Replay
from clearseek.verify.rows import attempted

_FILE = re.compile(r"round-(\d{8})\.safetensors")
DECIDED = 0.999
"""Share of draws that rounding must leave decided for the record to count as made again."""


def rollouts_row(replay: Replay) -> Row:
    """Row of a run's published completions."""
    place = Evidence(f"training/{ROLLOUTS}/")
    return attempted(ask.VERIFY_ROLLOUTS, lambda: _rollouts(replay, place), place)


def _rollouts(replay: Replay, place: Evidence) -> Row:
    release, question = replay.release, ask.VERIFY_ROLLOUTS
    folder = release.run.root / ROLLOUTS
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [int(match[1]) for name in names if (match := _FILE.fullmatch(name))]
    strange = [number for number in found if number not in release.stated_rounds]
    if strange:
        return question.no(Grade.CLAIMED, f"there was no round {strange[0]} by the transcript", place)
    if not found:
        return question.unknown(Grade.ABSENT, "the completions are not in the release", place)
    task = replay.at_begin()
    passed, judged = 0, Judged()
    for number in found:
        rollouts = published_round(release.run, number, release.stated_rounds[number])
        if wrong := _not_its_address(task, number, rollouts):
            return question.no(Grade.CLAIMED, f"round {number}: {wrong}", _file(replay, number))
        step = number * task.grpo.updates
        if step in release.steps and (step > release.begin or checkpoint.steps(replay.run.parent)):
            judged_here = check_draws(replay.at(step).model, rollouts, task.drawing)
            if judged_here.wrong:
                more = f", and {len(judged_here.wrong) - 1} more" if len(judged_here.wrong) > 1 else ""
                reason = f"round {number}: {judged_here.wrong[0]}{more}"
                return question.no(Grade.CLAIMED, reason, _file(replay, number))
            judged.add(judged_here)
            passed += 1
    return _found(release.stated_rounds.keys(), found, passed, judged, place)
