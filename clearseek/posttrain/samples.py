"""Completions of a run at its beginning, at quarters of it and at its end, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from clearseek.files import write_atomic
from clearseek.posttrain.rollouts import Rollouts
from clearseek.problems.questions import Questions

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
    lines = ["# Completions", ""]
    for number, rollouts in chosen_rounds(rounds):
        lines += [f"## Round {number}: mean reward {float(rollouts.reward_N.mean()):.3f}", ""]
        lines += [*table_of(rollouts, questions), ""]
    write_atomic(to, "\n".join(lines))


def chosen_rounds(rounds: Sequence[Path]) -> Iterator[tuple[int, Rollouts]]:
    """Numbers and records of the rounds at :data:`SHARES` of a run, of those whose files are still there."""
    for number in rounds_shown(len(rounds)):
        if rounds[number].is_file():
            yield number, Rollouts.read(rounds[number])


def rounds_shown(count: int) -> list[int]:
    """Numbers of the rounds at :data:`SHARES` of a run of so many rounds, rising, each once."""
    return list(dict.fromkeys(round(share * (count - 1)) for share in SHARES))


class Shown(NamedTuple):
    """A completion that is shown to people."""

    prompt: str
    """The problem's short form."""
    text: str
    ended: bool
    reward: float


def shown(rollouts: Rollouts, questions: Questions) -> Iterator[Shown]:
    """Some completions of a round: of its first problems, different ones of each."""
    seen = dict[int, set[str]]()
    for index, tokens, ended, reward in zip(
        rollouts.problem_N.tolist(), rollouts.completions(), rollouts.ended_N.tolist(), rollouts.reward_N.tolist(),
        strict=True,
    ):  # fmt: skip
        texts, text = seen.setdefault(index, set()), questions.text(tokens)
        if len(seen) > PROBLEMS or len(texts) >= PROBLEMS or text in texts:
            continue
        texts.add(text)
        yield Shown(questions.problems.train(index).prompt, text, bool(ended), reward)


def table_of(rollouts: Rollouts, questions: Questions) -> Iterator[str]:
    """Lines of a table of :func:`shown`, in Markdown."""
    yield "| problem | completion | reward |"
    yield "|---|---|---|"
    for each in shown(rollouts, questions):
        yield f"| {_code(each.prompt)} | {_code(each.text)}{'' if each.ended else ' …'} | {each.reward:g} |"


def visible(text: str, longest: int = _LONGEST) -> str:
    """Text on one line, cut after so many characters; what does not print, and what ends a cell or code, as numbers."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    return "".join(c if c.isprintable() and c not in "|`" else f"\\u{ord(c):04x}" for c in cut)


def _code(text: str) -> str:
    """Text as code in a cell of a table."""
    return f"`{visible(text)}`" if text else "(nothing)"
