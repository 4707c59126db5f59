"""What changes with the step, as pure functions of the step.

DeepSeek-V3 (report, section 4.2) warms the learning rate up over 2K steps, holds it for 10T of its 14.8T tokens, lets
it fall along a cosine to a tenth over 4.3T tokens, and ends with two constant stretches. Here such a schedule is a list
of phases in shares of the whole run, so that one recipe scales to any length; and because the multiplier depends on the
step alone, a resumed run continues on exactly the same curve. Steps count from 1 to `steps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from clearseek.config import Phase

T = TypeVar("T")


def multiplier(phases: Sequence[Phase], step: int, steps: int) -> float:
    """Multiple of the peak learning rate to use in a step.

    A phase covers the steps whose share ``step / steps`` lies above the end of the phase before and not above its own
    ``until``. It moves from where the phase before ended (the first one from 0) and reaches ``to`` in its last step, so
    the first step of a warm-up is already above 0.

    Args:
        phases: In order, the last with ``until = 1`` (`OptimizerConfig` checks it).
        step: The step about to be taken, 1 to `steps`.
        steps: Steps of the whole run.
    """
    share = _share(step, steps)
    start, value = 0.0, 0.0
    for phase in phases:
        if share <= phase.until:
            return _within(phase, value, (share - start) / (phase.until - start))
        start, value = phase.until, phase.to
    raise AssertionError(f"the phases end at {start}, before the run does")


def value_at(step: int, steps: int, until: float, before: T, after: T) -> T:
    """`before` in the steps up to the share `until` of the run, `after` in the rest.

    The report's other two schedules have this shape: the router bias's speed and the multi-token-prediction weight.
    """
    return before if _share(step, steps) <= until else after


def _share(step: int, steps: int) -> float:
    assert 1 <= step <= steps, f"step {step} is outside 1..{steps}"
    return step / steps


def _within(phase: Phase, start: float, progress: float) -> float:
    """Multiplier after a share `progress` (above 0, at most 1) of a phase that starts at `start`."""
    if phase.shape == "constant" or progress == 1.0:
        return phase.to
    if phase.shape == "linear":
        return start + (phase.to - start) * progress
    return phase.to + (start - phase.to) * 0.5 * (1.0 + math.cos(math.pi * progress))
