"""Completions of a run at its beginning, at quarters of it and at its end, for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clearseek.files import write_atomic
from clearseek.posttrain.questions import Questions
from clearseek.posttrain.rollouts import Rollouts

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Shares of a run whose completions are shown."""
PROBLEMS = 4
"""Problems shown of a round, each with as many different completions."""
_LONGEST = 400
"""Most characters of a completion that are shown."""


def write_samples(rounds: Sequence[Path], questions: Questions, to: Path) -> None:
    """Write ``completions.md``: some completions of the rounds at :data:`SHARES` of a run.

    Args:
        rounds: Files of the rounds' records, in order; those that are no longer there are left out.
        questions: The problems.
        to: The file.
    """
    chosen = dict.fromkeys(rounds[round(share * (len(rounds) - 1))] for share in SHARES)
    lines = ["# Completions", ""]
    for file in chosen:
        if file.is_file():
            rollouts = Rollouts.read(file)
            lines += [f"## Round {rounds.index(file)}: mean reward {float(rollouts.reward_N.mean()):.3f}", ""]
            lines += [*_round(rollouts, questions), ""]
    write_atomic(to, "\n".join(lines))


def _round(rollouts: Rollouts, questions: Questions) -> Iterable[str]:
    completions, seen = rollouts.completions(), dict[int, set[str]]()
    yield "| problem | completion | reward |"
    yield "|---|---|---|"
    for index, tokens, ended, reward in zip(
        rollouts.problem_N.tolist(), completions, rollouts.ended_N.tolist(), rollouts.reward_N.tolist(), strict=True
    ):
        texts = seen.setdefault(index, set())
        text = questions.text(tokens)
        if len(seen) > PROBLEMS or len(texts) >= PROBLEMS or text in texts:
            continue
        texts.add(text)
        shown = _plain(text) + ("" if ended else " …")
        yield f"| {_plain(questions.problems.train(index).prompt)} | {shown} | {reward:g} |"


def _plain(text: str) -> str:
    """Text as code in a cell of a table."""
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    visible = "".join(c if c.isprintable() and c not in "|`" else f"\\u{ord(c):04x}" for c in cut)
    return f"`{visible}`" if visible else "(nothing)"
