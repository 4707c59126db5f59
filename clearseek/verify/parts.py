"""Parts of a re-execution, for machines that do not talk to each other.

Segments between checkpoints need nothing of each other, so `n` machines train `n` parts of a run again, and each signs
what it found. Which segments a part has follows from the run and `n` alone: every machine makes the same division, and
every step is in exactly one part. What cannot be divided (levels 1 to 4, and the records of the whole run) the last
part does, which has the fewest steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clearseek.errors import UserError
from clearseek.verify.replay import Segment

MOST: Final = 10_000
"""Largest number of parts."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a re-execution: ``3/20``."""

    number: int
    """From 1."""
    of: int

    @property
    def last(self) -> bool:
        """Whether the part also does what cannot be divided."""
        return self.number == self.of

    def __str__(self) -> str:
        return f"{self.number} of {self.of}"


def parse_part(text: str) -> Part:
    """Parse ``3/20``. Raises UserError for anything else, or a number that is not among the parts."""
    found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text, re.ASCII)
    part = Part(int(found[1]), int(found[2])) if found else None
    if part is None or not 1 <= part.number <= part.of <= MOST:
        raise UserError(f"--part {text}: write the part's number and how many there are, such as 3/20 (1/20 to 20/20)")
    return part


def divide(segments: Sequence[Segment], count: int) -> tuple[tuple[Segment, ...], ...]:
    """Segments of each of `count` parts, in the run's order; parts are empty where there are fewer segments.

    The longest segment goes to the part with the fewest steps so far, of equals the first, and so on: the parts with
    most and with fewest steps are at most one segment apart (Graham, "Bounds on multiprocessing timing anomalies",
    1969: the longest takes at most 4/3 of the steps that it would in the best division).
    """
    steps, shares = [0] * count, [list[Segment]() for _ in range(count)]
    for segment in sorted(segments, key=lambda each: (each.begin - each.end, each.begin)):
        least = steps.index(min(steps))
        steps[least] += segment.steps
        shares[least].append(segment)
    order = sorted(range(count), key=lambda part: -steps[part])  # the last has other work to do
    return tuple(tuple(sorted(shares[part], key=lambda each: each.begin)) for part in order)
